"""The metrics of live consoles and recordings, a part of the metrics contract."""

from typing import Final

from gateway.drivers.telemetry.metric_family import ACCOUNT, counter, gauge

CONSOLE_METRIC_FAMILIES: Final = (
    counter(
        "gateway_console_tickets_rejected_total",
        "One-time addresses of live consoles that did not open a session.",
        reason="garbage, gone (spent or expired), origin (another site), form (not JSON), request"
        " (malformed), address (in a path), right, person (another one is logged in), in_use,"
        " limit, audit",
    ),
    counter(
        "gateway_console_requests_rejected_total",
        "Requests and WebSockets by the cookie of a live console that were rejected.",
        reason="origin (another site), cookie (missing), first_message (not the page's), limit (too"
        " many from one address)",
    ),
    counter(
        "gateway_console_sessions_started_total",
        "Live consoles that were started.",
        **ACCOUNT,
        mode="control, view",
    ),
    counter(
        "gateway_console_sessions_ended_total",
        "Live consoles that have ended.",
        **ACCOUNT,
        end="ends of a session (console-ends.md)",
    ),
    counter(
        "gateway_console_resumes_total",
        "Connections of pages whose earlier connection was lost or moved.",
        outcome="ok, stale (not the current page), gone, unknown (not registered, or long gone),"
        " unavailable (Redis)",
    ),
    gauge(
        "gateway_console_connections",
        "Live consoles whose page is connected to this process. Worker 0 adds those of replaced"
        " workers, whose admin ports are closed.",
        **ACCOUNT,
    ),
    gauge(
        "gateway_console_account_sessions_max",
        "`accounts[].console.sessions_max`: live consoles of the account that may run at once, over"
        " all processes.",
        **ACCOUNT,
    ),
    gauge(
        "gateway_console_sessions_max",
        "`console.sessions_max`: live consoles that may run at once, over all processes.",
    ),
    gauge(
        "gateway_console_on_old_inventory",
        "Live consoles of this process that run on an inventory too old to open a new one.",
    ),
    counter(
        "gateway_recording_bytes_total",
        "Encrypted bytes of recordings that the operating system has accepted.",
        **ACCOUNT,
    ),
    counter(
        "gateway_recording_failures_total",
        "Recordings that could not be begun, or that failed while the console was live.",
        **ACCOUNT,
        reason="start, write, sync, removed (its file), stalled (no progress for 1 s)",
    ),
    counter(
        "gateway_recording_rewrites_total",
        "Open parts of recordings that were closed: rewritten as compressed chunks.",
        outcome="closed, recovered (after a crash), failed (tried again)",
    ),
    counter(
        "gateway_recordings_removed_total",
        "Recordings that retention has removed.",
        reason="keep_days, bytes_max",
    ),
    gauge(
        "gateway_recordings_open",
        "Parts of recordings that this process writes.",
    ),
    gauge(
        "gateway_recording_lag_seconds",
        "Age of the oldest byte of a recording that would be lost with this host.",
    ),
    gauge(
        "gateway_recordings_bytes",
        "Bytes of all recordings in `recordings.directory`, measured every 10 minutes.",
    ),
    gauge(
        "gateway_recordings_on_hold_bytes",
        "Bytes of those recordings that are on hold, measured every 10 minutes.",
    ),
    gauge(
        "gateway_recordings_max_bytes",
        "`recordings.bytes_max`, for those that are not on hold; +Inf without it.",
    ),
    gauge(
        "gateway_recordings_disk_free_bytes",
        "Bytes left on the disk with `recordings.directory`, measured every 10 minutes.",
    ),
    gauge(
        "gateway_recordings_disk_days",
        "Days until the disk with `recordings.directory` is full, at the mean rate of the last 7"
        " days and if nothing is removed; +Inf without recordings.",
    ),
)
