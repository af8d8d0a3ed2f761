"""Lists and reads the recordings of a directory (port RecordingStore)."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from gateway.domain.recordings.model import (
    PartInfo,
    PartState,
    PartTimes,
    RecordingInfo,
    RecordingQuery,
)
from gateway.domain.recordings.verdicts import Judgement
from gateway.drivers.recordings.closed_part import ClosedPart
from gateway.drivers.recordings.found_recordings import find_problems
from gateway.drivers.recordings.open_part import PartChanged
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    has_header,
    lock_part,
    part_files,
    read_details,
    read_info,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_keys import (
    DataKeys,
    RecordingKeyMissing,
    RecordingKeys,
)
from gateway.flow.recordings.recording_store import (
    RecordingReader,
    RecordingUnreadable,
    Unreadable,
)

_T = TypeVar("_T")
_PARTS_MAX: Final = 1_000
_UNREADABLE: Final = "it cannot be read"
_NOT_CLOSED: Final = "it could not be closed yet, and cannot be played"


class StoredRecordings:
    def __init__(self, directory: RecordingDirectory, keys: RecordingKeys) -> None:
        self._directory = directory
        self._keys = keys

    async def list(self, query: RecordingQuery) -> Sequence[RecordingInfo]:
        return await _do(lambda: sorted(self._matching(query), key=_started_at, reverse=True))

    async def find(self, recording: str) -> RecordingInfo | None:
        def read() -> RecordingInfo | None:
            path = self._directory.find(recording)
            try:
                return None if path is None else read_info(path)
            except (FileNotFoundError, ValueError):  # nothing says who may view it
                return None

        return await _do(read)

    async def check(self, found: Sequence[RecordingInfo]) -> Sequence[RecordingInfo]:
        def check() -> Sequence[RecordingInfo]:
            problems = find_problems(self._directory, [one.details.id for one in found])
            return [
                replace(one, problems=_texts(problems.get(one.details.id, ()))) for one in found
            ]

        return await _do(check)

    async def open(self, recording: str, *, with_keystrokes: bool) -> RecordingReader:
        return await _do(partial(self._open, recording, with_keystrokes=with_keystrokes))

    def _matching(self, query: RecordingQuery) -> Iterator[RecordingInfo]:
        for path in self._directory.begun(query.since, query.until):
            try:
                if query.matches(read_details(path)):
                    yield read_info(path)
            except (OSError, ValueError):  # removed meanwhile, or damaged: `verify` reports it
                continue

    def _open(self, recording: str, *, with_keystrokes: bool) -> "StoredRecording":
        path = self._directory.find(recording)
        if path is None:
            raise RecordingUnreadable(Unreadable.GONE)
        problems = find_problems(self._directory, [recording]).get(recording, [])
        if whole := _texts(one for one in problems if not one.part):
            # Nothing proves whose recording it is, or it has no key.
            raise RecordingUnreadable(Unreadable.CHANGED, whole[0])
        info = read_info(path)
        if info.is_open and _is_in_use(path):
            raise RecordingUnreadable(Unreadable.IN_PROGRESS)
        keys = self._keys.unwrap(recording, read_wrapped_keys(path))
        if not with_keystrokes:
            keys = keys.without_keystrokes()
        with ExitStack() as stack:
            parts = _open_parts(path, keys, stack)
            if not parts and info.is_open:
                raise RecordingUnreadable(Unreadable.UNAVAILABLE, _NOT_CLOSED)
            if not parts and info.parts:
                raise RecordingUnreadable(Unreadable.CHANGED, "no part of it can be read")
            known = {one.part for one in problems}
            unreadable = (
                f"part {one.number}: {_NOT_CLOSED if one.state is PartState.OPEN else _UNREADABLE}"
                for one in info.parts
                if one.number not in parts and one.number not in known
            )
            info = replace(info, problems=(*_texts(problems), *unreadable))
            return StoredRecording(info, parts, stack.pop_all())


def _is_in_use(path: Path) -> bool:
    """Return whether a process writes or closes a part.

    An open part without a lock is what a dead process has left, or it cannot be closed: the other
    parts can be played.
    """
    for one in part_files(path):
        if one.is_closed:
            continue
        try:
            # Without a header, its process has yet to lock it: another lock would fail that.
            lock = lock_part(one.file) if has_header(one.file) else None
        except OSError:  # it was just closed, or this process may only read
            return True
        if lock is None:
            return True
        os.close(lock)
    return False


def _open_parts(path: Path, keys: DataKeys, stack: ExitStack) -> dict[int, ClosedPart]:
    """Open the parts that can be read."""
    parts = {}
    for one in part_files(path)[:_PARTS_MAX]:
        if not one.is_closed:
            continue
        try:
            part = stack.enter_context(ClosedPart(one.file, keys))
        except PartChanged:
            continue
        if (part.header.recording, part.header.part) == (path.name, one.number):
            parts[one.number] = part
    return parts


def _texts(problems: Iterable[Judgement]) -> tuple[str, ...]:
    return tuple(
        f"part {one.part}: {one.described}" if one.part else one.described for one in problems
    )


class StoredRecording:
    """Implements `RecordingReader`."""

    def __init__(self, info: RecordingInfo, parts: dict[int, ClosedPart], stack: ExitStack) -> None:
        self.info = info
        self.parts = tuple(_times(one, parts.get(one.number)) for one in info.parts)
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


def _times(info: PartInfo, part: ClosedPart | None) -> PartTimes:
    if part is None:
        return PartTimes(info, (), (), has_keystrokes=False)
    return PartTimes(info, part.chunks, part.marks, part.has_keystrokes)


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
