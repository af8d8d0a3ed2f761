"""A KeptFile in memory; the contract suite holds it to what the disk does."""

import asyncio
from collections.abc import Callable


class FakeSnapshotFile:
    def __init__(self, text: bytes | None = None) -> None:
        self.text = text

    def load(self) -> bytes | None:
        return self.text

    async def save(self, made_of: Callable[[bytes | None], bytes]) -> None:
        self.text = await asyncio.to_thread(made_of, self.text)
