"""Write the dashboards: `python deploy/grafana/dashboards.py [DIRECTORY]`, or `make docs`."""

import re
import sys
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row
from panels import GREEN, RED, YELLOW, figure, graph, page, percentiles, to_json, to_runbook, words

HERE = Path(__file__).parent
NEVER_BELOW = float("-inf")


def service() -> Dashboard:
    return (
        page("Service", "Do people get their links, and how fast?", accounts=False)
        .with_panel(
            figure(
                "Which alerts fire?",
                "By name; each has its section in the runbook. Those of another instance count, too.",
                (
                    'count by (alertname) (ALERTS{job="console-gateway",alertstate="firing"})',
                    "{{alertname}}",
                ),
                unit="short",
                limits=((1, RED),),
                nothing="none",
                named=True,
                width=8,
            )
        )
        .with_panel(
            figure(
                "Which share of links fails now?",
                "Over 5 minutes: what ended in 5xx or CGW.4291. Red: somebody is paged if it lasts.",
                ("job:gateway_link_failures:ratio_rate5m", "{{job}}"),
                unit="percentunit",
                decimals=2,
                limits=((0.001, YELLOW), (0.006, RED)),
                nothing="no requests",
            )
        )
        .with_panel(
            figure(
                "Which share of links is slow now?",
                "Over 5 minutes: what took over 2.5 s. Red: somebody is paged if it lasts.",
                ("job:gateway_slow_links:ratio_rate5m", "{{job}}"),
                unit="percentunit",
                decimals=1,
                limits=((0.05, YELLOW), (0.3, RED)),
                nothing="no requests",
            )
        )
        .with_panel(
            figure(
                "How many processes answer?",
                "Targets of the job console-gateway that Prometheus reaches. Fewer than you run: see"
                f" {to_runbook('ConsoleGatewayTargetDown')} in the runbook.",
                ('sum(up{job="console-gateway",INSTANCE})', "up"),
                unit="short",
                limits=((NEVER_BELOW, RED), (1, GREEN)),
            )
        )
        .with_panel(
            figure(
                "How much of the month's error budget is left?",
                "1: nothing has failed; 0: a tenth of a percent has; below: the SLO is missed.",
                ("1 - job:gateway_link_failures:ratio_rate30d / 0.001", "{{job}}"),
                unit="percentunit",
                decimals=1,
                limits=((NEVER_BELOW, RED), (0.1, YELLOW), (0.5, GREEN)),
            )
        )
        .with_row(Row("Rate and errors"))
        .with_panel(
            graph(
                "How many requests come, and for what?",
                "Answers a second by operation; `none` is what was refused before it was known.",
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
                "What do callers hear that is not good?",
                "Refusals and failures a second by status and our code (docs/reference/errors.md); `cloud` is"
                " a code of the cloud's own. 5xx and CGW.4291 count against the SLO.",
                (
                    'sum by (status, error_code) (rate(gateway_requests_total{INSTANCE,status=~"[45].."}[WINDOW])) > 0',
                    "{{status}} {{error_code}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "How fast is the month's error budget burnt?",
                "1: just so fast that it lasts. Above 14.4 over an hour somebody is paged.",
                ("job:gateway_link_failures:ratio_rate5m / 0.001", "failed links, 5 min"),
                ("job:gateway_link_failures:ratio_rate1h / 0.001", "failed links, 1 h"),
                ("job:gateway_slow_links:ratio_rate5m / 0.05", "slow links, 5 min"),
                ("job:gateway_slow_links:ratio_rate1h / 0.05", "slow links, 1 h"),
                unit="short",
                limits=((1, YELLOW), (14.4, RED)),
            )
        )
        .with_panel(
            graph(
                "Whose links are these?",
                "Links a second by team (`metrics.teams` in the config); everybody else is `other`.",
                ("sum by (team) (rate(gateway_team_links_total{INSTANCE}[WINDOW]))", "{{team}}"),
                unit="reqps",
                stacked=True,
            )
        )
        .with_row(Row("Latency"))
        .with_panel(
            graph(
                "How long does a link take?",
                "Whole requests for links, given or failed, the wait for a place in the cloud's budget"
                " included. The dots are exemplars: requests whose trace can be looked up.",
                *percentiles("gateway_request_duration_seconds", 'INSTANCE,response="link"'),
                unit="s",
                limits=((2.5, RED),),
            )
        )
        .with_panel(
            graph(
                "Which stage takes the time?",
                "p95 of each stage of requests that got their link. `obtain` is the cloud and the wait"
                " for it; `record` the audit log's disk; the others should stay below 1 ms.",
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
                "Is the event loop late?",
                "p99 of how late the loop was, looked at twice a second. Above 100 ms requests wait for"
                " one another: too few processes, or a machine that is starved.",
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
                "How much CPU does each process take?",
                "A process can use one core; near 100 % it is time for one more.",
                (
                    'rate(process_cpu_seconds_total{job="console-gateway",INSTANCE}[WINDOW])',
                    "{{instance}}",
                ),
                unit="percentunit",
                limits=((0.8, YELLOW),),
            )
        )
        .with_panel(
            graph(
                "How much memory does each process hold?",
                "It grows until `memory` in the config is full, and then no more.",
                (
                    'process_resident_memory_bytes{job="console-gateway",INSTANCE}',
                    "{{instance}}",
                ),
                unit="bytes",
            )
        )
        .with_panel(
            graph(
                "Are there descriptors left?",
                "Share of those that the process may open.",
                (
                    'process_open_fds{job="console-gateway",INSTANCE}'
                    ' / process_max_fds{job="console-gateway",INSTANCE}',
                    "{{instance}}",
                ),
                unit="percentunit",
                limits=((0.8, RED),),
            )
        )
        .with_panel(
            graph(
                "Did anything die?",
                "Workers and background tasks that were started again, in 10 minutes.",
                (
                    "increase(gateway_worker_deaths_total{INSTANCE}[10m]) > 0",
                    "workers, told by {{instance}}",
                ),
                (
                    "sum(increase(gateway_task_restarts_total{INSTANCE}[10m]))",
                    "tasks",
                ),
                unit="short",
            )
        )
        .with_row(Row("Goals of 30 days, and what runs"))
        .with_panel(
            figure(
                "Did 99.9 % of 30 days' requests for links succeed?",
                "SLO 1, of whatever was recorded so far: links given, of these and of what ended in 5xx"
                " or CGW.4291. Callers' own mistakes count nowhere. Red: the month's budget is gone.",
                ("1 - job:gateway_link_failures:ratio_rate30d", "{{job}}"),
                unit="percentunit",
                decimals=3,
                limits=((NEVER_BELOW, RED), (0.999, GREEN)),
                width=6,
            )
        )
        .with_panel(
            figure(
                "Did 95 % of 30 days' links come within 2.5 s?",
                "SLO 2, of the links given and of the requests that failed (5xx); refusals do not count.",
                ("1 - job:gateway_slow_links:ratio_rate30d", "{{job}}"),
                unit="percentunit",
                decimals=2,
                limits=((NEVER_BELOW, RED), (0.95, GREEN)),
                width=6,
            )
        )
        .with_panel(
            figure(
                "Which versions are running?",
                "More than one for longer than a roll-out takes: it has stopped half-way.",
                ("count by (version) (gateway_build_info{INSTANCE})", "{{version}}"),
                unit="short",
                width=6,
            )
        )
        .with_panel(
            figure(
                "When does a certificate end?",
                "The earliest of each listener with TLS; a renewed file is taken over by itself.",
                (
                    "min by (listener)"
                    " (gateway_certificate_expires_timestamp_seconds{INSTANCE}) - time()",
                    "{{listener}}",
                ),
                unit="s",
                limits=((NEVER_BELOW, RED), (172_800, YELLOW), (1_209_600, GREEN)),
                width=6,
            )
        )
    )


def upstream() -> Dashboard:
    return (
        page(
            "Upstream and budget",
            "Does the cloud answer, and do its limits hold us up?",
            accounts=True,
        )
        .with_panel(
            figure(
                "Which share of calls fails?",
                "Over 5 minutes: no answer, or one that cannot be used; what the cloud says of a request"
                " is none.",
                (
                    'job_account:gateway_upstream_failures:ratio_rate5m{account=~"$account"}',
                    "{{account}}",
                ),
                unit="percentunit",
                decimals=1,
                limits=((0.05, YELLOW), (0.2, RED)),
                nothing="no calls",
            )
        )
        .with_panel(
            figure(
                "Are calls suspended?",
                "1: the cloud failed so often that nothing is sent for a moment; 0.5: one call probes.",
                ("max by (account) (gateway_breaker_open{ACCOUNT})", "{{account}}"),
                unit="short",
                limits=((0.5, YELLOW), (1, RED)),
            )
        )
        .with_panel(
            figure(
                "How long is the service token good?",
                "The shortest of all processes and projects. Below half an hour it was not renewed in time:"
                f" {to_runbook('ConsoleGatewayServiceTokenNotRenewed')} in the runbook.",
                (
                    "min by (account)"
                    " (gateway_service_credential_expires_timestamp_seconds{ACCOUNT} > 0) - time()",
                    "{{account}}",
                ),
                unit="s",
                limits=((NEVER_BELOW, RED), (1_800, GREEN)),
            )
        )
        .with_panel(
            figure(
                "Which share of calls meets a 429?",
                "Over 5 minutes. It should be 0: the budget is there so that the cloud need not say it.",
                (
                    'job_account:gateway_upstream_throttled:ratio_rate5m{account=~"$account"}',
                    "{{account}}",
                ),
                unit="percentunit",
                limits=((0.001, YELLOW), (0.01, RED)),
            )
        )
        .with_panel(
            figure(
                "How long will who comes now wait?",
                "The queue at the learned rate. Beyond `budget.wait_max_s` (20 s) callers are refused.",
                (
                    'job_account_budget:gateway_budget_queue_seconds:max{account=~"$account"}',
                    "{{account}} {{budget}}",
                ),
                unit="s",
                limits=((2, YELLOW), (10, RED)),
            )
        )
        .with_panel(
            figure(
                "How much of the budget is used?",
                "Calls over 5 minutes, of what operators allow. Near 100 % people wait.",
                (
                    'job_account_budget:gateway_budget_use:ratio_rate5m{account=~"$account"}',
                    "{{account}} {{budget}}",
                ),
                unit="percentunit",
                limits=((0.8, YELLOW), (0.95, RED)),
            )
        )
        .with_row(Row("Budget"))
        .with_panel(
            graph(
                "How near are calls to what the cloud takes?",
                "Calls a second, the rate that the cloud was learned to take, and the ceiling that"
                " operators allow. The rate falls after 429s and climbs back; one that hovers at the"
                " same place below the ceiling shows the true limit.",
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
                "How many calls wait?",
                "The queue before each budget, over all replicas.",
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
                "Its length at the learned rate. Beyond `budget.wait_max_s` (20 s) callers are refused.",
                (
                    'job_account_budget:gateway_budget_queue_seconds:max{account=~"$account"}',
                    "{{account}} {{budget}}",
                ),
                unit="s",
                limits=((10, RED),),
            )
        )
        .with_panel(
            graph(
                "How long did calls wait for their place?",
                "Percentiles over the calls that were sent.",
                *percentiles("gateway_budget_wait_seconds", "ACCOUNT", by="budget"),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "How many calls were told to come later?",
                "Calls refused at once since their place would have come too late (CGW.4291), and"
                " places that came too late, or into a pause, to be used.",
                (
                    "sum by (account, budget) (rate(gateway_budget_refusals_total{ACCOUNT}[WINDOW]))",
                    "refused, {{account}} {{budget}}",
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
                "How long is nothing sent, after a 429?",
                "What is left of the pause that all replicas keep.",
                (
                    "max by (account, budget) (gateway_budget_pause_seconds{ACCOUNT})",
                    "{{account}} {{budget}}",
                ),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Which processes keep to a share of their own?",
                "They cannot ask Redis, and take a part of the budget that cannot be too much.",
                (
                    "max by (instance, account, budget) (gateway_budget_local_fallback{ACCOUNT}) > 0",
                    "{{instance}}, {{account}} {{budget}}",
                ),
                unit="short",
            )
        )
        .with_row(Row("The cloud"))
        .with_panel(
            graph(
                "What does the cloud answer?",
                "Calls a second by outcome. `throttled`: a 429. `misconfigured`: it refuses our account."
                " `upstream_…`: no answer at all.",
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
                "Of the calls that it answered as it should.",
                *percentiles(
                    "gateway_upstream_duration_seconds", 'ACCOUNT,outcome="usable"', by="account"
                ),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Do calls fail?",
                "Share of calls without a usable answer, over 5 minutes.",
                (
                    'job_account:gateway_upstream_failures:ratio_rate5m{account=~"$account"}',
                    "{{account}}",
                ),
                unit="percentunit",
                limits=((0.2, RED),),
            )
        )
        .with_panel(
            graph(
                "How often are calls suspended?",
                "How often the breaker of each process opened in 10 minutes. One process alone: its network.",
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
                "Does the service account log in?",
                "Logins in 10 minutes by outcome. `refused`: the password or key is wrong, and nobody"
                " will be served once the token ends; `away`: IAM does not answer, or the token file is"
                " unreadable.",
                (
                    "sum by (account, outcome) (increase(gateway_service_logins_total{ACCOUNT}[10m]))",
                    "{{account}} {{outcome}}",
                ),
                unit="short",
            )
        )
    )


def links() -> Dashboard:
    return (
        page("Links", "Where do links come from, and how many calls do they save?", accounts=True)
        .with_panel(
            figure(
                "How many processes are without Redis?",
                "0: all reach it. Without it each goes on alone: slower, but there; an override set now"
                " reaches one process only.",
                ("sum(1 - gateway_store_available{INSTANCE})", "processes"),
                unit="short",
                limits=((1, RED),),
            )
        )
        .with_panel(
            figure(
                "Which share of links took no call?",
                "Links from memory, from Redis, or from another's call under way. The higher, the more"
                " people the budget serves; `reuse`, `lifetime_s` and `renew_before_s` move it.",
                (
                    'sum(rate(gateway_links_total{ACCOUNT,source!="upstream"}[$__range]))'
                    " / (sum(rate(gateway_links_total{ACCOUNT}[$__range])) > 0)",
                    "without a call",
                ),
                unit="percentunit",
            )
        )
        .with_panel(
            figure(
                "Which share waited for another's call?",
                "Coalesced: asked while somebody else's call for the same server was under way.",
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
                "How many links are held?",
                "Over all processes; a link that two hold counts twice.",
                ("sum(gateway_links_cached{INSTANCE})", "links"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "How many tokens are remembered?",
                "Callers' tokens that need not be verified again.",
                ("sum(gateway_tokens_cached{INSTANCE})", "tokens"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "How many fetches are under way?",
                "Calls for a link that one or several requests wait for.",
                ("sum(gateway_fetches_in_flight{INSTANCE})", "fetches"),
                unit="short",
            )
        )
        .with_row(Row("Source"))
        .with_panel(
            graph(
                "Where do links come from?",
                "Links a second: `local` from this process, `redis` from another replica's call,"
                " `coalesced` from a call under way, `upstream` from an own call.",
                ("sum by (source) (rate(gateway_links_total{ACCOUNT}[WINDOW]))", "{{source}}"),
                unit="reqps",
                stacked=True,
            )
        )
        .with_panel(
            graph(
                "How many links does one call of the cloud serve?",
                "Links handed out for each that was fetched, over what is shown.",
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
                "Are links renewed before they end?",
                "Early renewals in 10 minutes, which only spare budget pays for; what is not `ok` costs"
                " nothing but the next caller's wait.",
                (
                    "sum by (account, outcome) (increase(gateway_link_renewals_total{ACCOUNT}[10m]))",
                    "{{account}} {{outcome}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Is memory full before its time?",
                "Links and tokens pushed out before their end, a second. More than a few: raise `memory`"
                " in the config, or calls and verifications are done twice.",
                ("sum by (kind) (rate(gateway_evictions_total{INSTANCE}[WINDOW]))", "{{kind}}"),
                unit="cps",
            )
        )
        .with_row(Row("Redis"))
        .with_panel(
            graph(
                "How long does Redis take?",
                "Round trips that succeeded. A link from Redis takes one; above 10 ms look at the network.",
                *percentiles("gateway_store_duration_seconds", 'INSTANCE,outcome="ok"'),
                unit="s",
                limits=((0.05, RED),),
            )
        )
        .with_panel(
            graph(
                "Does Redis fail?",
                "Round trips that failed, a second by process.",
                (
                    'sum by (instance) (rate(gateway_store_duration_seconds_count{INSTANCE,outcome="failed"}[WINDOW]))',
                    "{{instance}}",
                ),
                unit="cps",
            )
        )
        .with_panel(
            graph(
                "Which share of round trips is slow?",
                "Over 50 ms, in 5 minutes, by process; one process alone means the process.",
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
                "Which processes are without Redis?",
                "1: this process does not reach it, and goes on alone.",
                ("1 - gateway_store_available{INSTANCE}", "{{instance}}"),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "How old is what tag rules go by?",
                "Age of the inventory, of `age_max_s`; the policy looks at it only if it has rules by"
                " attributes. From 100 % on such rules give nobody anything.",
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
                "Do looks at the inventory succeed?",
                "In 10 minutes, by outcome.",
                (
                    "sum by (account, outcome) (increase(gateway_inventory_polls_total{ACCOUNT}[10m]))",
                    "{{account}} {{outcome}}",
                ),
                unit="short",
            )
        )
    )


def security() -> Dashboard:
    return (
        page("Security", "Who is refused, and is all of it on record?", accounts=False)
        .with_panel(
            figure(
                "Is the audit log durable?",
                "The least of all processes. 0: the latest write failed, and answers are 503 unless"
                f" `on_unavailable` is `allow`: {to_runbook('ConsoleGatewayAuditNotDurable')} in the runbook.",
                ("min(gateway_audit_durable{INSTANCE})", "durable"),
                unit="short",
                limits=((NEVER_BELOW, RED), (1, GREEN)),
            )
        )
        .with_panel(
            figure(
                "Is anything missing on record?",
                "In a day: what became of writes, or anything where operators chose to serve so.",
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
                "Are the files of policy and config in force?",
                "The number of processes whose gateway refused the file as it stands; what was before it"
                " is in force.",
                ("sum(gateway_policy_rejected{INSTANCE})", "policy refused"),
                ("sum(gateway_config_rejected{INSTANCE})", "config refused"),
                unit="short",
                limits=((1, RED),),
            )
        )
        .with_panel(
            figure(
                "Has every process loaded the revocations?",
                "1: all of them. 0: some loaded them neither from Redis nor from their file; they reject callers.",
                ("min(gateway_overrides_loaded{INSTANCE})", "loaded"),
                unit="short",
                limits=((NEVER_BELOW, RED), (1, GREEN)),
            )
        )
        .with_panel(
            figure(
                "What is revoked now?",
                "Revocations in force by kind; they end when the last token that they cover has.",
                ("max by (kind) (gateway_revocations{INSTANCE})", "{{kind}}"),
                unit="short",
            )
        )
        .with_panel(
            figure(
                "How old are the issuers' keys?",
                "Of what is allowed (`keys_age_max_s`); at 100 % nobody's token is accepted any more.",
                (
                    "max by (issuer) (gateway_keys_age_seconds{INSTANCE} / gateway_keys_age_max_seconds{INSTANCE})",
                    "{{issuer}}",
                ),
                unit="percentunit",
                limits=((0.5, YELLOW), (0.8, RED)),
            )
        )
        .with_row(Row("Refusals"))
        .with_panel(
            graph(
                "Why are credentials refused?",
                "A second by reason. `expired` is daily life; `signature`, `algorithm` and"
                " `signature_replayed` are somebody's try; `revoked` is who was cut off.",
                (
                    'sum by (issuer, outcome) (rate(gateway_identifications_total{INSTANCE,outcome!~"ok|cached"}[WINDOW])) > 0',
                    "{{issuer}} {{outcome}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "What does the policy say?",
                "Decisions a second by permission; who was denied what is in the audit log only.",
                (
                    "sum by (permission, decision) (rate(gateway_decisions_total{INSTANCE}[WINDOW])) > 0",
                    "{{permission}} {{decision}}",
                ),
                unit="reqps",
            )
        )
        .with_panel(
            graph(
                "Is the share of refusals odd?",
                "Of requests, now and a day ago: 401 and 403. A step without a change of policy or issuer"
                " is somebody who tries, or a client that broke.",
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
                "What is asked of the admin API?",
                "Requests in 10 minutes by action and status. 401 and 403 on a listener that only"
                " operators reach are worth a question.",
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
                "When were policy and config taken over, or refused?",
                "In 10 minutes: of policies over all processes; a refused config is told by each worker.",
                (
                    "sum by (outcome) (increase(gateway_policy_reloads_total{INSTANCE}[10m]))",
                    "policy {{outcome}}",
                ),
                (
                    "increase(gateway_config_rejections_total{INSTANCE}[10m]) > 0",
                    "config rejected, told by {{instance}}",
                ),
                unit="short",
            )
        )
        .with_panel(
            graph(
                "Do all processes have the same policy?",
                "Processes by what they decide with: two lines for longer than a change takes are replicas"
                " that decide differently.",
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
                "By process.",
                (
                    "time() - gateway_policy_loaded_timestamp_seconds{INSTANCE}",
                    "{{instance}}",
                ),
                unit="s",
            )
        )
        .with_panel(
            graph(
                "Do issuers give their keys?",
                "Loads in 10 minutes by outcome.",
                (
                    "sum by (issuer, outcome) (increase(gateway_key_refreshes_total{INSTANCE}[10m]))",
                    "{{issuer}} {{outcome}}",
                ),
                unit="short",
            )
        )
        .with_row(Row("Audit log"))
        .with_panel(
            graph(
                "What goes on record?",
                "Durable records a second by event.",
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
                "How long does it take to be durable?",
                "Groups of records share one fsync; every answer waits for its own. Above 50 ms people feel"
                " the disk.",
                *percentiles("gateway_audit_commit_duration_seconds", "INSTANCE"),
                unit="s",
                limits=((0.05, RED),),
            )
        )
        .with_panel(
            graph(
                "Is the audit log behind?",
                "Age of the oldest record that is not durable yet. It should stay below a second.",
                ("gateway_audit_lag_seconds{INSTANCE}", "{{instance}}"),
                unit="s",
                limits=((1, RED),),
            )
        )
        .with_panel(
            graph(
                "How much room has the audit log?",
                "Which part of the disk under audit.directory is free. Below a tenth is a ticket; when"
                " nothing is left nothing is handed out.",
                ("gateway_audit_disk_free_ratio{INSTANCE}", "{{instance}}"),
                unit="percentunit",
                limits=((NEVER_BELOW, RED), (0.1, GREEN)),
            )
        )
        .with_panel(
            graph(
                "Does the audit log fail?",
                "Groups that could not be written, and records that are missing of what was done all the"
                " same, in 10 minutes.",
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
                "How many lines are missing in the log?",
                "A second: left out, since `log.hit_sample_ratio` says so or their callers ask too often; dropped,"
                " since their reader stalled. Audit records are complete.",
                (
                    "sum(rate(gateway_log_lines_dropped_total{INSTANCE}[WINDOW]))",
                    "dropped",
                ),
                (
                    "sum(rate(gateway_log_lines_sampled_out_total{INSTANCE}[WINDOW]))",
                    "left out",
                ),
                unit="cps",
            )
        )
    )


def runbook() -> Dashboard:
    text = (HERE.parent / "runbook.md").read_text()
    head, *parts = re.split(r"^## (\w+)\n+", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    _, _, intro = head.partition("\n")
    index = " · ".join(map(to_runbook, sections))
    made = page(
        "Runbook",
        "What users feel, how to confirm it, what to do: deploy/runbook.md, as it was when these"
        " dashboards were written.",
        accounts=False,
    ).with_panel(words("An alert fires: what now?", f"{index}\n{intro}", height=16))
    for alert, content in sections.items():
        made = made.with_panel(words(alert, content))
    return made


DASHBOARDS = {
    "service": service,
    "upstream": upstream,
    "links": links,
    "security": security,
    "runbook": runbook,
}


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "dashboards"
    for name, build in DASHBOARDS.items():
        (directory / f"{name}.json").write_text(to_json(build()))


if __name__ == "__main__":
    main()
