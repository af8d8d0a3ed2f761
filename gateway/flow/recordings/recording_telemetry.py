"""Port of the metrics of recordings."""

from enum import Enum
from typing import Protocol

from gateway.domain.recordings.index_lines import RemovalReason


class RecordingFailure(Enum):
    START = "start"
    """The part could not be opened."""
    WRITE = "write"
    SYNC = "sync"
    REMOVED = "removed"
    """The file was removed or replaced."""
    STALLED = "stalled"
    """The disk has accepted nothing for a second."""


class RewriteOutcome(Enum):
    CLOSED = "closed"
    RECOVERED = "recovered"
    """The process that wrote the part had died."""
    FAILED = "failed"


class RecordingTelemetry(Protocol):
    def recording_written(self, account: str, size: int) -> None: ...
    def recording_failed(self, account: str, failure: RecordingFailure) -> None: ...
    def recording_rewritten(self, outcome: RewriteOutcome) -> None: ...
    def recording_removed(self, reason: RemovalReason) -> None: ...
