"""The log events of the gateway, a stable interface for operators (docs/reference/log-events.md).

tests/tidy/test_log_events.py compares this table with every log call of the code.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LogEvent:
    logger: str
    """One logger, or several separated by commas."""
    level: str
    name: str
    fields: tuple[str, ...]
    """Without the common fields."""
    meaning: str
    action: str


_EXCEPTION: Final = ("exception", "where")
_NONE: Final = "None."

LOG_EVENTS: Final = (
    LogEvent(
        "gateway.request", "info", "request",
        (
            "status", "seconds", "client", "issuer", "subject", "operation", "project", "servers",
            "source", "link", "error_code", "error", "reason", "detail",
        ),
        "A request has ended. `source` and `link` (a fingerprint) are present for a returned link; "
        "`error_code`, `error` and `detail` for an error; `reason` for a rejected credential.",
        "Look up `error_code` in [errors](errors.md).",
    ),
    LogEvent(
        "gateway.request", "error", "request_failed", _EXCEPTION,
        "A request failed with an unexpected exception and was answered 500 CGW.5000.",
        "Report a bug, with `exception` and `where`.",
    ),
    LogEvent(
        "gateway.login", "info", "service_login_succeeded", ("account", "project"),
        "IAM issued a service token, which is shared by all replicas.",
        _NONE,
    ),
    LogEvent(
        "gateway.login", "error", "service_login_refused",
        ("account", "project", "status", "error_code"),
        "IAM rejected the login to the project, or the cloud rejected the key pair or the token of "
        "the file. The next attempt for this project is after 5, 10, then 30 minutes (a token "
        "file: 30 s, 1, then 5 minutes): the cloud must not lock the user or the key.",
        "After 404, correct the project's ID. After 401 for one project, restore the user's role "
        "in it. Otherwise correct user, domain, password, keys or token. What has changed is tried "
        "at once.",
    ),
    LogEvent(
        "gateway.login", "warning", "service_login_failed",
        ("account", "project", "error", "reason"),
        "IAM (for AK/SK: the servers API) could not be reached, did not respond in time, or "
        "failed. The next attempt is within 10 s.",
        "Check the network path to `accounts[].login.iam_endpoint`; run `gateway check --online`.",
    ),
    LogEvent(
        "gateway.login", "warning", "token_file_invalid", ("account", "file"),
        "The token file is missing or holds no valid token. The last valid token stays in use.",
        "Check the agent that writes the file; it must replace the file by a rename.",
    ),
    LogEvent(
        "gateway.console", "error", "console_session_failed", _EXCEPTION,
        "A live console ended because of an unexpected exception; the page shows close code 4010.",
        "Report a bug, with `exception` and `where`.",
    ),
    LogEvent(
        "gateway.console", "error", "console_entry_unreadable", ("kind",),
        "A ticket, session or command in Redis cannot be decrypted: another process has other seal "
        "keys or another version, or the entry is forged. It counts as absent.",
        "Compare `store.seal_keys` of all replicas.",
    ),
    LogEvent(
        "gateway.requests", "error", "access_requests_unreadable", ("count",),
        "Access requests in Redis cannot be decrypted: another process has other seal keys, or "
        "they are forged. They give no access. A process that knows them writes them again.",
        "Compare `store.seal_keys` of all replicas. Else look for other writers in Redis.",
    ),
    LogEvent(
        "gateway.requests", "warning", "webhook_failed", ("webhook", "error"),
        "A webhook did not accept a notice about an access request. It is tried again for a day.",
        "Check the receiver. The notice is late; nothing else waits for it.",
    ),
    LogEvent(
        "gateway.requests", "error", "webhook_given_up", ("webhook", "error"),
        "A notice is not delivered: a day has passed, or the receiver answered 410.",
        "Check `requests.webhooks`. `gateway requests list` has what the notice was about.",
    ),
    LogEvent(
        "gateway.recording", "error", "recording_failed", ("recording", "kind", "error"),
        "A recording could not be begun (`kind` start) or continued (write, sync, removed, "
        "stalled). "
        "With `accounts[].console.recording: required` its session has ended with close code 4013.",
        "Check the disk with `recordings.directory`: space, errors, permissions, mount.",
    ),
    LogEvent(
        "gateway.recording", "warning", "recording_recovered", ("recording", "part"),
        "A part of a recording was closed for a process that had died. What a browser has seen is "
        "in it.",
        _NONE,
    ),
    LogEvent(
        "gateway.recording", "error", "recording_rewrite_failed", ("recording", "part", "error"),
        "An open part could not be closed. It stays as it is, and the next pass tries again; this "
        "is logged once for each part.",
        "After a disk error, restore the disk. Otherwise the file was changed: run `gateway "
        "recordings verify`.",
    ),
    LogEvent(
        "gateway.recording", "error", "recording_key_missing", ("recording", "part", "error"),
        "An open part cannot be closed, because no key of `recordings.keys` opens its data key.",
        "Put the previous key back into `recordings.keys`.",
    ),
    LogEvent(
        "gateway.recording", "error", "recording_directory_unavailable", ("error",),
        "A pass over `recordings.directory` failed; recovery and retention try again later.",
        "Restore the disk.",
    ),
    LogEvent(
        "gateway.recording", "error", "recording_inaccessible", ("recording", "error"),
        "The files of one recording cannot be read, closed or deleted. The pass goes on with the "
        "others, and the next pass tries again.",
        "Check the disk, and the permissions of the recording's directory.",
    ),
    LogEvent(
        "gateway.recording", "info", "recording_removed", ("recording", "reason"),
        "Retention has removed a recording, because of `keep_days` or `bytes_max`.",
        _NONE,
    ),
    LogEvent(
        "gateway.recording", "warning", "recording_holds_large", ("on_hold_bytes", "bytes_max"),
        "The recordings on hold take more than `recordings.bytes_max`, which does not count them. "
        "Logged at each pass of retention.",
        "Lift the holds of closed cases, or move their recordings to another storage.",
    ),
    LogEvent(
        "gateway.recording", "warning", "recording_clock_stepped", ("by_s",),
        "The system clock was set by `by_s` seconds, more than a day. Retention skips this round.",
        "Check time synchronization.",
    ),
    LogEvent(
        "gateway.identity", "warning", "groups_claim_missing", ("issuer", "claims"),
        "A verified token of the issuer has no groups claim, or lacks one of several. Each process "
        "logs the first such token of an issuer; `gateway_identifications_total` with `outcome` "
        "ok_without_groups or groups_missing counts them.",
        "If the people have groups, correct `issuers[].claims.groups`, or request the scope that "
        "adds the claim. Some providers leave the claim out for people without groups.",
    ),
    LogEvent(
        "gateway.login", "warning", "login_failed", ("issuer", "error"),
        "A login with a browser failed. `error` begins with the reason (logins.md).",
        "See [logins](logins.md). Many `lost` are people who waited or went back.",
    ),
    LogEvent(
        "gateway.login", "warning", "login_refresh_failed", ("issuer", "error"),
        "The issuer did not answer when a session's tokens had to be refreshed. The session goes on"
        " for 2 minutes.",
        "Check that the gateway reaches the issuer.",
    ),
    LogEvent(
        "gateway.login", "warning", "provider_logout_failed", ("issuer", "error"),
        "A session of a browser has ended here, but the issuer did not answer, or refused to revoke"
        " the refresh token (RFC 7009). The gateway has deleted the token.",
        "Check that the gateway reaches the issuer, and that the client may use its"
        " `revocation_endpoint`.",
    ),
    LogEvent(
        "gateway.login", "warning", "logout_token_rejected", ("issuer", "error"),
        "The issuer, or someone else, sent a logout token that is not valid.",
        "Check the client's settings at the issuer if its logouts have no effect here.",
    ),
    LogEvent(
        "gateway.login", "warning", "logout_token_lost", ("error",),
        "A logout by the issuer had no effect, because Redis became unavailable meanwhile.",
        "Log the person out by a revocation: `gateway admin revoke`.",
    ),
    LogEvent(
        "gateway.login", "error", "login_entry_unreadable", ("kind",),
        "A login or a session in Redis cannot be read: it is forged, sealed with a key that this"
        " process lacks, or of another version.",
        "Check that all replicas have the same `store.seal_keys`.",
    ),
    LogEvent(
        "gateway.keys", "info", "keys_changed", ("issuer", "keys"),
        "The issuer's key set has changed; cached tokens of this issuer were dropped.",
        _NONE,
    ),
    LogEvent(
        "gateway.keys", "info", "keys_ignored", ("issuer", "keys"),
        "Keys of the issuer's key set that verify no token, each with the reason; logged when they "
        "change. Keys for encryption are normal.",
        "If tokens are rejected with `key_unknown`, correct `algorithms`, or the key set.",
    ),
    LogEvent(
        "gateway.keys", "warning", "keys_refresh_failed", ("issuer", "error"),
        "The issuer's keys could not be loaded. The keys loaded before stay in use until "
        "`keys_age_max_s`.",
        "Check the network path to the issuer, and the addresses under `issuers[].keys`.",
    ),
    LogEvent(
        "gateway.keys", "error", "keys_expired", ("issuer",),
        "The issuer's keys reached `keys_age_max_s` without a refresh. Its callers receive 503 "
        "CGW.5034.",
        "Restore the connection to the issuer; the keys are loaded within 30 s after it.",
    ),
    LogEvent(
        "gateway.policy", "info", "policy_loaded", ("version", "rules"),
        "A changed policy file is in force.",
        _NONE,
    ),
    LogEvent(
        "gateway.policy", "error", "policy_rejected", ("errors",),
        "The policy file is invalid; the policy loaded before stays in force.",
        "Correct the lines in `errors`.",
    ),
    LogEvent(
        "gateway.tls", "info", "certificate_loaded", ("listener", "expires"),
        "A renewed certificate is in use.",
        _NONE,
    ),
    LogEvent(
        "gateway.tls", "error", "certificate_rejected", ("listener", "error"),
        "The changed certificate files are invalid; the certificate loaded before stays in use.",
        "Correct the files in `error`.",
    ),
    LogEvent(
        "gateway.tls", "error", "certificate_date_invalid", ("listener", "problem"),
        "At the start the certificate was expired or not yet valid. It is served all the same.",
        "Renew the certificate; it is loaded without a restart.",
    ),
    LogEvent(
        "gateway.valkey", "info", "store_available", ("processes",),
        "Redis responds. `processes` counts the gateway's processes that use it.",
        _NONE,
    ),
    LogEvent(
        "gateway.valkey", "warning", "store_unavailable", ("error", "reason"),
        "Redis does not respond within `store.timeout_s`, or rejects calls. The process continues "
        "with its caches and its share of the budgets.",
        "Act on `reason`. See [failure modes](../explanation/failure-modes.md#redis).",
    ),
    LogEvent(
        "gateway.valkey", "info", "store_subscribed", (),
        "The process receives the messages that the processes send each other through Redis.",
        _NONE,
    ),
    LogEvent(
        "gateway.valkey", "warning", "store_subscription_lost", ("reason",),
        "Messages through Redis no longer arrive, although Redis responds. The process subscribes "
        "again, and polls until then: waits for links are up to 2 s longer.",
        "If it lasts, act on `reason`: the ACL user, or a proxy between gateway and Redis.",
    ),
    LogEvent(
        "gateway.overrides, gateway.inventory", "warning", "snapshot_write_failed",
        ("file", "error"),
        "A snapshot file could not be written, or the write takes longer than 2 s.",
        "Check space, permissions and health of the disk that holds the file.",
    ),
    LogEvent(
        "gateway.overrides", "error", "overrides_unreadable", ("count",),
        "Overrides in Redis cannot be decrypted: they were written with another seal key, or "
        "forged.",
        "Compare `store.seal_keys` of all replicas; see the runbook for removing an override.",
    ),
    LogEvent(
        "gateway.overrides", "warning", "dropped_links_not_published", ("projects",),
        "The value of `accounts[].console.delivery` has changed for these projects while Redis was "
        "unavailable. This process has dropped their cached links; the others drop theirs when "
        "Redis recovers.",
        "Restore Redis.",
    ),
    LogEvent(
        "gateway.overrides", "error", "override_failed", _EXCEPTION,
        "Overrides of one kind could not be applied in this process.",
        "Report a bug, with `exception` and `where`; restart the process to apply the overrides.",
    ),
    LogEvent(
        "gateway.admin", "info", "admin_request",
        (
            "action", "issuer", "subject", "client_address", "status", "error_code", "error",
        ),
        "A request to the admin API has ended; `error_code` and `error` are present for an error.",
        _NONE,
    ),
    LogEvent(
        "gateway.admin", "error", "admin_request_failed", _EXCEPTION,
        "A request to the admin API failed with an unexpected exception.",
        "Report a bug, with `exception` and `where`.",
    ),
    LogEvent(
        "gateway.admin", "error", "cluster_query_unreadable", (),
        "A query of another process cannot be decrypted: it has another seal key, or is forged.",
        "Compare `store.seal_keys` of all replicas.",
    ),
    LogEvent(
        "gateway.audit", "info", "audit_chain_opened", ("directory", "head"),
        "This process writes to the chain in `directory`, after the record `head`.",
        _NONE,
    ),
    LogEvent(
        "gateway.audit", "info", "audit_checkpoint", ("chain", "seq", "hash"),
        "A checkpoint is durable. Kept outside the audit log, it proves later that no record was "
        "cut off (`gateway audit verify --head`).",
        "Ship it with the other logs.",
    ),
    LogEvent(
        "gateway.audit", "error", "audit_write_failed", ("error",),
        "Records cannot be written. Requests are answered 503 CGW.5035, unless "
        "`audit.on_unavailable: allow`.",
        "Restore the disk or Redis; the process recovers by itself.",
    ),
    LogEvent(
        "gateway.audit", "warning", "audit_write_recovered", (),
        "Records are durable again after `audit_write_failed`.",
        _NONE,
    ),
    LogEvent(
        "gateway.audit", "error", "audit_stalled", (),
        "A write takes longer than 5 s: the disk hangs, or the reader of stdout does not read.",
        "Check the disk, or the process that reads the gateway's stdout.",
    ),
    LogEvent(
        "gateway.audit", "error", "audit_segment_missing", ("directory",),
        "The segment that this process writes to was removed or replaced. A new chain is started.",
        "Find out who removed it; verify the audit log.",
    ),
    LogEvent(
        "gateway.audit", "error", "audit_segment_modified", ("directory",),
        "Another process has written to the segment of this process.",
        "Find out who wrote to it; verify the audit log.",
    ),
    LogEvent(
        "gateway.audit", "warning", "audit_chain_key_mismatch", ("directory", "error"),
        "The chain in `directory` is signed with another key. A new chain is started.",
        "Expected after a change of `audit.signing_key`: keep the old public key for "
        "`gateway audit verify`.",
    ),
    LogEvent(
        "gateway.audit", "error", "audit_chain_unreadable", ("directory", "error"),
        "The end of the chain in `directory` cannot be verified. A new chain is started.",
        "Keep the directory, and verify it with `gateway audit verify`.",
    ),
    LogEvent(
        "gateway.audit", "warning", "audit_clock_stepped", ("by_s",),
        "The system clock was set by `by_s` seconds, more than a day. Retention skips this round.",
        "Check time synchronization.",
    ),
    LogEvent(
        "gateway.audit", "warning", "audit_stream_full", ("bytes_max",),
        "The audit stream in Redis has reached `audit.stream_bytes_max`; its oldest lines are "
        "removed before `keep_days`.",
        "Raise `audit.stream_bytes_max` and `maxmemory`, or write to a directory as well.",
    ),
    LogEvent(
        "gateway.audit", "error", "audit_stream_lagging", ("backlog",),
        "More than `backlog` records wait to be copied to Redis; the oldest are read from the disk "
        "later.",
        "Restore Redis.",
    ),
    LogEvent(
        "gateway.audit", "warning", "audit_stream_catchup_started", ("chain", "after", "through"),
        "Records that are missing in the stream are copied to it from the disk.",
        _NONE,
    ),
    LogEvent(
        "gateway.audit", "error", "audit_stream_lines_lost",
        ("chain", "after", "through", "missing", "reason"),
        "The stream lacks `missing` of the chain's records after `after` up to `through`: Redis "
        "lost them, or they could not be read from the disk.",
        "Find out why Redis lost data. The directory, if configured, has the records.",
    ),
    LogEvent(
        "gateway.audit", "error", "audit_stream_incomplete", ("unsent",),
        "The process ended before `unsent` records were copied to the stream; the disk has them.",
        _NONE,
    ),
    LogEvent(
        "gateway.supervisor", "info", "worker_started", ("worker", "pid"),
        "A worker process is ready.",
        _NONE,
    ),
    LogEvent(
        "gateway.supervisor", "info", "config_reloaded", ("workers",),
        "New workers with the changed config replaced the old ones.",
        _NONE,
    ),
    LogEvent(
        "gateway.supervisor", "error", "config_rejected", ("errors",),
        "The changed config is invalid, or its workers did not start; the old workers continue.",
        "Correct the lines in `errors`.",
    ),
    LogEvent(
        "gateway.supervisor", "error", "listen_failed", ("listener", "host", "port", "error"),
        "A listening socket could not be opened.",
        "Free the address, or change it in the config.",
    ),
    LogEvent(
        "gateway.supervisor", "warning", "inherited_socket_unused", ("host", "port"),
        "A socket that systemd passed has an address that is not in the config.",
        "Make the socket unit and the config agree.",
    ),
    LogEvent(
        "gateway.supervisor", "error", "worker_died", ("worker", "pid", "code"),
        "A worker exited unexpectedly with status `code` (negative: a signal). It is replaced.",
        "Look for `worker_failed` or `worker_hung` before it; check the memory limit.",
    ),
    LogEvent(
        "gateway.supervisor", "error", "worker_hung", ("worker", "pid"),
        "A worker's event loop did not run for 30 s. Its stacks are written to stderr, and it is "
        "killed and replaced.",
        "Report a bug, with the stacks.",
    ),
    LogEvent(
        "gateway.supervisor", "error", "worker_failed", ("worker", *_EXCEPTION),
        "A worker ended with an unexpected exception.",
        "Report a bug, with `exception` and `where`.",
    ),
    LogEvent(
        "gateway.worker", "info", "serving", ("worker",),
        "The worker accepts requests.",
        _NONE,
    ),
    LogEvent(
        "gateway.worker", "info", "draining", ("worker",),
        "The worker finishes its requests and accepts no new ones after `request.drain_delay_s`.",
        _NONE,
    ),
    LogEvent(
        "gateway.worker", "warning", "proxy_header_rejected", ("client", "reason"),
        "A connection did not begin with a valid PROXY protocol header and was closed. At most one"
        " line per 10 s after the first three.",
        "Make the proxy send version 2, and add its address to `listen.trusted_proxies`.",
    ),
    LogEvent(
        "gateway.worker", "error", "task_died", ("task", *_EXCEPTION),
        "A background task failed with an unexpected exception. It is restarted.",
        "Report a bug, with `exception` and `where`.",
    ),
)  # fmt: skip

BY_EVENT: Final = {event.name: event for event in LOG_EVENTS}


def render_log_events() -> str:
    """Return the text of docs/reference/log-events.md."""
    rows = [
        "# Log events",
        "",
        "Generated by `make docs` from `gateway/drivers/telemetry/log_events.py`.",
        "",
        "The gateway writes one JSON object per line to stdout. `log.level` and `log.modules` set",
        "the levels; `gateway.request` above `info` turns the request log off. `log.format: text`",
        "writes the same fields for a terminal. No line has a token, a console URL or the text of",
        "a library's exception. Audit lines (`audit.stdout`) are records, not log lines: see",
        "[audit records](audit-records.md).",
        "",
        "Common fields:",
        "",
        "| field | meaning |",
        "|---|---|",
        "| `time` | RFC 3339, in UTC, to the microsecond. |",
        "| `level` | debug, info, warning, error or critical. |",
        "| `logger` | One of the sections below, or the name of a library. |",
        "| `event` | The name in the tables below. |",
        "| `request_id` | The `X-Request-Id` of the response, if the event belongs to a request. |",
        "| `trace_id` | The trace of the request, if there is one. |",
        "| `exception`, `where` | Type and stack of an unexpected exception. |",
    ]
    for logger in dict.fromkeys(event.logger for event in LOG_EVENTS):
        rows += [
            "",
            f"## {logger}",
            "",
            "| event | level | fields | meaning | what to do |",
            "|---|---|---|---|---|",
        ]
        for event in LOG_EVENTS:
            if event.logger == logger:
                fields = ", ".join(f"`{name}`" for name in event.fields)
                rows.append(
                    f"| `{event.name}` | {event.level} | {fields} | {event.meaning} | "
                    f"{event.action} |"
                )
    return "\n".join([*rows, ""])
