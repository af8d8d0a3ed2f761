"""What one person may ask of the gateway, over all replicas, without a network on the way.

Each process counts for itself and admits at once; a background task adds up what all processes
counted a few times a second. Between two sums a caller may spend up to one burst per replica.
"""

from collections import OrderedDict
from contextlib import suppress

from gateway.errors import CallerLimited, StoreUnavailable
from gateway.ports import CallerUsage, Clock
from gateway.rules.pacing import Pace, spend, wait_for

_SYNC_EVERY_S = 0.25
_CALLERS_MAX = 50_000


class CallerLimits:
    def __init__(self, pace: Pace, usage: CallerUsage, clock: Clock) -> None:
        self._pace = pace
        self._usage = usage
        self._clock = clock
        self._tat: OrderedDict[str, float] = OrderedDict()
        self._unsynced: dict[str, int] = {}

    def admit(self, caller: str) -> None:
        """Count one request; raise CallerLimited (and count nothing) when it is one too many."""
        now = self._clock.monotonic()
        tat = self._tat.get(caller, now)
        wait_s = wait_for(tat, now, self._pace)
        if wait_s > 0:
            raise CallerLimited("over the caller's own limit", retry_after_s=wait_s)
        self._tat[caller] = spend(tat, now, self._pace)
        self._unsynced[caller] = self._unsynced.get(caller, 0) + 1
        if len(self._tat) > _CALLERS_MAX:
            self._tat.popitem(last=False)

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
        ahead = await self._usage.spend(counted, interval_s=self._pace.interval_s)
        now = self._clock.monotonic()
        for caller, seconds in ahead.items():
            since = self._unsynced.get(caller, 0) * self._pace.interval_s
            self._tat[caller] = max(self._tat.get(caller, now), now + seconds + since)

    def _forget_idle(self) -> None:
        now = self._clock.monotonic()
        for caller in [caller for caller, tat in self._tat.items() if tat <= now]:
            del self._tat[caller]
