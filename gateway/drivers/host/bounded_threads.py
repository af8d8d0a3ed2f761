"""Blocking calls that may hang: each in a thread of its own, and a bounded number at a time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class BoundedThreads:
    """A call that hangs keeps its thread; it delays no other user of threads, nor the exit."""

    def __init__(self, name: str, *, threads_max: int, timeout_s: float) -> None:
        """`timeout_s`: of a call, together with its wait for a thread."""
        self._name = name
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(threads_max)

    async def do(self, call: Callable[[], T], *, unused: Callable[[T], None] | None = None) -> T:
        """Return or raise the outcome of `call`; raise TimeoutError, which does not stop it.

        `unused` gets an outcome that is not awaited any more.
        """
        async with asyncio.timeout(self._timeout_s):
            await self._free.acquire()
            loop = asyncio.get_running_loop()
            done: asyncio.Future[T] = loop.create_future()
            try:
                work = partial(self._work, loop, call, done, unused)
                Thread(target=work, name=self._name, daemon=True).start()
            except BaseException:
                self._free.release()
                raise
            try:
                return await done
            except asyncio.CancelledError:
                is_lost = done.done() and not done.cancelled() and done.exception() is None
                if is_lost and unused is not None:  # it was there, but this had not run yet
                    unused(done.result())
                raise

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        call: Callable[[], T],
        done: "asyncio.Future[T]",
        unused: Callable[[T], None] | None,
    ) -> None:
        try:
            outcome = call()
        except Exception as error:  # noqa: BLE001 - raised where the call is awaited
            settle: Callable[[], Any] = partial(done.set_exception, error)
            discard: Callable[[], Any] | None = None
        else:
            settle = partial(done.set_result, outcome)
            discard = None if unused is None else partial(unused, outcome)

        def end() -> None:
            self._free.release()
            if not done.done():
                settle()
            elif discard is not None:
                discard()

        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(end)
