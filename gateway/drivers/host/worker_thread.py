"""Calls that may block for long, one after another in a thread of their own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerThread:
    """An executor's hand-over costs twice as much, and would wait for a hung call at the end."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    async def do(self, call: Callable[[], T]) -> T:
        """Return what it returns, or raise what it raises; who is cancelled does not stop it."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((call, done))
        return await done

    def end(self) -> None:
        """End after what was given to it; nobody waits for that."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, done = job
            try:
                tell = partial(_settle, done.set_result, done, call())
            except Exception as error:  # noqa: BLE001 - who waits is told, whatever it is
                tell = partial(_settle, done.set_exception, done, error)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(tell)


_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


def _settle(settle: Callable[[Any], None], done: "asyncio.Future[Any]", outcome: object) -> None:
    if not done.done():  # else nobody waits any more
        settle(outcome)
