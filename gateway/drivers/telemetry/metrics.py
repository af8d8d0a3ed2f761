"""Implements the port `Telemetry` with the Prometheus metrics of metrics_contract.py."""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from itertools import product

from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gateway import __version__
from gateway.domain.errors import Rejection
from gateway.domain.model import PERMISSIONS, BudgetClass, LinkSource, StageTimes
from gateway.drivers.telemetry.hit_counts import SummedHitCounts
from gateway.drivers.telemetry.metric_family import MetricKind
from gateway.drivers.telemetry.metric_types import LabeledCounter, LabeledHistogram
from gateway.drivers.telemetry.metrics_contract import (
    BY_NAME,
    METRIC_FAMILIES,
    UPSTREAM_OUTCOMES,
)

_OTHER_TEAM = "other"


class Metrics:
    def __init__(self, teams: Mapping[str, str] | None = None) -> None:
        """Create the metrics; `teams` maps a group to a team, and the first match counts a link."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("gateway_build", "The running version", registry=registry).info(
            {"version": __version__}
        )
        self._teams = tuple((teams or {}).items())
        self._gauges: dict[str, Gauge] = {}
        counters: dict[str, LabeledCounter] = {}
        histograms: dict[str, LabeledHistogram] = {}
        for family in METRIC_FAMILIES:
            name, labels = family.name, tuple(family.labels)
            match family.kind:
                case MetricKind.COUNTER:
                    counters[name] = LabeledCounter(name, family.text, labels, registry=registry)
                case MetricKind.HISTOGRAM:
                    histograms[name] = LabeledHistogram(
                        name, family.text, labels, registry=registry, buckets=family.buckets
                    )
                case MetricKind.GAUGE:
                    self._gauges[name] = Gauge(name, family.text, labels, registry=registry)
        self._counters = counters
        self._requests = counters["gateway_requests_total"]
        self._request_seconds = histograms["gateway_request_duration_seconds"]
        stages = histograms["gateway_stage_duration_seconds"]
        self._observe_stages = tuple(stages.observer((stage,)) for stage in StageTimes._fields)
        self._stages = tuple((stages, (stage,)) for stage in StageTimes._fields)
        self._hit_counts: dict[tuple[str, ...], SummedHitCounts] = {}
        self._identifications = counters["gateway_identifications_total"]
        self._decisions = counters["gateway_decisions_total"]
        self._links = counters["gateway_links_total"]
        self._team_links = counters["gateway_team_links_total"]
        self._upstream_seconds = histograms["gateway_upstream_duration_seconds"]
        self._budget_wait = histograms["gateway_budget_wait_seconds"]
        self._store_seconds = histograms["gateway_store_duration_seconds"]
        self._audit_commits = histograms["gateway_audit_commit_duration_seconds"]
        self._loop_lag = histograms["gateway_loop_lag_seconds"]

    def request_done(
        self,
        response: str,
        operation: str,
        status: int,
        error_code: str,
        seconds: float,
        trace_id: str = "",
    ) -> None:
        self._requests.inc((operation, _status_text(status), error_code))
        self._request_seconds.observe((response,), seconds, trace_id)

    def identified(self, issuer: str, outcome: str) -> None:
        self._identifications.inc((issuer, outcome))

    def decided(self, permission: str, *, allowed: bool) -> None:
        self._decisions.inc((permission, "allowed" if allowed else "denied"))

    def link_served(
        self, account: str, groups: Collection[str], source: LinkSource, times: StageTimes
    ) -> None:
        self._links.inc((account, source.value))
        for stage, observe in enumerate(self._observe_stages):
            observe(times[stage])
        if self._teams:
            self._team_links.inc((self._team(groups),))

    def _team(self, groups: Collection[str]) -> str:
        return next((team for group, team in self._teams if group in groups), _OTHER_TEAM)

    def hit_counts(
        self, issuer: str, permission: str, operation: str, account: str, groups: Collection[str]
    ) -> SummedHitCounts:
        team = self._team(groups) if self._teams else ""
        key = issuer, permission, operation, account, team
        counts = self._hit_counts.get(key)
        if counts is None:
            at_end = [
                (self._links, (account, LinkSource.LOCAL.value)),
                (self._requests, (operation, "200", "")),
            ]
            if team:
                at_end.append((self._team_links, (team,)))
            counts = self._hit_counts[key] = SummedHitCounts(
                at_begin=(
                    (self._identifications, (issuer, "cached")),
                    (self._decisions, (permission, "allowed")),
                ),
                at_end=at_end,
                stages=self._stages,
                duration=(self._request_seconds, ("link",)),
            )
        return counts

    def evicted(self, kind: str) -> None:
        self.count("gateway_evictions_total", kind)

    def upstream_call(self, account: str, outcome: str, seconds: float) -> None:
        self._upstream_seconds.observe((account, _snake(outcome)), seconds)

    def service_login(self, account: str, outcome: str) -> None:
        self.count("gateway_service_logins_total", account, outcome)

    def service_credential_expires(self, account: str, project: str, at: float) -> None:
        gauge = self._gauges["gateway_service_credential_expires_timestamp_seconds"]
        gauge.labels(account, project).set(at)

    def service_login_refused(self, account: str, project: str, *, refused: bool) -> None:
        self._gauges["gateway_service_login_refused"].labels(account, project).set(refused)

    def keys_refreshed(self, issuer: str, outcome: str) -> None:
        self.count("gateway_key_refreshes_total", issuer, outcome)

    def policy_reloaded(self, outcome: str, rules: int) -> None:
        self.count("gateway_policy_reloads_total", outcome)
        self._gauges["gateway_policy_rejected"].set(outcome != "ok")
        if outcome == "ok":
            self._gauges["gateway_policy_rules"].set(rules)

    def budget_wait(self, account: str, budget: BudgetClass, seconds: float) -> None:
        self._budget_wait.observe((account, budget.value), seconds)

    def budget_refused(self, account: str, budget: BudgetClass) -> None:
        self.count("gateway_budget_refusals_total", account, budget.value)

    def budget_slot_lost(self, account: str, budget: BudgetClass) -> None:
        self.count("gateway_budget_slots_lost_total", account, budget.value)

    def breaker_opened(self, account: str) -> None:
        self.count("gateway_breaker_opened_total", account)

    def link_renewed(self, account: str, outcome: str) -> None:
        self.count("gateway_link_renewals_total", account, _snake(outcome))

    def inventory_polled(self, account: str, outcome: str) -> None:
        self.count("gateway_inventory_polls_total", account, _snake(outcome))

    def store_available(self, *, available: bool) -> None:
        self._gauges["gateway_store_available"].set(available)

    def store_subscribed(self, *, subscribed: bool) -> None:
        self._gauges["gateway_store_subscribed"].set(subscribed)

    def store_called(self, seconds: float, *, ok: bool) -> None:
        self._store_seconds.observe(("ok" if ok else "failed",), seconds)

    def audit_recorded(self, event: str, count: int = 1) -> None:
        self._counters["gateway_audit_records_total"].inc((event,), count)

    def audit_committed(self, seconds: float) -> None:
        self._audit_commits.observe((), seconds)

    def audit_failed(self) -> None:
        self.count("gateway_audit_failures_total")

    def audit_record_missing(self) -> None:
        self.count("gateway_audit_records_missing_total")

    def loop_late(self, seconds: float) -> None:
        self._loop_lag.observe((), seconds)

    def task_restarted(self, task: str) -> None:
        self.count("gateway_task_restarts_total", task)

    def proxy_header_rejected(self, reason: str) -> None:
        self.count("gateway_proxy_header_rejections_total", reason)

    def override_failed(self) -> None:
        self.count("gateway_override_failures_total")

    def admin_request(self, action: str, status: str) -> None:
        self.count("gateway_admin_requests_total", action, status)

    def log_line_sampled_out(self) -> None:
        self.count("gateway_log_lines_sampled_out_total")

    def begin_tasks(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            self._counters["gateway_task_restarts_total"].begin((task,))

    def begin(
        self,
        *,
        accounts: Sequence[str],
        issuers: Sequence[str],
        links: Sequence[str],
        failures: Sequence[tuple[int, str]],
        actions: Sequence[str],
    ) -> None:
        """Export the series that alerts use with the value 0.

        A series that starts with its first event has no increase, so its alert would not fire.
        `links`: operations that return a link. `failures`: statuses and error codes of failed
        requests. `actions`: actions of the admin API.
        """
        sources = [source.value for source in LinkSource]
        budgets = [budget.value for budget in BudgetClass]
        refused = [rejection.value for rejection in Rejection]
        for name, *values in (
            ("gateway_identifications_total", [*issuers, "unknown"], refused),
            ("gateway_key_refreshes_total", issuers, ("ok", "failed")),
            ("gateway_service_logins_total", accounts, ("ok", "refused", "unavailable")),
            ("gateway_links_total", accounts, sources),
            ("gateway_link_renewals_total", accounts, ("ok",)),
            ("gateway_evictions_total", ("link", "token")),
            ("gateway_budget_refusals_total", accounts, budgets),
            ("gateway_budget_slots_lost_total", accounts, budgets),
            ("gateway_breaker_opened_total", accounts),
            ("gateway_policy_reloads_total", ("ok", "rejected")),
            ("gateway_decisions_total", sorted(PERMISSIONS), ("allowed", "denied")),
            ("gateway_admin_requests_total", actions, ("401", "403")),
            ("gateway_proxy_header_rejections_total", ("untrusted", "malformed", "timeout")),
        ):
            for labels in product(*values):
                self._counters[name].begin(labels)
        for operation in links:
            self._requests.begin((operation, "200", ""))
        for operation, (status, error_code) in product([*links, "none"], failures):
            self._requests.begin((operation, _status_text(status), error_code))
        self._request_seconds.begin(("link",))
        for outcome in ("ok", "failed"):
            self._store_seconds.begin((outcome,))
        for labels in product(accounts, UPSTREAM_OUTCOMES):
            self._upstream_seconds.begin(labels)
        for labels in product(accounts, budgets):
            self._budget_wait.begin(labels)

    def begin_counter(self, name: str, series: Iterable[tuple[str, ...]]) -> None:
        """Export series of a counter with the value 0."""
        for labels in series:
            self._counters[name].begin(labels)

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Set a gauge to the result of `read` at each scrape."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def counter(self, name: str, read: Callable[[], float]) -> None:
        """Set a counter without labels to the result of `read` at each scrape."""
        self._counters[name].read = read

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the format that `accept` selects."""
        # In a thread, because rendering a thousand lines would delay the callers' requests.
        self.add_up()
        return await asyncio.to_thread(self.render, accept)

    def add_up(self) -> None:
        """Add the hits since the last scrape; only in the event loop, which counts them."""
        for counts in self._hit_counts.values():
            counts.add_up()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Do what `exposition` does, in any thread and without the hits since the last scrape."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def count(self, name: str, *values: str, by: float = 1.0) -> None:
        """Add to a counter with these label values."""
        assert len(values) == len(BY_NAME[name].labels)
        self._counters[name].inc(values, by)


@cache
def _status_text(status: int) -> str:
    return str(status)


@cache
def _snake(name: str) -> str:
    """Return a class name as a label value: UpstreamSlow is upstream_slow."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
