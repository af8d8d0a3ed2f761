"""The metrics of access requests, for the metrics contract."""

from typing import Final

from gateway.drivers.telemetry.metric_family import counter, gauge

ACCESS_REQUEST_FAMILIES: Final = (
    counter(
        "gateway_access_request_steps_total",
        "Steps of access requests.",
        step="requested, approved, denied, withdrawn, ended (early), break_glass",
    ),
    gauge(
        "gateway_access_requests_open",
        "Access requests that this process knows; every process knows all of them.",
        state="pending, active",
    ),
    counter(
        "gateway_webhook_attempts_total",
        "Attempts to deliver notices about access requests.",
        webhook="names of `requests.webhooks`",
        outcome="ok, retry, gone (410: not tried again), dropped (after a day), outdated (not sent:"
        " the request has changed since)",
    ),
    gauge(
        "gateway_webhook_notices_waiting",
        "Notices in the outbox of all replicas whose time has come.",
    ),
)
