"""Work that runs to its end although its caller is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class ShieldedTasks:
    """Starts such work, and refers to it until it has ended."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.create_task(work)  # noqa: TID251 - it outlives its request
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def __len__(self) -> int:
        """Return the number of those that have not ended."""
        return len(self._running)

    async def cancel(self) -> None:
        """Cancel the work that has not ended, and wait for it."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(set(self._running))

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of `work`; a cancelled caller does not cancel it."""
        return await asyncio.shield(self.start(work))
