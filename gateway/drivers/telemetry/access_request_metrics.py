"""The metrics of access requests and of webhooks (ports `RequestTelemetry`, `WebhookTelemetry`)."""

import logging
from collections.abc import Sequence
from itertools import product

from gateway.drivers.telemetry.metrics import Metrics
from gateway.flow.requests.request_telemetry import RequestStep

log = logging.getLogger("gateway.requests")


class AccessRequestMetrics:
    def __init__(self, metrics: Metrics) -> None:
        """Export every series with the value 0."""
        self._metrics = metrics
        names = [one.value for one in RequestStep]
        metrics.begin_counter("gateway_access_request_steps_total", product(names))

    def request_step(self, step: RequestStep) -> None:
        self._metrics.count("gateway_access_request_steps_total", step.value)


class WebhookMetrics:
    def __init__(self, metrics: Metrics, names: Sequence[str]) -> None:
        """Export every series with the value 0; `names` of `requests.webhooks`."""
        self._metrics = metrics
        outcomes = ("ok", "retry", "gone", "dropped", "outdated")
        metrics.begin_counter("gateway_webhook_attempts_total", product(names, outcomes))

    def webhook_sent(self, webhook: str, outcome: str, error: str) -> None:
        self._metrics.count("gateway_webhook_attempts_total", webhook, outcome)
        fields = {"webhook": webhook, "error": error}
        if outcome == "retry":
            log.warning("webhook_failed", extra=fields)
        elif outcome in ("gone", "dropped"):
            log.error("webhook_given_up", extra=fields)
