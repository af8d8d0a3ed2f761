"""Links dashboard: sources of links, caches, Redis and live consoles."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from panels import OF_THE_GATEWAY, RED, YELLOW, figure, graph, page, percentiles, to_runbook


def links() -> Dashboard:
    return (
        page("Links", "Where do links come from, and how many calls do they save?", accounts=True)
        .with_panel(
            figure(
                "Redis unavailable for",
                "Number of processes. Without Redis each process uses its local cache and its share of the budget, and an override reaches one process only.",
                ("sum(1 - gateway_store_available{INSTANCE})", "processes"),
                unit="short",
                limits=((1, RED),),
                states={0: "none"},
            )
        )
        .with_panel(
            figure(
                "Links without a call",
                "Share of links from the local cache, from Redis, or coalesced. A higher share serves more people from the same budget; `reuse`, `lifetime_s` and `renew_before_s` change it.",
                (
                    'sum(rate(gateway_links_total{ACCOUNT,source!="upstream"}[$__range]))'
                    " / (sum(rate(gateway_links_total{ACCOUNT}[$__range])) > 0)",
                    "without upstream call",
                ),
                unit="percentunit",
            )
        )
        .with_panel(
            figure(
                "Coalesced links",
                "Share of links from a concurrent call for the same server.",
                (
                    'sum(rate(gateway_links_total{ACCOUNT,source="coalesced"}[$__range]))'
                    " / (sum(rate(gateway_links_total{ACCOUNT}[$__range])) > 0)",
                    "coalesced",
                ),
                unit="percentunit",
            )
        )
        .with_panel(
            figure(
                "Cached links",
                "Sum over all processes; a link cached by two processes counts twice.",
                ("sum(gateway_links_cached{INSTANCE})", "links"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "Cached tokens",
                "Verified tokens of callers.",
                ("sum(gateway_tokens_cached{INSTANCE})", "tokens"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "Fetches in flight",
                "Calls for a link on which one or more requests wait.",
                ("sum(gateway_fetches_in_flight{INSTANCE})", "fetches"),
                unit="short",
            )
        )
        .with_row(Row("Source"))
        .with_panel(
            graph(
                "Where do links come from?",
                "Links per second. `local`: cached in this process. `redis`: fetched by another replica. `coalesced`: shared with a concurrent call. `upstream`: fetched by this request.",
                ("sum by (source) (rate(gateway_links_total{ACCOUNT}[WINDOW]))", "{{source}}"),
                unit="reqps",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "How many links does one upstream call serve?",
                "Returned links per fetched link, over the selected time range.",
                (
                    "sum by (account) (rate(gateway_links_total{ACCOUNT}[WINDOW]))"
                    ' / (sum by (account) (rate(gateway_links_total{ACCOUNT,source="upstream"}[WINDOW])) > 0)',
                    "{{account}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Are links renewed before they expire?",
                "Early renewals in 10 minutes, from spare budget only. After a renewal that is not `ok`, the next caller waits.",
                (
                    "sum by (account, outcome) (increase(gateway_link_renewals_total{ACCOUNT}[10m]))",
                    "{{account}} {{outcome}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Are caches too small?",
                "Links and tokens evicted before they expire, per second. If it is more than a few, raise `cache` in the config to avoid repeated calls and verifications.",
                ("sum by (kind) (rate(gateway_evictions_total{INSTANCE}[WINDOW]))", "{{kind}}"),
                unit="cps",
            )
        )
        .with_row(Row("Redis"))
        .with_panel(
            graph(
                "How long do Redis round trips take?",
                "Successful round trips. A link from Redis needs one. Above 10 ms check the network.",
                *percentiles("gateway_store_duration_seconds", 'INSTANCE,outcome="ok"'),
                unit="s",
                limits=((0.05, RED),),
            )
        )
        .with_panel(
            graph(
                "How many Redis round trips fail?",
                "Failed round trips per second, by process.",
                (
                    'sum by (instance) (rate(gateway_store_duration_seconds_count{INSTANCE,outcome="failed"}[WINDOW]))',
                    "{{instance}}",
                ),
                unit="cps",
            )
        )
        .with_panel(
            graph(
                "Which share of Redis round trips is slow?",
                "Share over 50 ms in 5 minutes, by process. A single slow process points to that process.",
                (
                    "job_instance:gateway_store_slow:ratio_rate5m{INSTANCE}",
                    "{{instance}}",
                ),
                unit="percentunit",
                limits=((0.01, RED),),
            )
        )
        .with_panel(
            graph(
                "Which processes reach Redis?",
                "A process without Redis uses its local cache and its share of the budget.",
                ("gateway_store_available{INSTANCE}", "{{instance}}"),
                unit="short",
                states={0: "unavailable", 1: "available"},
            )
        )
        .with_panel(
            graph(
                "Which processes receive messages through Redis?",
                "A process without messages polls: waits for links are longer.",
                ("gateway_store_subscribed{INSTANCE}", "{{instance}}"),
                unit="short",
                states={0: "polls", 1: "receives"},
            )
        )
        .with_panel(
            graph(
                "How old is the inventory?",
                "Age relative to `age_max_s`. It matters only if the policy has rules by attributes; above 100 % their grants have no effect.",
                (
                    "max by (account) (gateway_inventory_age_seconds{ACCOUNT}"
                    " / gateway_inventory_age_max_seconds{ACCOUNT} < +Inf)",
                    "{{account}}",
                ),
                unit="percentunit",
                limits=((0.5, YELLOW), (1, RED)),
            )
        )
        .with_panel(
            graph(
                "Do inventory polls succeed?",
                "Polls in 10 minutes by outcome.",
                (
                    "sum by (account, outcome) (increase(gateway_inventory_polls_total{ACCOUNT}[10m]))",
                    "{{account}} {{outcome}}",
                ),
                unit="short",
            )
        )
        .with_row(Row("Live consoles"))
        .with_panel(
            graph(
                "How many live consoles are open?",
                "Consoles whose page is connected, by account. Accounts with `console.delivery: proxied` only. Worker 0 of each gateway includes the consoles of replaced workers.",
                ("sum by (account) (gateway_console_connections{ACCOUNT})", "{{account}}"),
                unit="short",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Which share of the allowed live consoles is in use?",
                f"Relative to `console.sessions_max` of each account, and of all. At 100 % no further console opens: see {to_runbook('ConsoleGatewayConsolesNearLimit')} in the runbook.",
                (
                    "sum by (account) (gateway_console_connections{ACCOUNT})"
                    " / max by (account) (gateway_console_account_sessions_max{ACCOUNT})",
                    "{{account}}",
                ),
                (
                    "sum(gateway_console_connections{ACCOUNT})"
                    " / max(gateway_console_sessions_max{INSTANCE})",
                    "all",
                ),
                unit="percentunit",
                limits=((0.9, RED),),
            )
        )
        .with_panel(
            graph(
                "How many live consoles start?",
                "In 10 minutes, by account and mode: with keyboard (`control`) or view-only (`view`).",
                (
                    "sum by (account, mode) (increase(gateway_console_sessions_started_total{ACCOUNT}[10m]))",
                    "{{account}} {{mode}}",
                ),
                unit="short",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Why do live consoles end?",
                f"In 10 minutes, by end. Errors are `cloud_unavailable`, `cloud_closed`, `protocol_error`, `recording_failed` and `owner_lost`: see {to_runbook('ConsoleGatewayConsolesEndByError')} in the runbook.",
                (
                    "sum by (end) (increase(gateway_console_sessions_ended_total{ACCOUNT}[10m])) > 0",
                    "{{end}}",
                ),
                unit="short",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Why are one-time addresses rejected?",
                "In 10 minutes, by reason. `gone`: spent or expired. Much `garbage` is a search for addresses; `origin` is a page of another site.",
                (
                    "sum by (reason) (increase(gateway_console_tickets_rejected_total{INSTANCE}[10m]))",
                    "{{reason}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Do pages resume their live consoles?",
                f"Attempts in 10 minutes, after a lost network or a moved session. A few `stale` are duplicated tabs: see {to_runbook('ConsoleGatewayConsoleResumesFail')} in the runbook.",
                (
                    "sum by (outcome) (increase(gateway_console_resumes_total{INSTANCE}[10m]))",
                    "{{outcome}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "How busy are processes with live consoles?",
                f"CPU use; one core is the maximum. See {to_runbook('ConsoleGatewayConsoleRelayBusy')} in the runbook.",
                (
                    f"rate(process_cpu_seconds_total{{INSTANCE}}[WINDOW]) and {OF_THE_GATEWAY}"
                    " and on (job, instance)"
                    " sum by (job, instance) (gateway_console_connections{ACCOUNT}) > 0",
                    "{{instance}}",
                ),
                unit="percentunit",
                limits=((0.8, RED),),
            )
        )
        .with_panel(
            graph(
                "What do old inventories and old workers keep?",
                "Live consoles that run on an inventory too old to open a new one, and replaced workers that still run because of their live consoles (by process: each worker shows its parent's count).",
                (
                    "sum(gateway_console_on_old_inventory{INSTANCE})",
                    "consoles on an old inventory",
                ),
                (
                    "max by (instance) (gateway_workers_retired{INSTANCE})",
                    "replaced workers {{instance}}",
                ),
                unit="short",
            )
        )
        .with_row(Row("Recordings"))
        .with_panel(
            graph(
                "How much is recorded?",
                "Bytes a second that recordings take on the disk, by account. Accounts with `console.recording` only.",
                (
                    "sum by (account) (rate(gateway_recording_bytes_total{ACCOUNT}[WINDOW]))",
                    "{{account}}",
                ),
                unit="Bps",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "Do recordings fail?",
                f"In 10 minutes, by reason. See {to_runbook('ConsoleGatewayRecordingsFail')} in the runbook.",
                (
                    "sum by (account, reason) (increase(gateway_recording_failures_total{ACCOUNT}[10m])) > 0",
                    "{{account}} {{reason}}",
                ),
                unit="short",
                limits=((1, RED),),
            )
        )
        .with_panel(
            graph(
                "For how many days is there room?",
                f"Free bytes of the disk divided by the present rate; no line without a rate. See {to_runbook('ConsoleGatewayRecordingsDiskFull')} in the runbook.",
                (
                    "min by (instance) (gateway_recordings_disk_days{INSTANCE}) < +Inf",
                    "{{instance}}",
                ),
                unit="d",
            )
        )
        .with_panel(
            graph(
                "How late does the disk sync?",
                f"Age of the oldest byte that a lost host would lose; about 1 s is normal. See {to_runbook('ConsoleGatewayRecordingsLag')} in the runbook.",
                ("max by (instance) (gateway_recording_lag_seconds{INSTANCE})", "{{instance}}"),
                unit="s",
                limits=((3, RED),),
            )
        )
        .with_panel(
            graph(
                "How much do recordings take?",
                f"Bytes of all recordings in the directory, of those on hold, and the free bytes of its disk. See {to_runbook('ConsoleGatewayRecordingsOnHold')} in the runbook.",
                (
                    "max by (instance) (gateway_recordings_bytes{INSTANCE})",
                    "recordings {{instance}}",
                ),
                (
                    "max by (instance) (gateway_recordings_on_hold_bytes{INSTANCE})",
                    "on hold {{instance}}",
                ),
                (
                    "min by (instance) (gateway_recordings_disk_free_bytes{INSTANCE})",
                    "free {{instance}}",
                ),
                unit="bytes",
            )
        )
        .with_panel(
            graph(
                "What happens to ended recordings?",
                "In 10 minutes: parts that were closed, by outcome, and recordings that were removed, by reason.",
                (
                    "sum by (outcome) (increase(gateway_recording_rewrites_total{INSTANCE}[10m])) > 0",
                    "closed: {{outcome}}",
                ),
                (
                    "sum by (reason) (increase(gateway_recordings_removed_total{INSTANCE}[10m]))",
                    "removed: {{reason}}",
                ),
                ("sum(gateway_recordings_open{INSTANCE})", "in progress"),
                unit="short",
            )
        )
    )
