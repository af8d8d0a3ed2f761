"""Upstream dashboard: the budget, its queue, and the cloud's responses."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from panels import GREEN, NO_MINIMUM, RED, YELLOW, figure, graph, page, percentiles, to_runbook


def upstream() -> Dashboard:
    return (
        page(
            "Upstream and budget",
            "Does the cloud respond, and do its limits delay requests?",
            accounts=True,
        )
        .with_panel(
            figure(
                "Failed calls, 5 min",
                "Over 5 minutes: no response, or an unusable one. The cloud's errors about a request do not count.",
                (
                    'job_account:gateway_upstream_failures:ratio_rate5m{JOB,account=~"$account"}',
                    "{{account}}",
                ),
                unit="percentunit",
                decimals=1,
                limits=((0.05, YELLOW), (0.2, RED)),
                no_value="no calls",
            )
        )
        .with_panel(
            figure(
                "Circuit breakers",
                "Open: calls to the cloud are suspended after repeated failures. Half-open: one call is a probe.",
                ("max by (account) (gateway_breaker_open{ACCOUNT})", "{{account}}"),
                unit="short",
                limits=((0.5, YELLOW), (1, RED)),
                states={0: "closed", 0.5: "half-open", 1: "open"},
            )
        )
        .with_panel(
            figure(
                "Service token validity",
                f"Shortest of all processes and projects. Below 30 minutes renewal has failed: {to_runbook('ConsoleGatewayServiceTokenNotRenewed')} in the runbook.",
                (
                    "min by (account)"
                    " (gateway_service_credential_expires_timestamp_seconds{ACCOUNT} > 0) - time()",
                    "{{account}}",
                ),
                unit="s",
                limits=((NO_MINIMUM, RED), (1_800, GREEN)),
            )
        )
        .with_panel(
            figure(
                "Throttled calls, 5 min",
                "429s over 5 minutes. Expected: 0, because the budget keeps calls below the cloud's limit.",
                (
                    'job_account:gateway_upstream_throttled:ratio_rate5m{JOB,account=~"$account"}',
                    "{{account}}",
                ),
                unit="percentunit",
                limits=((0.001, YELLOW), (0.01, RED)),
            )
        )
        .with_panel(
            figure(
                "Wait of a new request",
                "Queue length divided by the learned rate. Beyond `budget.wait_max_s` (20 s) callers are rejected.",
                (
                    'job_account_budget:gateway_budget_queue_seconds:max{JOB,account=~"$account"}',
                    "{{account}} {{budget}}",
                ),
                unit="s",
                limits=((2, YELLOW), (10, RED)),
            )
        )
        .with_panel(
            figure(
                "Budget in use, 5 min",
                "Calls over 5 minutes, relative to the rate ceiling. Near 100 % requests wait.",
                (
                    'job_account_budget:gateway_budget_use:ratio_rate5m{JOB,account=~"$account"}',
                    "{{account}} {{budget}}",
                ),
                unit="percentunit",
                limits=((0.8, YELLOW), (0.95, RED)),
            )
        )
        .with_row(Row("Budget"))
        .with_panel(
            graph(
                "How close are calls to the cloud's limit?",
                "Calls per second, the learned rate, and the rate ceiling set by operators. The learned rate falls after a 429 and recovers. A rate that stays near one value below the ceiling shows the true limit.",
                (
                    "sum by (account, budget) (rate(gateway_budget_wait_seconds_count{ACCOUNT}[WINDOW]))",
                    "calls, {{account}} {{budget}}",
                ),
                (
                    "max by (account, budget) (gateway_budget_rate{ACCOUNT})",
                    "learned, {{account}} {{budget}}",
                ),
                (
                    "max by (account, budget) (gateway_budget_rate_ceiling{ACCOUNT})",
                    "ceiling, {{account}} {{budget}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "How many calls wait for the budget?",
                "Queue length per budget, over all replicas.",
                (
                    "max by (account, budget) (gateway_budget_queue_length{ACCOUNT})",
                    "{{account}} {{budget}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "How long will the queue take?",
                "Queue length divided by the learned rate. Beyond `budget.wait_max_s` (20 s) callers are rejected.",
                (
                    'job_account_budget:gateway_budget_queue_seconds:max{JOB,account=~"$account"}',
                    "{{account}} {{budget}}",
                ),
                unit="s",
                limits=((10, RED),),
            )
        )
        .with_panel(
            graph(
                "How long do calls wait for the budget?",
                "Percentiles over sent calls.",
                *percentiles("gateway_budget_wait_seconds", "ACCOUNT", by="budget"),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "How many calls does the budget reject?",
                "Rejected: the wait would exceed the deadline (CGW.4291). Lost: a slot came too late, or during a pause, and was not used.",
                (
                    "sum by (account, budget) (rate(gateway_budget_refusals_total{ACCOUNT}[WINDOW]))",
                    "rejected, {{account}} {{budget}}",
                ),
                (
                    "sum by (account, budget) (rate(gateway_budget_slots_lost_total{ACCOUNT}[WINDOW]))",
                    "lost, {{account}} {{budget}}",
                ),
                unit="cps",
            )
        )
        .with_panel(
            graph(
                "How long does the pause after a 429 last?",
                "Remaining pause, shared by all replicas.",
                (
                    "max by (account, budget) (gateway_budget_pause_seconds{ACCOUNT})",
                    "{{account}} {{budget}}",
                ),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Which processes use a local share of the budget?",
                "Processes that cannot use the queue in Redis. Each uses a share that keeps the sum within the budget.",
                (
                    "max by (instance, account, budget) (gateway_budget_local_fallback{ACCOUNT}) > 0",
                    "{{instance}}, {{account}} {{budget}}",
                ),
                unit="short",
                states={0: "shared queue", 1: "local share"},
            )
        )
        .with_row(Row("The cloud"))
        .with_panel(
            graph(
                "How does the cloud respond?",
                "Calls per second by outcome. `throttled`: 429. `misconfigured`: the cloud rejects the service account. `upstream_…`: no response.",
                (
                    "sum by (account, outcome) (rate(gateway_upstream_duration_seconds_count{ACCOUNT}[WINDOW])) > 0",
                    "{{account}} {{outcome}}",
                ),
                unit="reqps",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "How long does the cloud take?",
                "Duration of calls with a usable response.",
                *percentiles(
                    "gateway_upstream_duration_seconds", 'ACCOUNT,outcome="usable"', by="account"
                ),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Which share of calls fails over time?",
                "Share of calls without a usable response, over 5 minutes.",
                (
                    'job_account:gateway_upstream_failures:ratio_rate5m{JOB,account=~"$account"}',
                    "{{account}}",
                ),
                unit="percentunit",
                limits=((0.2, RED),),
            )
        )
        .with_panel(
            graph(
                "How often do circuit breakers open?",
                "Times that the breaker of each process opened in 10 minutes. A single process: check its network.",
                (
                    "max by (account, instance)"
                    " (increase(gateway_breaker_opened_total{ACCOUNT}[10m])) > 0",
                    "{{account}}, {{instance}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Do logins of the service account succeed?",
                "Logins in 10 minutes by outcome. `refused`: the password or key is wrong; requests fail when the token expires. `unavailable`: IAM does not respond, or the token file is unreadable.",
                (
                    "sum by (account, outcome) (increase(gateway_service_logins_total{ACCOUNT}[10m]))",
                    "{{account}} {{outcome}}",
                ),
                unit="short",
            )
        )
    )
