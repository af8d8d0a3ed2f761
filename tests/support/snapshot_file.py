"""A SnapshotFile in memory; the contract tests run against it and the real one."""

import asyncio
from collections.abc import Callable


class FakeSnapshotFile:
    def __init__(self, text: bytes | None = None) -> None:
        self.text = text

    def load(self) -> bytes | None:
        return self.text

    async def save(self, update: Callable[[bytes | None], bytes]) -> None:
        self.text = await asyncio.to_thread(update, self.text)
