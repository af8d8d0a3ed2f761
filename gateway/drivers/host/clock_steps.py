"""Jumps of the wall clock: retention would take a wrong clock for the end of everything."""

from typing import Final

from gateway.flow.clock import Clock

_STEP_S: Final = 86_400.0


class ClockSteps:
    """Compares the wall clock with the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = 0.0

    def set_reference_time(self, at: float) -> None:
        """Treat the wall clock as right if it is now near this time, otherwise as stepped."""
        self._offset_s = at - self._clock.monotonic()

    def last_step_s(self) -> float:
        """Return by how much the wall clock has jumped since the last call, if more than a day.

        0: it has not. At the next call the clock is right again, or an operator knows of it.
        """
        stepped_s = self._clock.now() - self._clock.monotonic() - self._offset_s
        self._offset_s += stepped_s
        return stepped_s if abs(stepped_s) > _STEP_S else 0.0
