"""Circuit breaker for calls to the cloud. Pure; `now` is monotonic seconds.

Closed while calls succeed. Open, with no calls, after too many recent calls failed or were slow.
Then half open: one call goes as a probe, and its result decides.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerRules:
    calls_min: int
    """Calls within `within_s` that are needed before `failure_ratio` applies."""
    failure_ratio: float
    within_s: float
    slow_s: float
    """A call that takes longer counts as failed."""
    open_s: float
    """Seconds that the breaker stays open at first; doubled after each failed probe."""
    open_max_s: float


class Breaker:
    """The circuit breaker of one account."""

    def __init__(self, rules: BreakerRules, *, jitter: Callable[[], float]) -> None:
        """`jitter` returns numbers from 0 to 1. It keeps replicas from probing together."""
        self._rules = rules
        self._jitter = jitter
        self._recent: deque[tuple[float, bool]] = deque(maxlen=10 * rules.calls_min)
        self._open_until: float | None = None
        self._open_s = rules.open_s
        self._probing = False

    def state(self, now: float) -> BreakerState:
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def retry_after_s(self, now: float) -> float | None:
        """Return the seconds until a call may pass; None: now."""
        if self._open_until is None:
            return None
        if self._probing:
            return self._rules.open_s
        return self._open_until - now if now < self._open_until else None

    def begin(self) -> bool:
        """Register a call; return whether it is the probe (the breaker is half open)."""
        self._probing = self._open_until is not None
        return self._probing

    def end(self, now: float, *, probe: bool, failed: bool | None, seconds: float) -> bool:
        """Register the end of a call; return whether that opened the breaker.

        `failed` is None if the result is unknown. `probe` is what `begin` returned.
        """
        if probe:
            self._probing = False
        if failed is None:
            return False
        failed = failed or seconds > self._rules.slow_s
        if probe:
            if not failed:
                self._close()
                return False
            self._open_s = min(2 * self._open_s, self._rules.open_max_s)
            return self._open(now)
        if self._open_until is not None:
            return False  # it was sent before the breaker opened
        self._recent.append((now, failed))
        return failed and self._too_many_failed(now) and self._open(now)

    def _too_many_failed(self, now: float) -> bool:
        while self._recent[0][0] < now - self._rules.within_s:
            self._recent.popleft()
        failures = sum(failed for _, failed in self._recent)
        calls = len(self._recent)
        return calls >= self._rules.calls_min and failures >= self._rules.failure_ratio * calls

    def _open(self, now: float) -> bool:
        self._open_until = now + self._open_s * (0.75 + 0.5 * self._jitter())
        self._recent.clear()
        return True

    def _close(self) -> None:
        self._open_until = None
        self._open_s = self._rules.open_s
        self._recent.clear()
