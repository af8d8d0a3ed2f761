"""Port of the clocks."""

from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Return the wall clock, in seconds since the epoch: for claims and for display."""

    def monotonic(self) -> float:
        """Return seconds that never jump: for waits and deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait; return at once for zero and negative durations."""
