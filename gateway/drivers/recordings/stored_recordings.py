"""Lists and reads the recordings of a directory (port RecordingStore)."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final, TypeVar

from gateway.domain.recordings.model import PartTimes, RecordingInfo, RecordingQuery
from gateway.drivers.recordings.closed_part import ClosedPart
from gateway.drivers.recordings.open_part import PartChanged
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    part_files,
    read_details,
    read_info,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys
from gateway.flow.recordings.recording_store import (
    RecordingReader,
    RecordingUnreadable,
    Unreadable,
)

_T = TypeVar("_T")
_PARTS_MAX: Final = 1_000


class StoredRecordings:
    def __init__(self, directory: RecordingDirectory, keys: RecordingKeys) -> None:
        self._directory = directory
        self._keys = keys

    async def list(self, query: RecordingQuery) -> Sequence[RecordingInfo]:
        return await _do(lambda: sorted(self._matching(query), key=_started_at, reverse=True))

    async def find(self, recording: str) -> RecordingInfo | None:
        def read() -> RecordingInfo | None:
            path = self._directory.find(recording)
            return None if path is None else read_info(path)

        return await _do(read)

    async def open(self, recording: str, *, with_keystrokes: bool) -> RecordingReader:
        return await _do(partial(self._open, recording, with_keystrokes=with_keystrokes))

    def _matching(self, query: RecordingQuery) -> Iterator[RecordingInfo]:
        for path in self._directory.recordings():
            try:
                if query.matches(read_details(path)):
                    yield read_info(path)
            except (OSError, ValueError):  # removed meanwhile, or damaged: `verify` reports it
                continue

    def _open(self, recording: str, *, with_keystrokes: bool) -> "StoredRecording":
        path = self._directory.find(recording)
        if path is None:
            raise RecordingUnreadable(Unreadable.GONE)
        info = read_info(path)
        if info.is_open:
            raise RecordingUnreadable(Unreadable.IN_PROGRESS)
        keys = self._keys.unwrap(recording, read_wrapped_keys(path))
        if not with_keystrokes:
            keys = keys.without_keystrokes()
        with ExitStack() as stack:
            parts = {
                one.number: stack.enter_context(ClosedPart(one.file, keys))
                for one in part_files(path)[:_PARTS_MAX]
            }
            for number, part in parts.items():
                if (part.header.recording, part.header.part) != (recording, number):
                    raise PartChanged("the part belongs to another place")
            return StoredRecording(info, parts, stack.pop_all())


class StoredRecording:
    """Implements `RecordingReader`."""

    def __init__(self, info: RecordingInfo, parts: dict[int, ClosedPart], stack: ExitStack) -> None:
        self.info = info
        self.parts = tuple(
            PartTimes(one, found.chunks, found.marks, found.has_keystrokes)
            for one in info.parts
            if (found := parts.get(one.number)) is not None
        )
        self._parts = parts
        self._stack = stack
        self._lock = asyncio.Lock()

    async def chunk(self, part: int, index: int) -> bytes:
        return await self._read(part, lambda one: one.chunk(index))

    async def keystrokes(self, part: int) -> bytes:
        return await self._read(part, lambda one: one.keystrokes())

    async def close(self) -> None:
        async with self._lock:
            await asyncio.to_thread(self._stack.close)

    async def _read(self, part: int, read: Callable[[ClosedPart], bytes]) -> bytes:
        found = self._parts.get(part)
        if found is None:
            raise IndexError(part)
        async with self._lock:  # a file has one position
            return await _do(lambda: read(found))


async def _do(work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread; raise RecordingUnreadable for its errors."""
    try:
        return await asyncio.to_thread(work)
    except RecordingKeyMissing as error:
        raise RecordingUnreadable(Unreadable.KEY_MISSING, str(error)) from None
    except (PartChanged, ValueError) as error:
        raise RecordingUnreadable(Unreadable.CHANGED, str(error)) from None
    except FileNotFoundError:
        raise RecordingUnreadable(Unreadable.GONE) from None
    except OSError as error:
        raise RecordingUnreadable(Unreadable.UNAVAILABLE, error.strerror or "") from None


def _started_at(info: RecordingInfo) -> float:
    return info.details.started_at
