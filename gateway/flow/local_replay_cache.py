"""In-process replay cache, consulted before the shared one and alone while Redis is unavailable."""

import math
from collections import OrderedDict

from gateway.flow.clock import Clock

_KEYS_MAX = 50_000
"""The oldest key is evicted. Other limits keep a caller below so many writes within minutes."""


class LocalReplayCache:
    """Implements the port `ReplayCache` for one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    async def use(self, key: str, *, ttl_s: float) -> bool:
        now = self._clock.monotonic()
        if self._until.get(key, now) > now:
            return False
        self._until.pop(key, None)
        self._until[key] = now + ttl_s
        self._evict(now)
        return True

    async def undo_use(self, key: str) -> None:
        self._until.pop(key, None)

    def _evict(self, now: float) -> None:
        while len(self._until) > _KEYS_MAX or next(iter(self._until.values()), math.inf) <= now:
            self._until.popitem(last=False)
