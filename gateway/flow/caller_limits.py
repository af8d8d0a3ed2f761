"""What one person may ask of the gateway, over all replicas, without a network on the way.

Each process counts for itself and admits at once; a background task adds up what all processes
counted a few times a second. Between two sums a caller may spend up to one burst per replica.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, Protocol

from gateway.domain.errors import CallerLimited, StoreUnavailable
from gateway.domain.queue.pacing import Pace, spend, wait_for
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext

_SYNC_EVERY_S = 0.25
_CALLERS_MAX = 50_000
_ROUNDING_S = 1e-6
"""Sums of floats are off by less: the last of a burst would be refused, or told wrong."""


class CallerUsage(Protocol):
    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        """Add these callers' requests to what all replicas counted.

        Returns how many seconds each caller's theoretical arrival time lies ahead.
        Raises StoreUnavailable.
        """


class Remaining(NamedTuple):
    requests: int
    """So many would be admitted at once."""
    restored_in_s: int
    """Whole seconds until the full burst is there again."""


class CallerLimits:
    def __init__(self, pace: Pace, usage: CallerUsage, clock: Clock) -> None:
        self.pace = pace
        self._usage = usage
        self._clock = clock
        self._tat: OrderedDict[str, float] = OrderedDict()
        self._unsynced: dict[str, int] = {}

    def admit(self, caller: str) -> None:
        """Count one request; raise CallerLimited (and count nothing) when it is one too many."""
        now = self._clock.monotonic()
        tat = self._tat.get(caller, now)
        wait_s = wait_for(tat, now, self.pace)
        if wait_s > _ROUNDING_S:
            raise CallerLimited("over the caller's own limit", retry_after_s=wait_s)
        self._tat[caller] = spend(tat, now, self.pace)
        self._unsynced[caller] = self._unsynced.get(caller, 0) + 1
        if len(self._tat) > _CALLERS_MAX:
            self._tat.popitem(last=False)

    def admit_once(self, request: RequestContext) -> None:
        """Count the request, once, of whom it is known by now whose it is; raise CallerLimited."""
        if request.principal is not None and not request.is_admitted:
            self.admit(request.principal.key)
            request.is_admitted = True

    def remaining(self, caller: str) -> Remaining:
        """Tell what the caller has left, as far as this process knows; counts nothing."""
        now = self._clock.monotonic()
        ahead_s = self._tat.get(caller, now) - now - _ROUNDING_S
        if ahead_s <= 0:
            return Remaining(self.pace.burst, 0)
        requests = int(self.pace.burst - ahead_s / self.pace.interval_s)
        return Remaining(max(0, requests), math.ceil(ahead_s))

    async def run(self) -> None:
        """Add up with the other replicas, for ever."""
        while True:
            await self._clock.sleep(_SYNC_EVERY_S)
            with suppress(StoreUnavailable):  # each replica's own count goes on
                await self.sync()
            self._forget_idle()

    async def sync(self) -> None:
        """Send what was counted here and take over what all counted; raise StoreUnavailable."""
        counted, self._unsynced = self._unsynced, {}
        if not counted:
            return
        ahead = await self._usage.spend(counted, interval_s=self.pace.interval_s)
        now = self._clock.monotonic()
        for caller, seconds in ahead.items():
            since = self._unsynced.get(caller, 0) * self.pace.interval_s
            self._tat[caller] = max(self._tat.get(caller, now), now + seconds + since)

    def _forget_idle(self) -> None:
        now = self._clock.monotonic()
        for caller in [caller for caller, tat in self._tat.items() if tat <= now]:
            del self._tat[caller]
