"""Prometheus metrics (ports.Telemetry). Each label value comes from config or an Enum.

Children are made once and kept: looking a child up costs four times what counting does.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cache
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.model import BudgetClass, LinkSource, StageTimes

_STAGE_BUCKETS = (
    0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30,
)  # fmt: skip
_REQUEST_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)

_STAGES = tuple((stage,) for stage in StageTimes._fields)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("gateway_build", "The running version", registry=registry).info(
            {"version": __version__}
        )
        self._requests = Counter(
            "gateway_requests_total",
            "Answers by operation, HTTP status and, for refusals, our error code",
            ["operation", "status", "error_code"],
            registry=registry,
        )
        self._request_seconds = _Histogram(
            "gateway_request_duration_seconds",
            "From the request's headers to its answer",
            (),
            registry=registry,
            buckets=_REQUEST_BUCKETS,
        )
        self._stages = _Histogram(
            "gateway_stage_duration_seconds",
            "Time in each stage of requests that got their link",
            ("stage",),
            registry=registry,
            buckets=_STAGE_BUCKETS,
        )
        self._identifications = Counter(
            "gateway_identifications_total",
            "Tokens judged, by issuer and outcome",
            ["issuer", "outcome"],
            registry=registry,
        )
        self._links = Counter(
            "gateway_links_total", "Links handed out by source", ["source"], registry=registry
        )
        self._upstream_seconds = _Histogram(
            "gateway_upstream_duration_seconds",
            "Calls to the cloud by account and outcome",
            ("account", "outcome"),
            registry=registry,
            buckets=_REQUEST_BUCKETS,
        )
        self._logins = Counter(
            "gateway_service_logins_total",
            "Logins to the cloud's IAM by account and outcome",
            ["account", "outcome"],
            registry=registry,
        )
        self._credential_expires = Gauge(
            "gateway_service_credential_expires_timestamp_seconds",
            "When the account's service token ends",
            ["account"],
            registry=registry,
        )
        self._key_refreshes = Counter(
            "gateway_key_refreshes_total",
            "Loads of an issuer's keys by outcome",
            ["issuer", "outcome"],
            registry=registry,
        )
        self._policy_reloads = Counter(
            "gateway_policy_reloads_total",
            "Loads of the policy by outcome",
            ["outcome"],
            registry=registry,
        )
        self._policy_rules = Gauge(
            "gateway_policy_rules", "Grants and denials in force", registry=registry
        )
        self._budget_wait = _Histogram(
            "gateway_budget_wait_seconds",
            "How long calls waited for a slot of the account's budget",
            ("account", "budget"),
            registry=registry,
            buckets=_REQUEST_BUCKETS,
        )
        self._budget_refusals = Counter(
            "gateway_budget_refusals_total",
            "Calls refused because their slot would have come too late",
            ["account", "budget"],
            registry=registry,
        )
        self._budget_slots_lost = Counter(
            "gateway_budget_slots_lost_total",
            "Slots that came too late, or into a pause, to be used",
            ["account", "budget"],
            registry=registry,
        )
        self._breaker_opened = Counter(
            "gateway_breaker_opened_total",
            "Times that an account's calls were suspended",
            ["account"],
            registry=registry,
        )
        self._link_renewals = Counter(
            "gateway_link_renewals_total",
            "Early renewals of links by outcome",
            ["account", "outcome"],
            registry=registry,
        )
        self._inventory_polls = Counter(
            "gateway_inventory_polls_total",
            "Looks at which servers there are, by outcome",
            ["account", "outcome"],
            registry=registry,
        )
        self._store_available = Gauge(
            "gateway_store_available", "1 while Redis answers", registry=registry
        )
        self._task_restarts = Counter(
            "gateway_task_restarts_total",
            "Background tasks that died and were started again",
            ["task"],
            registry=registry,
        )
        self._log_lines_sampled_out = Counter(
            "gateway_log_lines_sampled_out_total",
            "Request lines that log.hits_sampled left out",
            registry=registry,
        )
        self._link_children = {source: self._links.labels(source.value) for source in LinkSource}
        self._gauges: dict[str, Gauge] = {}
        self._request_child = cache(self._requests.labels)
        self._identified_child = cache(self._identifications.labels)

    def request_done(
        self, operation: str, status: int, error_code: str, seconds: float, trace_id: str = ""
    ) -> None:
        self._request_child(operation, str(status), error_code).inc()
        self._request_seconds.observe((), seconds, trace_id)

    def identified(self, issuer: str, outcome: str) -> None:
        self._identified_child(issuer, outcome).inc()

    def link_served(self, source: LinkSource, times: StageTimes) -> None:
        self._link_children[source].inc()
        for stage, seconds in zip(_STAGES, times, strict=True):
            self._stages.observe(stage, seconds)

    def upstream_call(self, account: str, outcome: str, seconds: float) -> None:
        self._upstream_seconds.observe((account, outcome), seconds)

    def service_login(self, account: str, outcome: str) -> None:
        self._logins.labels(account, outcome).inc()

    def service_credential_expires(self, account: str, at: float) -> None:
        self._credential_expires.labels(account).set(at)

    def keys_refreshed(self, issuer: str, outcome: str) -> None:
        self._key_refreshes.labels(issuer, outcome).inc()

    def policy_reloaded(self, outcome: str, rules: int) -> None:
        self._policy_reloads.labels(outcome).inc()
        if outcome == "ok":
            self._policy_rules.set(rules)

    def budget_wait(self, account: str, budget: BudgetClass, seconds: float) -> None:
        self._budget_wait.observe((account, budget.value), seconds)

    def budget_refused(self, account: str, budget: BudgetClass) -> None:
        self._budget_refusals.labels(account, budget.value).inc()

    def budget_slot_lost(self, account: str, budget: BudgetClass) -> None:
        self._budget_slots_lost.labels(account, budget.value).inc()

    def breaker_opened(self, account: str) -> None:
        self._breaker_opened.labels(account).inc()

    def link_renewed(self, account: str, outcome: str) -> None:
        self._link_renewals.labels(account, outcome).inc()

    def inventory_polled(self, account: str, outcome: str) -> None:
        self._inventory_polls.labels(account, outcome).inc()

    def store_available(self, *, available: bool) -> None:
        self._store_available.set(available)

    def task_restarted(self, task: str) -> None:
        self._task_restarts.labels(task).inc()

    def log_line_sampled_out(self) -> None:
        self._log_lines_sampled_out.inc()

    def gauge(self, name: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """Register a gauge that is read at each scrape; once for each set of labels."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = Gauge(name, text, list(labels), registry=self.registry)
            self._gauges[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, in the format that the scraper asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Histogram(Collector):
    """A histogram for what happens at every request: the library's costs four times as much."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        *,
        registry: CollectorRegistry,
        buckets: tuple[float, ...],
    ) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._buckets = buckets
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[tuple[str, ...], dict[int, Exemplar]] = {}
        if not labels:
            self._begin(())
        registry.register(self)

    def observe(self, values: tuple[str, ...], seconds: float, trace_id: str = "") -> None:
        """Count one; `values` are those of the labels, and the trace is one to be looked up."""
        counts = self._counts.get(values)
        if counts is None:
            counts = self._begin(values)
        bucket = bisect_left(self._buckets, seconds)
        counts[bucket] += 1
        self._sums[values] += seconds
        if trace_id:
            self._exemplars[values][bucket] = Exemplar({"trace_id": trace_id}, seconds)

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [*map(floatToGoString, self._buckets), "+Inf"]
        for values, counts in self._counts.items():
            exemplars = self._exemplars[values]
            cumulated = [
                (bound, count, exemplars[i]) if i in exemplars else (bound, count)
                for i, (bound, count) in enumerate(zip(bounds, accumulate(counts), strict=True))
            ]
            family.add_metric(values, cumulated, sum_value=self._sums[values])
        yield family

    def _begin(self, values: tuple[str, ...]) -> list[int]:
        self._sums[values], self._exemplars[values] = 0.0, {}
        counts = self._counts[values] = [0] * (len(self._buckets) + 1)
        return counts
