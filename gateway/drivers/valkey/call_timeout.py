"""Timeouts for Redis calls that a late event loop does not trigger."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType

_LATE_S = 0.005
_GRACE_S = 0.03


class PatientTimer:
    """Call back at an instant, with a short grace period if the event loop is late.

    When the loop runs the timer late, the response may be in the socket, unread. Without the grace
    period a busy process would count a fast server as unavailable.
    """

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        """Call `callback` at `due`, by the clock of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self.reschedule(due)

    def reschedule(self, due: float) -> None:
        self._due = due
        self._timer = self._loop.call_at(due, self._expire)

    def cancel(self) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        now = self._loop.time()
        if now - self._due > _LATE_S:
            self._timer = self._loop.call_at(now + _GRACE_S, self._callback)
        else:
            self._callback()


_current: ContextVar["CallTimeout | None"] = ContextVar("call_timeout", default=None)


class CallTimeout:
    """Raise TimeoutError after `seconds`; the time in `connecting()` is limited separately."""

    def __init__(self, seconds: float, *, connect_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._connect_s = connect_s
        self._connect_until: float | None = None
        self._depth = 0
        self._timeout = asyncio.timeout(None)
        self._timer = PatientTimer(self._loop.time() + seconds, self._expire)
        self._token: Token[CallTimeout | None] | None = None

    async def __aenter__(self) -> None:
        self._token = _current.set(self)
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._token is not None:
            _current.reset(self._token)
        await self._timeout.__aexit__(kind, raised, traceback)

    def expire_if_connecting(self) -> None:
        """End the call at once if it has not been sent: the server was found unavailable."""
        if self._depth:
            self._expire()

    def begin_connecting(self) -> None:
        self._depth += 1
        if self._connect_until is None:
            self._connect_until = self._loop.time() + self._connect_s
        if self._depth == 1:
            self._restart(self._connect_until)

    def end_connecting(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._restart(self._loop.time() + self._seconds)

    def _restart(self, due: float) -> None:
        self._timer.cancel()
        if not self._timeout.expired():
            self._timer.reschedule(due)

    def _expire(self) -> None:
        self._timer.cancel()
        if not self._timeout.expired():
            self._timeout.reschedule(self._loop.time())


@contextmanager
def connecting() -> Iterator[None]:
    """Count the time in this context as connecting, for the current CallTimeout if there is one."""
    call = _current.get()
    if call is None:
        yield
        return
    call.begin_connecting()
    try:
        yield
    finally:
        call.end_connecting()
