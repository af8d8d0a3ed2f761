"""The metrics of the gateway, a stable interface for operators (docs/reference/metrics.md).

Label values come from the config or from the code, never from requests: callers cannot increase
the number of series.
"""

from typing import Final

from gateway.domain.audit.events import RECORDS
from gateway.drivers.telemetry.access_request_families import ACCESS_REQUEST_FAMILIES
from gateway.drivers.telemetry.console_metric_families import CONSOLE_METRIC_FAMILIES
from gateway.drivers.telemetry.login_metric_families import LOGIN_METRIC_FAMILIES
from gateway.drivers.telemetry.metric_family import ACCOUNT, counter, gauge, histogram

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


_PROJECT: Final = {**ACCOUNT, "project": "configured projects"}
_ISSUER: Final = {"issuer": "configured issuers"}
_BUDGET: Final = {**ACCOUNT, "budget": "console, iam"}
_LISTENER: Final = {"listener": "public, admin"}


METRIC_FAMILIES: Final = (
    counter(
        "gateway_requests_total",
        "Responses to callers.",
        operation="operation names of the catalogue; `none` if no operation matched",
        status="HTTP status; 499 if the caller disconnected",
        error_code="codes of [errors](errors.md); `cloud` for the cloud's own codes; empty without "
        "an error",
    ),
    histogram(
        "gateway_request_duration_seconds",
        "Time from a request's headers to its response.",
        _REQUEST_BUCKETS,
        response="link (console links: 200 or 5xx), refused (console links: 4xx), forwarded (other "
        "operations), other",
    ),
    histogram(
        "gateway_stage_duration_seconds",
        "Time per stage, for requests that received a link.",
        _STAGE_BUCKETS,
        stage="identify, decide, obtain, record",
    ),
    counter(
        "gateway_identifications_total",
        "Verifications of callers' credentials.",
        issuer="configured issuers; `unknown` if the token names none of them",
        outcome="ok, ok_without_groups (no groups claim: is `claims.groups` right?), cached, "
        "keys_unavailable, or the reason of the rejection",
    ),
    counter(
        "gateway_decisions_total",
        "Policy decisions on identified callers.",
        permission="permissions of the catalogue",
        decision="allowed, denied",
    ),
    counter(
        "gateway_links_total",
        "Links returned.",
        **ACCOUNT,
        source="local (cached in this process), redis, coalesced (another request's call), "
        "upstream",
    ),
    counter(
        "gateway_hit_path_requests_total",
        "Requests that were served from their exact bytes, without parsing them again.",
    ),
    counter(
        "gateway_team_links_total",
        "Links returned, by team.",
        team="teams of `metrics.teams`; `other`",
    ),
    counter(
        "gateway_link_renewals_total",
        "Renewals of popular links before they expire.",
        **ACCOUNT,
        outcome="ok, or the name of the error",
    ),
    counter(
        "gateway_evictions_total",
        "Cache entries evicted before they expired because the cache was full (`cache`).",
        kind="link, token",
    ),
    gauge("gateway_links_cached", "Links in the memory of this process."),
    gauge("gateway_tokens_cached", "Verified tokens in the memory of this process."),
    gauge(
        "gateway_fetches_in_flight", "Single-flight fetches that this process runs or waits for."
    ),
    histogram(
        "gateway_upstream_duration_seconds",
        "Calls to the cloud.",
        _REQUEST_BUCKETS,
        **ACCOUNT,
        outcome=", ".join(UPSTREAM_OUTCOMES).replace("throttled", "throttled (429)"),
    ),
    histogram(
        "gateway_budget_wait_seconds",
        "Time that calls waited for a slot of the account's budget.",
        _REQUEST_BUCKETS,
        **_BUDGET,
    ),
    counter(
        "gateway_budget_refusals_total",
        "Calls refused because their slot would be after their deadline.",
        **_BUDGET,
    ),
    counter(
        "gateway_budget_slots_lost_total",
        "Slots that could not be used: granted too late, or in a pause.",
        **_BUDGET,
    ),
    gauge("gateway_budget_rate_ceiling", "Rate ceiling that operators set.", **_BUDGET),
    gauge(
        "gateway_budget_rate", "Current rate, learned from the cloud's 429 responses.", **_BUDGET
    ),
    gauge("gateway_budget_pause_seconds", "Remaining pause after a 429.", **_BUDGET),
    gauge(
        "gateway_budget_queue_length",
        "Waiting calls of all replicas; of this process only without Redis.",
        **_BUDGET,
    ),
    gauge(
        "gateway_budget_local_fallback",
        "1 while this process uses its own share of the budget, without the shared queue.",
        **_BUDGET,
    ),
    gauge(
        "gateway_breaker_open",
        "1 while the circuit breaker is open, 0.5 while half open.",
        **ACCOUNT,
    ),
    counter(
        "gateway_breaker_opened_total", "Transitions of the circuit breaker to open.", **ACCOUNT
    ),
    counter(
        "gateway_service_logins_total",
        "Logins to the cloud's IAM; `unavailable` also counts failed reads of a token file.",
        **ACCOUNT,
        outcome="ok, refused, unavailable",
    ),
    gauge(
        "gateway_service_login_refused",
        "1 after IAM rejected a login, until the project has a token again.",
        **_PROJECT,
    ),
    gauge(
        "gateway_service_credential_expires_timestamp_seconds",
        "Expiry of the project's service token; 0 without one. Only for password logins.",
        **_PROJECT,
    ),
    counter(
        "gateway_key_refreshes_total",
        "Refreshes of an issuer's keys.",
        **_ISSUER,
        outcome="ok, failed",
    ),
    gauge(
        "gateway_keys_age_seconds",
        "Time since the issuer's keys were last loaded; +Inf before the first load.",
        **_ISSUER,
    ),
    gauge(
        "gateway_keys_age_max_seconds",
        "Age at which the keys expire (`keys_age_max_s`).",
        **_ISSUER,
    ),
    counter("gateway_policy_reloads_total", "Loads of the policy file.", outcome="ok, rejected"),
    gauge(
        "gateway_policy_rejected",
        "1 while the policy file is invalid and an older policy is in force.",
    ),
    gauge("gateway_policy_rules", "Grants and denials in force."),
    gauge("gateway_policy_version", "First 32 bits of the version of the policy in force."),
    gauge("gateway_policy_loaded_timestamp_seconds", "Time when the policy in force was loaded."),
    counter(
        "gateway_config_rejections_total",
        "Rejected changes of the config file. Each worker exports the parent's count.",
    ),
    gauge(
        "gateway_config_rejected",
        "1 while the config file is invalid and an older config is in force. Each worker exports "
        "the parent's value.",
    ),
    counter(
        "gateway_worker_deaths_total",
        "Workers that exited unexpectedly. Each worker exports the parent's count.",
    ),
    gauge(
        "gateway_workers_retired",
        "Replaced workers that still run, because live consoles keep them. Each worker exports"
        " the parent's count.",
    ),
    counter(
        "gateway_inventory_polls_total",
        "Polls of the cloud's server list.",
        **ACCOUNT,
        outcome="ok, or the name of the error",
    ),
    gauge(
        "gateway_inventory_age_seconds",
        "Age of the inventory that attribute rules use; +Inf without one.",
        **ACCOUNT,
    ),
    gauge(
        "gateway_inventory_age_max_seconds",
        "Age at which the inventory expires (`inventory.age_max_s`).",
        **ACCOUNT,
    ),
    gauge("gateway_inventory_needed", "1 while the policy has attribute rules."),
    gauge("gateway_store_available", "1 while Redis is available."),
    gauge(
        "gateway_store_subscribed",
        "1 while this process receives the other processes' messages through Redis. Without them "
        "it polls, so waits for links are longer.",
    ),
    histogram(
        "gateway_store_duration_seconds",
        "Round trips to Redis.",
        _STORE_BUCKETS,
        outcome="ok, failed",
    ),
    counter(
        "gateway_audit_records_total",
        "Durable records of the audit log.",
        event=", ".join(event.name for event in RECORDS),
    ),
    histogram(
        "gateway_audit_commit_duration_seconds",
        "Time until a group of records was durable.",
        _LOCAL_BUCKETS,
    ),
    counter("gateway_audit_failures_total", "Failed writes of a group of records."),
    counter(
        "gateway_audit_records_missing_total",
        "Records that are missing although the action was carried out: any record with "
        "`audit.on_unavailable: allow`, otherwise outcomes of writes and policy changes.",
    ),
    gauge(
        "gateway_audit_lag_seconds", "Age of the oldest record that is not durable; 0 without one."
    ),
    gauge(
        "gateway_audit_stream_bytes",
        "Memory of the audit stream in Redis (bound: `audit.stream_bytes_max`).",
    ),
    gauge(
        "gateway_audit_disk_free_ratio",
        "Free share of the disk with `audit.directory`.",
    ),
    gauge(
        "gateway_audit_durable", "0 from a failed write until the next successful one, otherwise 1."
    ),
    *CONSOLE_METRIC_FAMILIES,
    *LOGIN_METRIC_FAMILIES,
    *ACCESS_REQUEST_FAMILIES,
    gauge(
        "gateway_revocations",
        "Revocations in force.",
        kind="token, subject, before",
    ),
    gauge(
        "gateway_locks",
        "Locks in force.",
        target="subject, group, server, project",
    ),
    gauge(
        "gateway_overrides_loaded",
        "1 once this process has loaded all overrides from Redis or its file, or with"
        " `overrides.enabled: false`.",
    ),
    counter(
        "gateway_override_failures_total",
        "Failures to apply overrides of one kind (revocations, dropped links, rate ceilings, log"
        " levels).",
    ),
    counter(
        "gateway_admin_requests_total",
        "Requests to the admin API.",
        action="actions of the admin API",
        status="HTTP status; login_required in place of 401: a page without a session",
    ),
    gauge(
        "gateway_certificate_expires_timestamp_seconds",
        "Expiry of the listener's certificate.",
        **_LISTENER,
    ),
    gauge(
        "gateway_client_certificate_expires_timestamp_seconds",
        "Expiry of a client certificate that the gateway presents.",
        use="account and its name, issuer and its name, redis",
    ),
    counter(
        "gateway_proxy_header_rejections_total",
        "Connections closed because they did not begin with a valid PROXY protocol header "
        "(`listen.proxy_protocol`).",
        reason="untrusted (address not in `listen.trusted_proxies`), malformed, timeout",
    ),
    gauge("gateway_tasks", "Tasks of the event loop: requests, calls and background tasks."),
    histogram("gateway_loop_lag_seconds", "Delay of the event loop.", _LOCAL_BUCKETS),
    counter(
        "gateway_log_lines_sampled_out_total",
        "Request lines not logged: cache hits (`log.hit_sample_ratio`), more than 10 lines per "
        "second of callers over their own limit, and all if the level of `gateway.request` is "
        "above info.",
    ),
    counter(
        "gateway_log_lines_dropped_total",
        "Log lines lost: the write failed, or the buffer was full because the reader stalled.",
    ),
    counter(
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
