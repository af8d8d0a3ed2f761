"""Port of the metrics of access requests."""

from enum import Enum
from typing import Protocol


class RequestStep(Enum):
    REQUESTED = "requested"
    APPROVED = "approved"
    """One approval; the access begins with the last one."""
    DENIED = "denied"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"
    """Before its time."""
    BREAK_GLASS = "break_glass"


class RequestTelemetry(Protocol):
    def request_step(self, step: RequestStep) -> None: ...
