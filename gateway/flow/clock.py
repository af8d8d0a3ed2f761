"""Time, as the flow needs it; drivers read the machine's clocks, tests have their own."""

from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Wall clock, seconds since the epoch: for claims and for display."""

    def monotonic(self) -> float:
        """Seconds that never jump: for waiting and for deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait; returns at once for zero and for negative spans."""
