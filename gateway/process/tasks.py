"""Task supervision: background tasks restart when they fail and end with their process."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from gateway.drivers.telemetry.metrics import Metrics
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.worker")

_RESTART_DELAY_S = 1.0
_CANCEL_INTERVAL_S = 0.5

BackgroundTask = Callable[[], Awaitable[None]]
"""Runs until it is cancelled."""


@asynccontextmanager
async def supervised(
    tasks: Mapping[str, BackgroundTask], clock: Clock, metrics: Metrics
) -> AsyncIterator[None]:
    """Run the background tasks, by name, while the context is open."""
    metrics.begin_tasks(tasks)
    async with asyncio.TaskGroup() as group:
        started = [
            group.create_task(supervise(name, task, clock, metrics.task_restarted), name=name)
            for name, task in tasks.items()
        ]
        try:
            yield
        finally:
            await _cancel_all(started)


async def supervise(
    name: str, task: BackgroundTask, clock: Clock, restarted: Callable[[str], None]
) -> None:
    """Run a background task forever: log each failure, count it and start the task again."""
    while True:
        try:
            await task()
        except Exception:  # a task that fails is a bug; the process continues to serve
            log.exception("task_died", extra={"task": name})
        restarted(name)
        await clock.sleep(_RESTART_DELAY_S)


async def _cancel_all(tasks: list["asyncio.Task[None]"]) -> None:
    """Cancel until all tasks have ended; redis-py swallows a cancellation while it connects."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_INTERVAL_S)
