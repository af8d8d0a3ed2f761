"""The system clock; ruff bans reading it in any other module."""

import asyncio
import time


class SystemClock:
    now = staticmethod(time.time)  # noqa: TID251
    monotonic = staticmethod(time.monotonic)  # noqa: TID251

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
