"""Calls that may block for long, one after another in a thread of their own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread


class OwnThread:
    """An executor's hand-over costs twice as much, and would wait for a hung call at the end."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    async def do(self, call: Callable[[], None]) -> None:
        """Return when it has, or raise what it raises; who is cancelled does not stop it."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._jobs.put((call, done))
        await done

    def end(self) -> None:
        """End after what was given to it; nobody waits for that."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, done = job
            failure: Exception | None = None
            try:
                call()
            except Exception as error:  # noqa: BLE001 - who waits is told, whatever it is
                failure = error
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(_settle, done, failure)


_Job = tuple[Callable[[], None], "asyncio.Future[None]"]


def _settle(done: "asyncio.Future[None]", failure: Exception | None) -> None:
    if done.done():
        return  # nobody waits any more
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)
