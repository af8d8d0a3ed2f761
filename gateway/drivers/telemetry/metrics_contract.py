"""Every metric of the gateway: what operators may build on (deploy/metrics.md is made of this).

A label's values come from the config or from the code, never from what callers send, so that the
number of series does not depend on who asks for what.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_TO_THE_DEADLINE: Final = (
    0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30,
)  # fmt: skip
_WITHIN_THE_PROCESS: Final = (
    0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 30,
)  # fmt: skip
_NEXT_DOOR: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
"""Redis, a disk, the event loop: all that should take milliseconds at most."""
_MAY_HANG: Final = (*_NEXT_DOOR[:-2], 0.25, 0.5, 1, 2.5, 5)
"""A disk or the loop, which nobody gives up on as early as on Redis."""
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
    """By name, which values there are."""
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        for unit in ("timestamp_seconds", "seconds"):
            if self.name.removesuffix("_total").endswith(f"_{unit}"):
                return "seconds since the epoch" if unit == "timestamp_seconds" else unit
        return "calls a second" if self.name.startswith("gateway_budget_rate_ceiling") else ""


_ACCOUNT: Final = {"account": "accounts of the config"}
_PROJECT: Final = {**_ACCOUNT, "project": "projects of the config"}
_ISSUER: Final = {"issuer": "issuers of the config"}
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
        "Answers to callers.",
        operation="names in the catalogue; `none` where no operation was found",
        status="HTTP statuses; 499 for a caller that hung up",
        error_code="the codes of README's table; `cloud` for the cloud's own; empty: no error",
    ),
    _histogram(
        "gateway_request_duration_seconds",
        "From a request's headers to its answer.",
        _TO_THE_DEADLINE,
        response="link (console links, given or 5xx), refused (console links, 4xx), forwarded "
        "(other operations), other",
    ),
    _histogram(
        "gateway_stage_duration_seconds",
        "Time in each stage, of requests that got their link.",
        _WITHIN_THE_PROCESS,
        stage="identify, decide, obtain, record",
    ),
    _counter(
        "gateway_identifications_total",
        "Credentials of callers that were judged.",
        issuer="issuers of the config; `unknown` where none is named",
        outcome="ok, cached, keys_unavailable, or why it was refused",
    ),
    _counter(
        "gateway_decisions_total",
        "What the policy said to identified callers.",
        permission="permissions that the catalogue knows",
        decision="allowed, denied",
    ),
    _counter(
        "gateway_links_total",
        "Links handed out.",
        **_ACCOUNT,
        source="local (held here), redis, coalesced (another's call), upstream (own call)",
    ),
    _counter(
        "gateway_team_links_total",
        "Links handed out, by team.",
        team="teams of `metrics.teams` in the config; `other`",
    ),
    _counter(
        "gateway_link_renewals_total",
        "Early renewals of links that are asked for.",
        **_ACCOUNT,
        outcome="ok, or an error's name",
    ),
    _counter(
        "gateway_evictions_total",
        "What was forgotten before its end because memory is full (`cache` in the config).",
        kind="link, token",
    ),
    _gauge("gateway_links_cached", "Links that this process holds."),
    _gauge("gateway_tokens_cached", "Verified tokens that this process remembers."),
    _gauge("gateway_fetches_in_flight", "Shared fetches that this process takes part in."),
    _histogram(
        "gateway_upstream_duration_seconds",
        "Calls that were sent to the cloud.",
        _TO_THE_DEADLINE,
        **_ACCOUNT,
        outcome=", ".join(UPSTREAM_OUTCOMES).replace("throttled", "throttled (429)"),
    ),
    _histogram(
        "gateway_budget_wait_seconds",
        "How long calls waited for a slot of the account's budget.",
        _TO_THE_DEADLINE,
        **_BUDGET,
    ),
    _counter(
        "gateway_budget_refusals_total",
        "Calls that were refused since their slot would have come too late.",
        **_BUDGET,
    ),
    _counter(
        "gateway_budget_slots_lost_total",
        "Slots that came too late, or into a pause, to be used.",
        **_BUDGET,
    ),
    _gauge("gateway_budget_rate_ceiling", "Calls a second that operators allow.", **_BUDGET),
    _gauge(
        "gateway_budget_rate", "Calls a second that the cloud takes, as far as learned.", **_BUDGET
    ),
    _gauge(
        "gateway_budget_pause_seconds", "How long nothing will be sent, after a 429.", **_BUDGET
    ),
    _gauge(
        "gateway_budget_queue_length", "Calls that wait, over all replicas in sight.", **_BUDGET
    ),
    _gauge(
        "gateway_budget_local_fallback", "1 while this process keeps to its own share.", **_BUDGET
    ),
    _gauge(
        "gateway_breaker_open", "1 while calls are suspended, 0.5 while one probes.", **_ACCOUNT
    ),
    _counter("gateway_breaker_opened_total", "Times that calls were suspended.", **_ACCOUNT),
    _counter(
        "gateway_service_logins_total",
        "Logins to the cloud's IAM, and looks at a token file that found no token (unavailable).",
        **_ACCOUNT,
        outcome="ok, refused, unavailable",
    ),
    _gauge(
        "gateway_service_login_refused",
        "1 from IAM's refusal of a login until the project has a token again.",
        **_PROJECT,
    ),
    _gauge(
        "gateway_service_credential_expires_timestamp_seconds",
        "When a project's service token ends; 0: it has none yet. Of accounts that log in.",
        **_PROJECT,
    ),
    _counter(
        "gateway_key_refreshes_total",
        "Loads of an issuer's keys.",
        **_ISSUER,
        outcome="ok, failed",
    ),
    _gauge(
        "gateway_keys_age_seconds",
        "Since the issuer's keys were last loaded; +Inf: never.",
        **_ISSUER,
    ),
    _gauge(
        "gateway_keys_age_max_seconds",
        "Older keys serve nobody (`keys_age_max_s`).",
        **_ISSUER,
    ),
    _counter("gateway_policy_reloads_total", "Loads of the policy.", outcome="ok, rejected"),
    _gauge("gateway_policy_rejected", "1 while the policy file as it stands was refused."),
    _gauge("gateway_policy_rules", "Grants and denials in force."),
    _gauge("gateway_policy_version", "First 32 bits of the version of the policy in force."),
    _gauge("gateway_policy_loaded_timestamp_seconds", "When the policy in force was loaded."),
    _counter(
        "gateway_config_rejections_total",
        "Changes of the config file that were refused. Each worker tells the parent's number.",
    ),
    _gauge(
        "gateway_config_rejected",
        "1 while the config file as it stands was refused. Each worker tells the parent's word.",
    ),
    _counter(
        "gateway_worker_deaths_total",
        "Workers that ended unasked. Each worker tells the parent's number.",
    ),
    _counter(
        "gateway_inventory_polls_total",
        "Looks at which servers there are.",
        **_ACCOUNT,
        outcome="ok, or an error's name",
    ),
    _gauge(
        "gateway_inventory_age_seconds",
        "Age of what rules by attributes go by; +Inf while there is none.",
        **_ACCOUNT,
    ),
    _gauge(
        "gateway_inventory_age_max_seconds",
        "An older one grants nothing (`inventory.age_max_s`).",
        **_ACCOUNT,
    ),
    _gauge("gateway_inventory_needed", "1 while the policy has rules by attributes."),
    _gauge("gateway_store_available", "1 while Redis answers."),
    _histogram(
        "gateway_store_duration_seconds",
        "Round trips to Redis.",
        _NEXT_DOOR,
        outcome="ok, failed",
    ),
    _counter(
        "gateway_audit_records_total",
        "Records of the audit log that are durable.",
        event="console_link_issued, write_permitted, write_outcome, credential_issued, refused, "
        "revoked, links_dropped, admin_action, admin_refused, policy_loaded, policy_rejected, "
        "audit_records_missing, audit_chain_opened, audit_chain_resumed",
    ),
    _histogram(
        "gateway_audit_commit_duration_seconds",
        "How long a group of records took to be durable.",
        _MAY_HANG,
    ),
    _counter("gateway_audit_failures_total", "Groups of records that could not be written."),
    _counter(
        "gateway_audit_records_missing_total",
        "Records that are missing of what was done all the same: of any answer, where operators "
        "chose so (`on_unavailable: allow`); else of what became of a write.",
    ),
    _gauge(
        "gateway_audit_lag_seconds", "Age of the oldest record that is not durable yet; 0: none."
    ),
    _gauge(
        "gateway_audit_stream_bytes",
        "What the stream takes of Redis's memory (bound: `audit.stream_bytes_max`).",
    ),
    _gauge(
        "gateway_audit_disk_free_ratio",
        "Which part of the disk under `audit.directory` is free for the gateway.",
    ),
    _gauge("gateway_audit_durable", "0 from a failed write until one works, else 1."),
    _gauge(
        "gateway_revocations",
        "Revocations in force.",
        kind="token, subject, before",
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
        action="actions of the code",
        status="HTTP status",
    ),
    _gauge(
        "gateway_certificate_expires_timestamp_seconds",
        "When the listener's certificate ends.",
        **_LISTENER,
    ),
    _gauge("gateway_tasks", "Tasks of the event loop: requests, calls and background work."),
    _histogram("gateway_loop_lag_seconds", "How late the event loop was.", _MAY_HANG),
    _counter(
        "gateway_log_lines_sampled_out_total",
        "Request lines that were left out: of links served from memory (log.hit_sample_ratio), "
        "and of callers over their own limit beyond 10 a second.",
    ),
    _counter(
        "gateway_log_lines_dropped_total",
        "Lines of the log that could not be written, or came while its reader stalled.",
    ),
    _counter(
        "gateway_task_restarts_total",
        "Background tasks that died and were started again.",
        task="background tasks of the code, by account and issuer",
    ),
)

BY_NAME: Final = {family.name: family for family in METRIC_FAMILIES}


def render_page() -> str:
    """Return deploy/metrics.md."""
    rows = [
        "# Metrics",
        "",
        "Made from `gateway/drivers/metrics_contract.py` by `make docs`; a test keeps them equal.",
        "",
        "Worker i of `gateway serve --workers N` answers `/metrics` on the admin port plus i: one",
        "scrape target each, so that no number is lost or counted twice. A worker that was",
        "replaced counts from 0 again, as `rate()` and `increase()` expect. OpenMetrics is spoken",
        "to scrapers that ask for it; request durations then bear exemplars with trace ids.",
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
        "| `gateway_build_info` | gauge |  | `version` | 1: the running version. |",
        "",
        "Buckets (upper bounds, in seconds; every histogram has `+Inf`, too):",
        "",
    ]
    rows += [
        f"- `{family.name}`: {', '.join(map(str, family.buckets))}"
        for family in METRIC_FAMILIES
        if family.buckets
    ]
    rows += ["", "`process_*` and `python_*` are those of prometheus-client.", ""]
    return "\n".join(rows)
