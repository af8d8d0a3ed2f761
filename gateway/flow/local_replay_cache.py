"""What this process may not take twice (ports.UsedOnce), for as long as no store says more."""

import math
from collections import OrderedDict

from gateway.flow.ports import Clock

_KEYS_MAX = 50_000
"""The oldest makes room: who sends so many writes within minutes is held back by other limits."""


class UsedHere:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    async def use(self, key: str, *, ttl_s: float) -> bool:
        now = self._clock.monotonic()
        if self._until.get(key, now) > now:
            return False
        self._until.pop(key, None)
        self._until[key] = now + ttl_s
        self._make_room(now)
        return True

    async def take_back(self, key: str) -> None:
        self._until.pop(key, None)

    def _make_room(self, now: float) -> None:
        while len(self._until) > _KEYS_MAX or next(iter(self._until.values()), math.inf) <= now:
            self._until.popitem(last=False)
