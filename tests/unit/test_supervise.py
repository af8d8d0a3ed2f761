import asyncio
import logging

import pytest

from gateway.process.tasks import supervise
from tests.support.clock import FakeClock, settle


async def test_failed_task_is_logged_counted_and_restarted(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    starts, restarted = 0, []

    async def loop() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise ValueError("canary")
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR, logger="gateway.worker"):
        task = asyncio.ensure_future(supervise("keys", loop, clock, restarted.append))
        await clock.advance(5.0)
    assert (starts, restarted) == (3, ["keys", "keys"])
    assert [record.getMessage() for record in caplog.records] == ["task_died", "task_died"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_cancelled_task_is_not_restarted(clock: FakeClock) -> None:
    restarted: list[str] = []
    task = asyncio.ensure_future(
        supervise("keys", asyncio.Event().wait, clock, restarted.append)  # type: ignore[arg-type]
    )
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert restarted == []
