"""The metrics of recordings (port `RecordingTelemetry`)."""

from collections.abc import Sequence
from itertools import product

from gateway.domain.recordings.index_lines import RemovalReason
from gateway.drivers.telemetry.metrics import Metrics
from gateway.flow.recordings.recording_telemetry import RecordingFailure, RewriteOutcome


class RecordingMetrics:
    def __init__(self, metrics: Metrics, accounts: Sequence[str]) -> None:
        """Export every series with the value 0: `accounts` are those that are recorded."""
        self._metrics = metrics
        failures = [one.value for one in RecordingFailure]
        metrics.begin_counter("gateway_recording_bytes_total", product(accounts))
        metrics.begin_counter("gateway_recording_failures_total", product(accounts, failures))
        for name, values in (
            ("gateway_recording_rewrites_total", RewriteOutcome),
            ("gateway_recordings_removed_total", RemovalReason),
        ):
            metrics.begin_counter(name, product([one.value for one in values]))

    def recording_written(self, account: str, size: int) -> None:
        self._metrics.count("gateway_recording_bytes_total", account, by=size)

    def recording_failed(self, account: str, failure: RecordingFailure) -> None:
        self._metrics.count("gateway_recording_failures_total", account, failure.value)

    def recording_rewritten(self, outcome: RewriteOutcome) -> None:
        self._metrics.count("gateway_recording_rewrites_total", outcome.value)

    def recording_removed(self, reason: RemovalReason) -> None:
        self._metrics.count("gateway_recordings_removed_total", reason.value)
