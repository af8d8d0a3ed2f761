"""Service dashboard: success, latency and SLOs of console links, and the processes."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from panels import (
    FIRING,
    GREEN,
    NO_MINIMUM,
    OF_THE_GATEWAY,
    RED,
    YELLOW,
    figure,
    graph,
    page,
    percentiles,
    to_runbook,
)


def service() -> Dashboard:
    return (
        page("Service", "Do requests for links succeed, and how fast?", accounts=False)
        .with_panel(
            figure(
                "Which alerts fire?",
                "By name; each has a section in the runbook. Alerts of all instances of the job are shown.",
                (f"count by (alertname) ({FIRING})", "{{alertname}}"),
                unit="short",
                limits=((1, RED),),
                no_value="none",
                named=True,
                width=8,
            )
        )
        .with_panel(
            figure(
                "Failed links, 5 min",
                "Over 5 minutes: requests that ended in 5xx or CGW.4291. Red: an alert pages if it lasts.",
                ("job:gateway_link_failures:ratio_rate5m{JOB}", "{{job}}"),
                unit="percentunit",
                decimals=2,
                limits=((0.001, YELLOW), (0.006, RED)),
                no_value="no requests",
            )
        )
        .with_panel(
            figure(
                "Slow links, 5 min",
                "Over 5 minutes: links that took over 2.5 s. Red: an alert pages if it lasts.",
                ("job:gateway_slow_links:ratio_rate5m{JOB}", "{{job}}"),
                unit="percentunit",
                decimals=1,
                limits=((0.05, YELLOW), (0.3, RED)),
                no_value="no requests",
            )
        )
        .with_panel(
            figure(
                "Reachable processes",
                f"Targets of the job that Prometheus reaches. Fewer than you run: see {to_runbook('ConsoleGatewayTargetDown')} in the runbook.",
                ("count(gateway_build_info{INSTANCE}) or vector(0)", "processes"),
                unit="short",
                limits=((NO_MINIMUM, RED), (1, GREEN)),
            )
        )
        .with_panel(
            figure(
                "Error budget left",
                "Of the month. 100 %: no request failed. 0: 0.1 % failed. Negative: the SLO is missed.",
                ("1 - job:gateway_link_failures:ratio_rate30d{JOB} / 0.001", "{{job}}"),
                unit="percentunit",
                decimals=1,
                limits=((NO_MINIMUM, RED), (0.1, YELLOW), (0.5, GREEN)),
            )
        )
        .with_row(Row("Rate and errors"))
        .with_panel(
            graph(
                "How many requests are there, by operation?",
                "Responses per second. `none`: rejected before the operation was known.",
                (
                    "sum by (operation) (rate(gateway_requests_total{INSTANCE}[WINDOW]))",
                    "{{operation}}",
                ),
                unit="reqps",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Which errors do callers get?",
                "Errors per second by status and error code (docs/reference/errors.md); `cloud` is a code from the cloud. 5xx and CGW.4291 count against the SLO.",
                (
                    'sum by (status, error_code) (rate(gateway_requests_total{INSTANCE,status=~"[45].."}[WINDOW])) > 0',
                    "{{status}} {{error_code}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "How fast is the monthly error budget used?",
                "Burn rate; at 1 the budget lasts exactly a month. Above 14.4 over one hour an alert pages.",
                ("job:gateway_link_failures:ratio_rate5m{JOB} / 0.001", "failed links, 5 min"),
                ("job:gateway_link_failures:ratio_rate1h{JOB} / 0.001", "failed links, 1 h"),
                ("job:gateway_slow_links:ratio_rate5m{JOB} / 0.05", "slow links, 5 min"),
                ("job:gateway_slow_links:ratio_rate1h{JOB} / 0.05", "slow links, 1 h"),
                unit="short",
                limits=((1, YELLOW), (14.4, RED)),
            )
        )
        .with_panel(
            graph(
                "Which teams get links?",
                "Links per second by team (`metrics.teams` in the config); all others are `other`.",
                ("sum by (team) (rate(gateway_team_links_total{INSTANCE}[WINDOW]))", "{{team}}"),
                unit="reqps",
                stacked=True,
            )
        )
        .with_row(Row("Latency"))
        .with_panel(
            graph(
                "How long do requests for links take?",
                "Whole requests for links, successful or failed, including the wait for the upstream budget. The dots are exemplars with a trace ID.",
                *percentiles("gateway_request_duration_seconds", 'INSTANCE,response="link"'),
                unit="s",
                limits=((2.5, RED),),
            )
        )
        .with_panel(
            graph(
                "Which stage takes how long?",
                "p95 of each stage of requests that returned a link. `obtain` is the wait for the budget and the cloud; `record` is the disk of the audit log. The others are normally below 1 ms.",
                (
                    "histogram_quantile(0.95, sum by (le, stage)"
                    " (rate(gateway_stage_duration_seconds_bucket{INSTANCE}[WINDOW])))",
                    "{{stage}}",
                ),
                unit="s",
            )
        )
        .with_row(Row("Processes"))
        .with_panel(
            graph(
                "How much does the event loop lag?",
                "p99 of the lag, measured twice per second. Above 100 ms requests delay each other: add processes, or check the machine.",
                (
                    "histogram_quantile(0.99, sum by (le, instance)"
                    " (rate(gateway_loop_lag_seconds_bucket{INSTANCE}[WINDOW])))",
                    "{{instance}}",
                ),
                unit="s",
                limits=((0.1, RED),),
            )
        )
        .with_panel(
            graph(
                "How much CPU does each process use?",
                "A process can use one core. Near 100 % add a process.",
                (
                    f"rate(process_cpu_seconds_total{{INSTANCE}}[WINDOW]) and {OF_THE_GATEWAY}",
                    "{{instance}}",
                ),
                unit="percentunit",
                limits=((0.8, YELLOW),),
            )
        )
        .with_panel(
            graph(
                "How much memory does each process use?",
                "Memory grows until the caches are full (`cache` in the config).",
                (
                    f"process_resident_memory_bytes{{INSTANCE}} and {OF_THE_GATEWAY}",
                    "{{instance}}",
                ),
                unit="bytes",
            )
        )
        .with_panel(
            graph(
                "How many file descriptors are in use?",
                "Share of the limit of the process.",
                (
                    "process_open_fds{INSTANCE} / process_max_fds{INSTANCE}"
                    f" and {OF_THE_GATEWAY}",
                    "{{instance}}",
                ),
                unit="percentunit",
                limits=((0.8, RED),),
            )
        )
        .with_panel(
            graph(
                "Which workers and tasks died?",
                "Restarted workers and background tasks in 10 minutes.",
                (
                    "increase(gateway_worker_deaths_total{INSTANCE}[10m]) > 0",
                    "workers, reported by {{instance}}",
                ),
                (
                    "sum(increase(gateway_task_restarts_total{INSTANCE}[10m]))",
                    "tasks",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Which connections have no PROXY protocol header?",
                "Closed connections per second by reason, with `listen.proxy_protocol` only. `untrusted`: the address is not in `listen.trusted_proxies`.",
                (
                    "sum by (reason) (rate(gateway_proxy_header_rejections_total{INSTANCE}[WINDOW]))",
                    "{{reason}}",
                ),
                unit="cps",
            )
        )
        .with_row(Row("SLOs over 30 days, versions and certificates"))
        .with_panel(
            figure(
                "SLO 1: success, 30 days",
                "At least 99.9 % of: returned links, divided by these plus 5xx and CGW.4291. Errors of callers do not count. Red: the monthly error budget is exhausted.",
                ("1 - job:gateway_link_failures:ratio_rate30d{JOB}", "{{job}}"),
                unit="percentunit",
                decimals=3,
                limits=((NO_MINIMUM, RED), (0.999, GREEN)),
                width=6,
            )
        )
        .with_panel(
            figure(
                "SLO 2: below 2.5 s, 30 days",
                "At least 95 %, over returned links and failed requests (5xx). Rejected requests do not count.",
                ("1 - job:gateway_slow_links:ratio_rate30d{JOB}", "{{job}}"),
                unit="percentunit",
                decimals=2,
                limits=((NO_MINIMUM, RED), (0.95, GREEN)),
                width=6,
            )
        )
        .with_panel(
            figure(
                "Which versions are running?",
                "More than one version for longer than a rollout takes: the rollout has stopped.",
                ("count by (version) (gateway_build_info{INSTANCE})", "{{version}}"),
                unit="short",
                width=6,
            )
        )
        .with_panel(
            figure(
                "When do certificates expire?",
                "The earliest expiry per listener with TLS, and per client certificate. A renewed file is reloaded without a restart.",
                (
                    "min by (listener)"
                    " (gateway_certificate_expires_timestamp_seconds{INSTANCE}) - time()",
                    "{{listener}}",
                ),
                (
                    "min by (use)"
                    " (gateway_client_certificate_expires_timestamp_seconds{INSTANCE}) - time()",
                    "{{use}}",
                ),
                unit="s",
                limits=((NO_MINIMUM, RED), (172_800, YELLOW), (1_209_600, GREEN)),
                width=6,
            )
        )
    )
