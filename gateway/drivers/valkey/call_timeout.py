"""A timeout for Redis calls that a late event loop does not trigger."""

import asyncio
from types import TracebackType

_LATE_S = 0.005
_GRACE_S = 0.03


class CallTimeout:
    """Raise TimeoutError after `seconds`, with a short grace period if the event loop is late.

    When the loop runs the timer late, the response may be in the socket, unread. Without the grace
    period a busy process would count a fast server as unavailable.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._timeout = asyncio.timeout(None)
        self._timer = self._loop.call_at(self._due, self._expire)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, raised, traceback)

    def _expire(self) -> None:
        now = self._loop.time()
        if now - self._due > _LATE_S:
            self._due = now + _GRACE_S
            self._timer = self._loop.call_at(self._due, self._expire_now)
        else:
            self._expire_now()

    def _expire_now(self) -> None:
        self._timeout.reschedule(self._loop.time())
