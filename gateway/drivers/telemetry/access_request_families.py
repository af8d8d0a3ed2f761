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
)
