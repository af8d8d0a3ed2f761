"""Port of a file that outlives the process."""

from collections.abc import Callable
from typing import Protocol


class SnapshotFile(Protocol):
    """A file for state that outlives the process and an outage of the cloud or of Redis."""

    def load(self) -> bytes | None:
        """Return the saved text; None if there is none."""

    async def save(self, update: Callable[[bytes | None], bytes]) -> None:
        """Replace the text by `update(text)`, while no other process saves.

        `update` runs in a thread. A failed write is logged and not raised; a hung disk is waited
        for without a limit.
        """
