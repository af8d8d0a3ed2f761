"""Waiting for a condition: no test depends on how fast the machine is."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until `condition()` is true. The limit only ends a test that would hang."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - other tasks, threads and processes change it
            await asyncio.sleep(0.005)
