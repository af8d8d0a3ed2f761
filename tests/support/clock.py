"""A clock that only a test advances."""

import asyncio
import heapq
import itertools


class FakeClock:
    """Wall and monotonic time advance together; each sleeper wakes at its own time."""

    def __init__(self, now: float = 1_800_000_000.0, monotonic: float = 1_000.0) -> None:
        self._now = now
        self._monotonic = monotonic
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    @property
    def has_sleepers(self) -> bool:
        """Whether anything waits for a later time."""
        return any(not woken.done() for _, _, woken in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken

    def step_wall(self, seconds: float) -> None:
        """Change only the wall clock, as NTP or an operator does."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        """Advance the time and run each sleeper at its time, in order."""
        until = self._monotonic + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, woken = heapq.heappop(self._sleepers)
            self._now += at - self._monotonic
            self._monotonic = at
            if not woken.done():
                woken.set_result(None)
            await settle()
        self._now += until - self._monotonic
        self._monotonic = until
        await settle()


async def settle() -> None:
    """Run everything that can run without a change of time: up to 20 steps of each task."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    for _ in range(20):
        await asyncio.sleep(0)
        if not ready:
            return
