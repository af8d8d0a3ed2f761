"""Port for listing and reading recordings."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from gateway.domain.recordings.model import PartTimes, RecordingInfo, RecordingPage, RecordingQuery


class Unreadable(Enum):
    """Why a recording cannot be read."""

    GONE = "gone"
    """Not in this directory: unknown, removed by retention, or on another host."""
    IN_PROGRESS = "in_progress"
    KEY_MISSING = "key_missing"
    CHANGED = "changed"
    UNAVAILABLE = "unavailable"
    """The directory cannot be read."""


class RecordingUnreadable(Exception):
    def __init__(self, reason: Unreadable, detail: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason


class RecordingReader(Protocol):
    """An open recording. Its methods raise RecordingUnreadable (CHANGED, UNAVAILABLE)."""

    @property
    def info(self) -> RecordingInfo: ...
    @property
    def parts(self) -> tuple[PartTimes, ...]: ...

    async def chunk(self, part: int, index: int) -> bytes:
        """Return the encoded records of a chunk; `part`: its number. Raises IndexError."""

    async def keystrokes(self, part: int, index: int) -> bytes:
        """Return the encoded records of a chunk of the keys.

        It is b"" if the reader was opened without them. Raises IndexError.
        """

    def close(self) -> None:
        """Close the files, without a wait for a read that hangs."""


class RecordingStore(Protocol):
    async def list(self, query: RecordingQuery, limit: int) -> RecordingPage:
        """Return the newest recordings in this directory.

        There may be fewer than `limit` before `until`: a page reads a bounded number of recordings,
        and at least those of a day. Raises RecordingUnreadable (UNAVAILABLE). A recording that is
        damaged is left out.
        """

    async def find(self, recording: str) -> RecordingInfo | None: ...
    async def check(self, found: Sequence[RecordingInfo]) -> Sequence[RecordingInfo]:
        """Return the recordings with what does not match the index in `problems`.

        Raises RecordingUnreadable (UNAVAILABLE).
        """

    async def open(self, recording: str, *, with_keystrokes: bool) -> RecordingReader:
        """Raise RecordingUnreadable: CHANGED if nothing in it can be relied on.

        Parts that do not match the index are in `info.problems`; those that can be read are.
        """
