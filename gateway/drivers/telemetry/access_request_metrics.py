"""The metrics of access requests (port `RequestTelemetry`)."""

from itertools import product

from gateway.drivers.telemetry.metrics import Metrics
from gateway.flow.requests.request_telemetry import RequestStep


class AccessRequestMetrics:
    def __init__(self, metrics: Metrics) -> None:
        """Export every series with the value 0."""
        self._metrics = metrics
        names = [one.value for one in RequestStep]
        metrics.begin_counter("gateway_access_request_steps_total", product(names))

    def request_step(self, step: RequestStep) -> None:
        self._metrics.count("gateway_access_request_steps_total", step.value)
