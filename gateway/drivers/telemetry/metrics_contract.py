"""The metrics of the gateway, a stable interface for operators (docs/reference/metrics.md).

Label values come from the config or from the code, never from requests: callers cannot increase
the number of series.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.domain.audit.events import RECORDS

_REQUEST_BUCKETS: Final = (
    0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30,
)  # fmt: skip
_STAGE_BUCKETS: Final = (
    0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30,
)  # fmt: skip
_STORE_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    1,
)
"""For Redis, which responds within milliseconds or counts as unavailable."""
_LOCAL_BUCKETS: Final = (*_STORE_BUCKETS[:-2], 0.25, 0.5, 1, 2.5, 5)
"""For the disk and the event loop, which may take seconds."""
UPSTREAM_OUTCOMES: Final = (
    "usable", "throttled", "refused", "credential_stale", "misconfigured", "unavailable", "broken",
    "upstream_unreachable", "upstream_slow", "upstream_broken", "cancelled",
)  # fmt: skip


class MetricKind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricFamily:
    kind: MetricKind
    name: str
    text: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """The possible values, by label name."""
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        if self.name.startswith("gateway_budget_rate"):
            return "calls per second"
        suffix = self.name.removesuffix("_total").rpartition("_")[2]
        if self.name.endswith("_timestamp_seconds"):
            return "seconds since the epoch"
        return suffix if suffix in ("seconds", "bytes", "ratio") else ""


_ACCOUNT: Final = {"account": "configured accounts"}
_PROJECT: Final = {**_ACCOUNT, "project": "configured projects"}
_ISSUER: Final = {"issuer": "configured issuers"}
_BUDGET: Final = {**_ACCOUNT, "budget": "console, iam"}
_LISTENER: Final = {"listener": "public, admin"}


def _counter(name: str, text: str, **labels: str) -> MetricFamily:
    return MetricFamily(MetricKind.COUNTER, name, text, labels)


def _gauge(name: str, text: str, **labels: str) -> MetricFamily:
    return MetricFamily(MetricKind.GAUGE, name, text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], **labels: str) -> MetricFamily:
    return MetricFamily(MetricKind.HISTOGRAM, name, text, labels, buckets)


METRIC_FAMILIES: Final = (
    _counter(
        "gateway_requests_total",
        "Responses to callers.",
        operation="operation names of the catalogue; `none` if no operation matched",
        status="HTTP status; 499 if the caller disconnected",
        error_code="codes of [errors](errors.md); `cloud` for the cloud's own codes; empty without "
        "an error",
    ),
    _histogram(
        "gateway_request_duration_seconds",
        "Time from a request's headers to its response.",
        _REQUEST_BUCKETS,
        response="link (console links: 200 or 5xx), refused (console links: 4xx), forwarded (other "
        "operations), other",
    ),
    _histogram(
        "gateway_stage_duration_seconds",
        "Time per stage, for requests that received a link.",
        _STAGE_BUCKETS,
        stage="identify, decide, obtain, record",
    ),
    _counter(
        "gateway_identifications_total",
        "Verifications of callers' credentials.",
        issuer="configured issuers; `unknown` if the token names none of them",
        outcome="ok, ok_without_groups (no groups claim: is `claims.groups` right?), cached, "
        "keys_unavailable, or the reason of the rejection",
    ),
    _counter(
        "gateway_decisions_total",
        "Policy decisions on identified callers.",
        permission="permissions of the catalogue",
        decision="allowed, denied",
    ),
    _counter(
        "gateway_links_total",
        "Links returned.",
        **_ACCOUNT,
        source="local (cached in this process), redis, coalesced (another request's call), "
        "upstream",
    ),
    _counter(
        "gateway_hit_path_requests_total",
        "Requests that were served from their exact bytes, without parsing them again.",
    ),
    _counter(
        "gateway_team_links_total",
        "Links returned, by team.",
        team="teams of `metrics.teams`; `other`",
    ),
    _counter(
        "gateway_link_renewals_total",
        "Renewals of popular links before they expire.",
        **_ACCOUNT,
        outcome="ok, or the name of the error",
    ),
    _counter(
        "gateway_evictions_total",
        "Cache entries evicted before they expired because the cache was full (`cache`).",
        kind="link, token",
    ),
    _gauge("gateway_links_cached", "Links in the memory of this process."),
    _gauge("gateway_tokens_cached", "Verified tokens in the memory of this process."),
    _gauge(
        "gateway_fetches_in_flight", "Single-flight fetches that this process runs or waits for."
    ),
    _histogram(
        "gateway_upstream_duration_seconds",
        "Calls to the cloud.",
        _REQUEST_BUCKETS,
        **_ACCOUNT,
        outcome=", ".join(UPSTREAM_OUTCOMES).replace("throttled", "throttled (429)"),
    ),
    _histogram(
        "gateway_budget_wait_seconds",
        "Time that calls waited for a slot of the account's budget.",
        _REQUEST_BUCKETS,
        **_BUDGET,
    ),
    _counter(
        "gateway_budget_refusals_total",
        "Calls refused because their slot would be after their deadline.",
        **_BUDGET,
    ),
    _counter(
        "gateway_budget_slots_lost_total",
        "Slots that could not be used: granted too late, or in a pause.",
        **_BUDGET,
    ),
    _gauge("gateway_budget_rate_ceiling", "Rate ceiling that operators set.", **_BUDGET),
    _gauge(
        "gateway_budget_rate", "Current rate, learned from the cloud's 429 responses.", **_BUDGET
    ),
    _gauge("gateway_budget_pause_seconds", "Remaining pause after a 429.", **_BUDGET),
    _gauge(
        "gateway_budget_queue_length",
        "Waiting calls of all replicas; of this process only without Redis.",
        **_BUDGET,
    ),
    _gauge(
        "gateway_budget_local_fallback",
        "1 while this process uses its own share of the budget, without the shared queue.",
        **_BUDGET,
    ),
    _gauge(
        "gateway_breaker_open",
        "1 while the circuit breaker is open, 0.5 while half open.",
        **_ACCOUNT,
    ),
    _counter(
        "gateway_breaker_opened_total", "Transitions of the circuit breaker to open.", **_ACCOUNT
    ),
    _counter(
        "gateway_service_logins_total",
        "Logins to the cloud's IAM; `unavailable` also counts failed reads of a token file.",
        **_ACCOUNT,
        outcome="ok, refused, unavailable",
    ),
    _gauge(
        "gateway_service_login_refused",
        "1 after IAM rejected a login, until the project has a token again.",
        **_PROJECT,
    ),
    _gauge(
        "gateway_service_credential_expires_timestamp_seconds",
        "Expiry of the project's service token; 0 without one. Only for password logins.",
        **_PROJECT,
    ),
    _counter(
        "gateway_key_refreshes_total",
        "Refreshes of an issuer's keys.",
        **_ISSUER,
        outcome="ok, failed",
    ),
    _gauge(
        "gateway_keys_age_seconds",
        "Time since the issuer's keys were last loaded; +Inf before the first load.",
        **_ISSUER,
    ),
    _gauge(
        "gateway_keys_age_max_seconds",
        "Age at which the keys expire (`keys_age_max_s`).",
        **_ISSUER,
    ),
    _counter("gateway_policy_reloads_total", "Loads of the policy file.", outcome="ok, rejected"),
    _gauge(
        "gateway_policy_rejected",
        "1 while the policy file is invalid and an older policy is in force.",
    ),
    _gauge("gateway_policy_rules", "Grants and denials in force."),
    _gauge("gateway_policy_version", "First 32 bits of the version of the policy in force."),
    _gauge("gateway_policy_loaded_timestamp_seconds", "Time when the policy in force was loaded."),
    _counter(
        "gateway_config_rejections_total",
        "Rejected changes of the config file. Each worker exports the parent's count.",
    ),
    _gauge(
        "gateway_config_rejected",
        "1 while the config file is invalid and an older config is in force. Each worker exports "
        "the parent's value.",
    ),
    _counter(
        "gateway_worker_deaths_total",
        "Workers that exited unexpectedly. Each worker exports the parent's count.",
    ),
    _gauge(
        "gateway_workers_retired",
        "Replaced workers that still run, because live consoles keep them. Each worker exports"
        " the parent's count.",
    ),
    _counter(
        "gateway_inventory_polls_total",
        "Polls of the cloud's server list.",
        **_ACCOUNT,
        outcome="ok, or the name of the error",
    ),
    _gauge(
        "gateway_inventory_age_seconds",
        "Age of the inventory that attribute rules use; +Inf without one.",
        **_ACCOUNT,
    ),
    _gauge(
        "gateway_inventory_age_max_seconds",
        "Age at which the inventory expires (`inventory.age_max_s`).",
        **_ACCOUNT,
    ),
    _gauge("gateway_inventory_needed", "1 while the policy has attribute rules."),
    _gauge("gateway_store_available", "1 while Redis is available."),
    _gauge(
        "gateway_store_subscribed",
        "1 while this process receives the other processes' messages through Redis. Without them "
        "it polls, so waits for links are longer.",
    ),
    _histogram(
        "gateway_store_duration_seconds",
        "Round trips to Redis.",
        _STORE_BUCKETS,
        outcome="ok, failed",
    ),
    _counter(
        "gateway_audit_records_total",
        "Durable records of the audit log.",
        event=", ".join(event.name for event in RECORDS),
    ),
    _histogram(
        "gateway_audit_commit_duration_seconds",
        "Time until a group of records was durable.",
        _LOCAL_BUCKETS,
    ),
    _counter("gateway_audit_failures_total", "Failed writes of a group of records."),
    _counter(
        "gateway_audit_records_missing_total",
        "Records that are missing although the action was carried out: any record with "
        "`audit.on_unavailable: allow`, otherwise outcomes of writes and policy changes.",
    ),
    _gauge(
        "gateway_audit_lag_seconds", "Age of the oldest record that is not durable; 0 without one."
    ),
    _gauge(
        "gateway_audit_stream_bytes",
        "Memory of the audit stream in Redis (bound: `audit.stream_bytes_max`).",
    ),
    _gauge(
        "gateway_audit_disk_free_ratio",
        "Free share of the disk with `audit.directory`.",
    ),
    _gauge(
        "gateway_audit_durable", "0 from a failed write until the next successful one, otherwise 1."
    ),
    _counter(
        "gateway_console_tickets_rejected_total",
        "One-time addresses of live consoles that did not open a session.",
        reason="garbage, gone (spent or expired), origin, right, in_use, limit, audit",
    ),
    _counter(
        "gateway_console_sessions_started_total",
        "Live consoles that were started.",
        **_ACCOUNT,
        mode="control, view",
    ),
    _counter(
        "gateway_console_sessions_ended_total",
        "Live consoles that have ended.",
        **_ACCOUNT,
        end="ends of a session (console-ends.md)",
    ),
    _counter(
        "gateway_console_resumes_total",
        "Connections of pages whose earlier connection was lost or moved.",
        outcome="ok, stale (not the current page), gone, unavailable (Redis)",
    ),
    _gauge(
        "gateway_console_connections",
        "Live consoles whose page is connected to this process. Worker 0 adds those of replaced"
        " workers, whose admin ports are closed.",
        **_ACCOUNT,
    ),
    _gauge(
        "gateway_console_account_sessions_max",
        "`accounts[].console.sessions_max`: live consoles of the account that may run at once, over"
        " all processes.",
        **_ACCOUNT,
    ),
    _gauge(
        "gateway_console_sessions_max",
        "`console.sessions_max`: live consoles that may run at once, over all processes.",
    ),
    _gauge(
        "gateway_console_on_old_inventory",
        "Live consoles of this process that run on an inventory too old to open a new one.",
    ),
    _counter(
        "gateway_recording_bytes_total",
        "Encrypted bytes of recordings that the operating system has accepted.",
        **_ACCOUNT,
    ),
    _counter(
        "gateway_recording_failures_total",
        "Recordings that could not be begun, or that failed while the console was live.",
        **_ACCOUNT,
        reason="start, write, sync, removed (its file), stalled (no progress for 1 s)",
    ),
    _counter(
        "gateway_recording_rewrites_total",
        "Open parts of recordings that were closed: rewritten as compressed chunks.",
        outcome="closed, recovered (after a crash), failed (tried again)",
    ),
    _counter(
        "gateway_recordings_removed_total",
        "Recordings that retention has removed.",
        reason="keep_days, bytes_max",
    ),
    _gauge(
        "gateway_recordings_open",
        "Parts of recordings that this process writes.",
    ),
    _gauge(
        "gateway_recording_lag_seconds",
        "Age of the oldest byte of a recording that would be lost with this host.",
    ),
    _gauge(
        "gateway_recordings_bytes",
        "Bytes of all recordings in `recordings.directory`, measured every 10 minutes.",
    ),
    _gauge(
        "gateway_recordings_disk_free_bytes",
        "Bytes left on the disk with `recordings.directory`, measured every 10 minutes.",
    ),
    _gauge(
        "gateway_recordings_disk_days",
        "Days until the disk with `recordings.directory` is full, at the mean rate of the last 7"
        " days and if nothing is removed; +Inf without recordings.",
    ),
    _gauge(
        "gateway_revocations",
        "Revocations in force.",
        kind="token, subject, before",
    ),
    _gauge(
        "gateway_locks",
        "Locks in force.",
        target="subject, group, server, project",
    ),
    _gauge(
        "gateway_overrides_loaded",
        "1 once this process has loaded all overrides from Redis or its file, or with"
        " `overrides.enabled: false`.",
    ),
    _counter(
        "gateway_override_failures_total",
        "Failures to apply overrides of one kind (revocations, dropped links, rate ceilings, log"
        " levels).",
    ),
    _counter(
        "gateway_admin_requests_total",
        "Requests to the admin API.",
        action="actions of the admin API",
        status="HTTP status",
    ),
    _gauge(
        "gateway_certificate_expires_timestamp_seconds",
        "Expiry of the listener's certificate.",
        **_LISTENER,
    ),
    _gauge(
        "gateway_client_certificate_expires_timestamp_seconds",
        "Expiry of a client certificate that the gateway presents.",
        use="account and its name, issuer and its name, redis",
    ),
    _counter(
        "gateway_proxy_header_rejections_total",
        "Connections closed because they did not begin with a valid PROXY protocol header "
        "(`listen.proxy_protocol`).",
        reason="untrusted (address not in `listen.trusted_proxies`), malformed, timeout",
    ),
    _gauge("gateway_tasks", "Tasks of the event loop: requests, calls and background tasks."),
    _histogram("gateway_loop_lag_seconds", "Delay of the event loop.", _LOCAL_BUCKETS),
    _counter(
        "gateway_log_lines_sampled_out_total",
        "Request lines not logged: cache hits (`log.hit_sample_ratio`), more than 10 lines per "
        "second of callers over their own limit, and all if the level of `gateway.request` is "
        "above info.",
    ),
    _counter(
        "gateway_log_lines_dropped_total",
        "Log lines lost: the write failed, or the buffer was full because the reader stalled.",
    ),
    _counter(
        "gateway_task_restarts_total",
        "Background tasks that failed and were restarted.",
        task="names of the background tasks, with account or issuer",
    ),
)

BY_NAME: Final = {family.name: family for family in METRIC_FAMILIES}


def render_page() -> str:
    """Return the text of docs/reference/metrics.md."""
    rows = [
        "# Metrics",
        "",
        "Generated by `make docs` from `gateway/drivers/telemetry/metrics_contract.py`.",
        "",
        "- `/metrics` is on the admin listener. Worker i of `gateway serve --workers N` listens on",
        "  the admin port plus i. Scrape every worker: each counts its own requests.",
        "- A new worker counts from 0, as `rate()` and `increase()` expect.",
        "- With OpenMetrics, request durations have exemplars with trace IDs.",
        "- Label values come from the config or the code, never from requests.",
        "",
        "| metric | type | unit | labels | meaning |",
        "|---|---|---|---|---|",
    ]
    for family in METRIC_FAMILIES:
        labels = "; ".join(f"`{name}`: {values}" for name, values in family.labels.items())
        rows.append(
            f"| `{family.name}` | {family.kind.value} | {family.unit} | {labels} | {family.text} |"
        )
    rows += [
        "| `gateway_build_info` | gauge |  | `version` | Always 1; the label has the version. |",
        "",
        "Upper bounds of the buckets, in seconds, without `+Inf`:",
        "",
    ]
    rows += [
        f"- `{family.name}`: {', '.join(map(str, family.buckets))}"
        for family in METRIC_FAMILIES
        if family.buckets
    ]
    rows += ["", "`process_*` and `python_*` are exported by prometheus-client.", ""]
    return "\n".join(rows)
