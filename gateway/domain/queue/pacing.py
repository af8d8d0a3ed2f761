"""The generic cell rate algorithm (GCRA, ITU-T I.371) on one number. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """`requests` per `per_s` seconds, of which `burst` may come at once."""

    requests: float
    per_s: float
    burst: int

    @property
    def interval_s(self) -> float:
        return self.per_s / self.requests

    @property
    def tolerance_s(self) -> float:
        return self.interval_s * (self.burst - 1)

    def share(self, processes: int) -> "Pace":
        """Return the share of one of `processes` that cannot see each other: without a burst."""
        return Pace(self.requests / max(1, processes), self.per_s, 1)


def wait_for(tat: float, now: float, pace: Pace) -> float:
    """Return the seconds until a request conforms, given the theoretical arrival time (TAT)."""
    return max(0.0, tat - pace.tolerance_s - now)


def spend(tat: float, now: float, pace: Pace) -> float:
    """Return the new TAT after a request is admitted (or reserved)."""
    return max(tat, now) + pace.interval_s
