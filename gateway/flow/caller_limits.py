"""The rate limit per caller, over all replicas, without a network call per request.

Each process counts its own requests and decides at once. A background task adds up the counts of
all processes four times a second. Between two sums a caller may use one burst per process.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from gateway.domain.errors import CallerLimited, StoreUnavailable
from gateway.domain.queue.pacing import Pace
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext

_SYNC_EVERY_S = 0.25
_CALLERS_MAX = 50_000
_ROUNDING_S = 1e-6
"""Larger than rounding errors, which must not reject the last request of a burst."""


class CallerUsage(Protocol):
    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        """Add the number of requests by caller, or -1 for one taken back, to those of all replicas.

        Returns, by caller, how many seconds its theoretical arrival time is ahead of now. Raises
        StoreUnavailable.
        """


class Remaining(NamedTuple):
    """The remainder of a caller's limit."""

    requests: int
    """The number of requests that would be admitted now."""
    reset_s: int
    """Whole seconds until the full burst is available."""


class CallerLimits:
    def __init__(self, pace: Pace, usage: CallerUsage, clock: Clock) -> None:
        self.pace = pace
        self._interval_s, self._tolerance_s = pace.interval_s, pace.tolerance_s
        self._usage = usage
        self._clock = clock
        self._tat: OrderedDict[str, float] = OrderedDict()
        self._unsynced: dict[str, int] = {}

    def admit(self, caller: str) -> None:
        """Count one request; above the limit, raise CallerLimited without counting it."""
        now = self._clock.monotonic()
        # `wait_for` and `spend` of domain/queue/pacing.py, without the calls.
        tat = self._tat.get(caller, now)
        wait_s = tat - self._tolerance_s - now
        if wait_s > _ROUNDING_S:
            raise CallerLimited("the caller's rate limit is exceeded", retry_after_s=wait_s)
        self._tat[caller] = (tat if tat > now else now) + self._interval_s  # noqa: FURB136
        self._unsynced[caller] = self._unsynced.get(caller, 0) + 1
        if len(self._tat) > _CALLERS_MAX:
            self._tat.popitem(last=False)

    def take_back(self, caller: str) -> None:
        """Undo the count of one request."""
        if caller in self._tat:
            self._tat[caller] -= self._interval_s
        self._unsynced[caller] = self._unsynced.get(caller, 0) - 1

    def admit_once(self, request: RequestContext) -> None:
        """Count a request once, if its principal is known; raise CallerLimited."""
        if request.principal is not None and not request.is_admitted:
            self.admit(request.principal.key)
            request.is_admitted = True

    def remaining(self, caller: str) -> Remaining:
        """Return the remainder of the caller's limit, as this process knows it."""
        return Remaining(*self.remaining_at(self._clock.monotonic(), caller))

    def remaining_at(self, now: float, caller: str) -> tuple[int, int]:
        """Return the members of `remaining`; `now` is monotonic."""
        ahead_s = self._tat.get(caller, now) - now - _ROUNDING_S
        if ahead_s <= 0:
            return self.pace.burst, 0
        requests = int(self.pace.burst - ahead_s / self._interval_s)
        return max(0, requests), math.ceil(ahead_s)

    async def run(self) -> None:
        """Add up the counts of all replicas, until cancelled."""
        while True:
            await self._clock.sleep(_SYNC_EVERY_S)
            with suppress(StoreUnavailable):  # then this process's own counts apply
                await self.sync()
            self._drop_idle()

    async def sync(self) -> None:
        """Send this process's counts and adopt the sums; raise StoreUnavailable."""
        counted, self._unsynced = self._unsynced, {}
        if not counted:
            return
        ahead = await self._usage.spend(counted, interval_s=self.pace.interval_s)
        now = self._clock.monotonic()
        for caller, seconds in ahead.items():
            since = self._unsynced.get(caller, 0) * self.pace.interval_s
            self._tat[caller] = max(self._tat.get(caller, now), now + seconds + since)

    def _drop_idle(self) -> None:
        now = self._clock.monotonic()
        for caller in [caller for caller, tat in self._tat.items() if tat <= now]:
            del self._tat[caller]
