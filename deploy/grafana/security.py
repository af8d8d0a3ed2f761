"""Security dashboard: rejected credentials, policy and the audit log."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from panels import GREEN, NO_MINIMUM, RED, YELLOW, figure, graph, page, percentiles, to_runbook


def security() -> Dashboard:
    return (
        page(
            "Security",
            "Which requests are rejected, and is the audit log complete?",
            accounts=False,
        )
        .with_panel(
            figure(
                "Audit durability",
                f"Not durable: the latest write of a process failed, and responses are 503 unless `on_unavailable` is `allow`: {to_runbook('ConsoleGatewayAuditNotDurable')} in the runbook.",
                ("min(gateway_audit_durable{INSTANCE})", "audit log"),
                unit="short",
                limits=((NO_MINIMUM, RED), (1, GREEN)),
                states={0: "not durable", 1: "durable"},
            )
        )
        .with_panel(
            figure(
                "Missing audit records",
                "In one day: outcomes of writes, or any record with `audit.on_unavailable: allow`.",
                (
                    "sum(increase(gateway_audit_records_missing_total{INSTANCE}[1d]))",
                    "records missing",
                ),
                unit="short",
                decimals=0,
                limits=((1, RED),),
            )
        )
        .with_panel(
            figure(
                "Policy and config",
                "Rejected: a process rejected the current file. The previous one remains in force.",
                ("max(gateway_policy_rejected{INSTANCE})", "policy"),
                ("max(gateway_config_rejected{INSTANCE})", "config"),
                unit="short",
                limits=((1, RED),),
                states={0: "accepted", 1: "rejected"},
            )
        )
        .with_panel(
            figure(
                "Revocations loaded",
                "Not by all: some processes loaded them neither from Redis nor from their file; they reject callers.",
                ("min(gateway_overrides_loaded{INSTANCE})", "loaded"),
                unit="short",
                limits=((NO_MINIMUM, RED), (1, GREEN)),
                states={0: "not by all", 1: "by all"},
            )
        )
        .with_panel(
            figure(
                "Active revocations",
                "Active revocations by kind. They end when the last token that they cover expires.",
                ("max by (kind) (gateway_revocations{INSTANCE})", "{{kind}}"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "Active locks",
                "Active locks by target. They end when an administrator lifts them, or after the time that was set.",
                ("max by (target) (gateway_locks{INSTANCE})", "{{target}}"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "Age of issuer keys",
                "Relative to the maximum age (`keys_age_max_s`). At 100 % all tokens of the issuer are rejected.",
                (
                    "max by (issuer) (gateway_keys_age_seconds{INSTANCE} / gateway_keys_age_max_seconds{INSTANCE})",
                    "{{issuer}}",
                ),
                unit="percentunit",
                limits=((0.5, YELLOW), (0.8, RED)),
            )
        )
        .with_row(Row("Rejected requests"))
        .with_panel(
            graph(
                "Why are credentials rejected?",
                "Per second by reason. `expired` is normal. `signature`, `algorithm` and `signature_replayed` indicate an attack. `revoked`: a revoked token is in use. `locked`: a locked person tries to get in.",
                (
                    'sum by (issuer, outcome) (rate(gateway_identifications_total{INSTANCE,outcome!~"ok|cached"}[WINDOW])) > 0',
                    "{{issuer}} {{outcome}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "What does the policy decide?",
                "Decisions per second by permission. The audit log has the people and servers.",
                (
                    "sum by (permission, decision) (rate(gateway_decisions_total{INSTANCE}[WINDOW])) > 0",
                    "{{permission}} {{decision}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "Is the share of rejected requests unusual?",
                "Share of 401 and 403, now and a day ago. A step without a change of policy or issuer is an attack or a broken client.",
                (
                    'sum(rate(gateway_requests_total{INSTANCE,status=~"401|403"}[WINDOW]))'
                    " / (sum(rate(gateway_requests_total{INSTANCE}[WINDOW])) > 0)",
                    "now",
                ),
                (
                    'sum(rate(gateway_requests_total{INSTANCE,status=~"401|403"}[WINDOW] offset 1d))'
                    " / (sum(rate(gateway_requests_total{INSTANCE}[WINDOW] offset 1d)) > 0)",
                    "a day ago",
                ),
                unit="percentunit",
            )
        )
        .with_panel(
            graph(
                "Which requests does the admin API get?",
                "Requests in 10 minutes by action and status. Only operators should reach this listener; investigate 401 and 403.",
                (
                    "sum by (action, status) (increase(gateway_admin_requests_total{INSTANCE}[10m])) > 0",
                    "{{action}} {{status}}",
                ),
                unit="short",
            )
        )
        .with_row(Row("Policy"))
        .with_panel(
            graph(
                "When were policy and config reloaded or rejected?",
                "Reloads in 10 minutes. Policies: sum over all processes. Rejected configs: reported by each worker.",
                (
                    "sum by (outcome) (increase(gateway_policy_reloads_total{INSTANCE}[10m]))",
                    "policy {{outcome}}",
                ),
                (
                    "increase(gateway_config_rejections_total{INSTANCE}[10m]) > 0",
                    "config rejected, reported by {{instance}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Do all processes use the same policy?",
                "Processes by policy version. Two lines for longer than a reload takes: replicas decide differently.",
                (
                    'count_values("version", gateway_policy_version{INSTANCE})',
                    "processes with version {{version}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "How long ago was the policy loaded?",
                "Time since the policy was loaded, by process.",
                (
                    "time() - gateway_policy_loaded_timestamp_seconds{INSTANCE}",
                    "{{instance}}",
                ),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Do refreshes of issuer keys succeed?",
                "Refreshes in 10 minutes by outcome.",
                (
                    "sum by (issuer, outcome) (increase(gateway_key_refreshes_total{INSTANCE}[10m]))",
                    "{{issuer}} {{outcome}}",
                ),
                unit="short",
            )
        )
        .with_row(Row("People"))
        .with_panel(
            graph(
                "Do people log in with a browser?",
                f"Logins in 10 minutes by issuer and outcome. Some `lost` and `refused` are normal: {to_runbook('ConsoleGatewayBrowserLoginsFailing')} in the runbook.",
                (
                    "sum by (issuer, outcome) (increase(gateway_browser_logins_total{INSTANCE}[10m])) > 0",
                    "{{issuer}} {{outcome}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Why do browser sessions end?",
                "Sessions that ended in 10 minutes, by cause. `idle` and `absolute` are the time limits.",
                (
                    "sum by (by) (increase(gateway_browser_sessions_ended_total{INSTANCE}[10m]))",
                    "{{by}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Do notices about access requests arrive?",
                f"Attempts of webhooks in 10 minutes, and notices that wait: {to_runbook('ConsoleGatewayWebhooksLate')} in the runbook. Given up: {to_runbook('ConsoleGatewayNoticesGivenUp')}.",
                (
                    "sum by (webhook, outcome) (increase(gateway_webhook_attempts_total{INSTANCE}[10m]))",
                    "{{webhook}} {{outcome}}",
                ),
                ("max(gateway_webhook_notices_waiting{INSTANCE})", "waiting"),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Which steps do access requests take?",
                f"Steps in 10 minutes. Break-glass is access without an approval: {to_runbook('ConsoleGatewayBreakGlassUsed')} in the runbook.",
                (
                    "sum by (step) (increase(gateway_access_request_steps_total{INSTANCE}[10m]))",
                    "{{step}}",
                ),
                ("max by (state) (gateway_access_requests_open{INSTANCE})", "open: {{state}}"),
                unit="short",
            )
        )
        .with_row(Row("Audit log"))
        .with_panel(
            graph(
                "Which audit records are written?",
                "Durable records per second by event.",
                (
                    "sum by (event) (rate(gateway_audit_records_total{INSTANCE}[WINDOW])) > 0",
                    "{{event}}",
                ),
                unit="cps",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "How long do audit commits take?",
                "Records in a group share one fsync, and each response waits for its record. Above 50 ms users notice the disk.",
                *percentiles("gateway_audit_commit_duration_seconds", "INSTANCE"),
                unit="s",
                limits=((0.05, RED),),
            )
        )
        .with_panel(
            graph(
                "How far is the audit log behind?",
                "Age of the oldest record that is not durable. Normally below one second.",
                ("gateway_audit_lag_seconds{INSTANCE}", "{{instance}}"),
                unit="s",
                limits=((1, RED),),
            )
        )
        .with_panel(
            graph(
                "How much disk space is free for the audit log?",
                "Free share of the disk under audit.directory. Below 10 % an alert opens a ticket. On a full disk requests are rejected.",
                ("gateway_audit_disk_free_ratio{INSTANCE}", "{{instance}}"),
                unit="percentunit",
                limits=((NO_MINIMUM, RED), (0.1, GREEN)),
            )
        )
        .with_panel(
            graph(
                "Do writes to the audit log fail?",
                "Failed groups of records, and records missing for completed requests, in 10 minutes.",
                ("sum(increase(gateway_audit_failures_total{INSTANCE}[10m]))", "failed groups"),
                (
                    "sum(increase(gateway_audit_records_missing_total{INSTANCE}[10m]))",
                    "missing records",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "How many log lines are missing?",
                "Per second. Sampled out: because of `log.hit_sample_ratio`, or a caller above its limit. Dropped: the reader of stdout stalled. Audit records are complete.",
                (
                    "sum(rate(gateway_log_lines_dropped_total{INSTANCE}[WINDOW]))",
                    "dropped",
                ),
                (
                    "sum(rate(gateway_log_lines_sampled_out_total{INSTANCE}[WINDOW]))",
                    "sampled out",
                ),
                unit="cps",
            )
        )
    )
