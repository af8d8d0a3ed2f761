"""Whether it makes sense to call the cloud at all just now. Pure; `now` is monotonic.

Closed while calls succeed; open, with nothing sent, when too many of the last ones failed or were
slow; then half open: one call goes as a probe and decides for all.
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
    """So many calls within `within_s` before a part of them says anything."""
    failure_ratio: float
    within_s: float
    slow_s: float
    """A call that takes longer counts as failed."""
    open_s: float
    """How long nothing is sent at first; twice as long after each probe that failed."""
    open_max_s: float


class Breaker:
    """One account's, for one target."""

    def __init__(self, rules: BreakerRules, *, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 to 1: replicas shall not probe in step."""
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
        """Tell in how many seconds a call may be let through; None: now."""
        if self._open_until is None:
            return None
        if self._probing:
            return self._rules.open_s
        return self._open_until - now if now < self._open_until else None

    def begin(self) -> bool:
        """Note that a call is sent; tell whether it is the probe, as it is while half open."""
        self._probing = self._open_until is not None
        return self._probing

    def end(self, now: float, *, probe: bool, failed: bool | None, seconds: float) -> bool:
        """Note how a call ended (None: nobody knows); tell whether that opened the breaker.

        `probe` is what `begin` told of it.
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
            return False  # it was sent before
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
