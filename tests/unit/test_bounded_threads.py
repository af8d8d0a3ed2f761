"""Blocking calls in threads: an outcome is returned, or handed to `unused`."""

import asyncio
from threading import Event

import pytest

from gateway.drivers.host.bounded_threads import BoundedThreads
from tests.support.waiting import until


@pytest.mark.parametrize("turns", range(4))
async def test_outcome_of_a_cancelled_call_is_handed_over(turns: int) -> None:
    threads = BoundedThreads("test", threads_max=1, timeout_s=60.0)
    unused: list[str] = []
    was_called = Event()

    def call() -> str:
        was_called.set()
        return "outcome"

    doing = asyncio.create_task(threads.do(call, unused=unused.append))
    while not was_called.is_set():  # noqa: ASYNC110 - set by a thread
        await asyncio.sleep(0)
    for _ in range(turns):  # the outcome may arrive before the task runs again
        await asyncio.sleep(0)
    if doing.cancel():
        with pytest.raises(asyncio.CancelledError):
            await doing
        await until(lambda: unused == ["outcome"])
