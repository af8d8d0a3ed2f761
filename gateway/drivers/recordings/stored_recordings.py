"""Lists and reads the recordings of a directory (port RecordingStore)."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from gateway.domain.recordings.model import (
    PartInfo,
    PartState,
    PartTimes,
    RecordingInfo,
    RecordingPage,
    RecordingQuery,
)
from gateway.domain.recordings.verdicts import Judgement
from gateway.drivers.host.bounded_threads import BoundedThreads
from gateway.drivers.recordings.closed_part import ClosedPart
from gateway.drivers.recordings.found_recordings import find_problems
from gateway.drivers.recordings.open_part import PartChanged
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
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
Do = Callable[[Callable[[], bytes]], Awaitable[bytes]]
_PARTS_MAX: Final = 1_000
_THREADS_MAX: Final = 8
_READ_TIMEOUT_S: Final = 15.0
_READ_MAX: Final = 2_000
"""A page ends with the day in which it has read the details of so many recordings."""
_UNREADABLE: Final = "it cannot be read"
_NOT_CLOSED: Final = "it could not be closed yet, and cannot be played"


class StoredRecordings:
    def __init__(self, directory: RecordingDirectory, keys: RecordingKeys) -> None:
        self._directory = directory
        self._keys = keys
        # Not the threads of the event loop: a hung disk would stop all else that uses them.
        self._threads = BoundedThreads(
            "recording reads", threads_max=_THREADS_MAX, timeout_s=_READ_TIMEOUT_S
        )

    async def list(self, query: RecordingQuery, limit: int) -> RecordingPage:
        return await self._do(partial(self._page, query, limit))

    async def find(self, recording: str) -> RecordingInfo | None:
        def read() -> RecordingInfo | None:
            path = self._directory.find(recording)
            try:
                return None if path is None else read_info(path)
            except (FileNotFoundError, ValueError):  # nothing says who may view it
                return None

        return await self._do(read)

    async def check(self, found: Sequence[RecordingInfo]) -> Sequence[RecordingInfo]:
        def check() -> Sequence[RecordingInfo]:
            problems = find_problems(self._directory, [one.details.id for one in found])
            return [
                replace(one, problems=_texts(problems.get(one.details.id, ()))) for one in found
            ]

        return await self._do(check)

    async def open(self, recording: str, *, with_keystrokes: bool) -> RecordingReader:
        opening = partial(self._open, recording, with_keystrokes=with_keystrokes)
        return await self._do(opening, unused=StoredRecording.close)

    def _page(self, query: RecordingQuery, limit: int) -> RecordingPage:
        found: list[tuple[float, Path]] = []
        begun_at: list[float] = []
        until = None
        days = groupby(self._directory.begun(query.since, query.until), key=_day)
        for _, paths in days:
            if len(found) >= limit or len(begun_at) >= max(limit, _READ_MAX):
                until = min(begun_at)
                break
            for path in paths:
                with suppress(OSError, ValueError):  # removed meanwhile, or damaged
                    details = read_details(path)
                    begun_at.append(details.started_at)
                    if query.matches(details):
                        found.append((details.started_at, path))
        found.sort(reverse=True)
        if len(found) > limit:
            until = found[limit - 1][0]
            found = [one for one in found if one[0] >= until]
        return RecordingPage([*_infos(path for _, path in found)], until)

    def _open(self, recording: str, *, with_keystrokes: bool) -> "StoredRecording":
        path = self._directory.find(recording)
        if path is None:
            raise RecordingUnreadable(Unreadable.GONE)
        problems = find_problems(self._directory, [recording]).get(recording, [])
        if whole := _texts(one for one in problems if not one.part):
            # Nothing proves whose recording it is, or it has no key.
            raise RecordingUnreadable(Unreadable.CHANGED, whole[0])
        info = read_info(path)
        if info.is_in_progress:
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
                f"part {one.number}: {_NOT_CLOSED if one.state is PartState.LEFT else _UNREADABLE}"
                for one in info.parts
                if one.number not in parts and one.number not in known
            )
            info = replace(info, problems=(*_texts(problems), *unreadable))
            return StoredRecording(info, parts, stack.pop_all(), self._do)

    async def _do(
        self, work: Callable[[], _T], *, unused: Callable[[_T], None] | None = None
    ) -> _T:
        """Run blocking work in a thread; raise RecordingUnreadable for its errors."""
        try:
            return await self._threads.do(work, unused=unused)
        except RecordingKeyMissing as error:
            raise RecordingUnreadable(Unreadable.KEY_MISSING, str(error)) from None
        except (PartChanged, ValueError) as error:
            raise RecordingUnreadable(Unreadable.CHANGED, str(error)) from None
        except FileNotFoundError:
            raise RecordingUnreadable(Unreadable.GONE) from None
        except TimeoutError:
            raise RecordingUnreadable(Unreadable.UNAVAILABLE, "the disk does not answer") from None
        except OSError as error:
            raise RecordingUnreadable(Unreadable.UNAVAILABLE, error.strerror or "") from None


def _day(path: Path) -> str:
    return path.parent.name


def _infos(paths: Iterable[Path]) -> Iterator[RecordingInfo]:
    for path in paths:
        with suppress(OSError, ValueError):  # removed meanwhile, or damaged: `verify` reports it
            yield read_info(path)


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

    def __init__(
        self, info: RecordingInfo, parts: dict[int, ClosedPart], stack: ExitStack, do: Do
    ) -> None:
        """`do` runs blocking work; it raises RecordingUnreadable."""
        self.info = info
        self.parts = tuple(_times(one, parts.get(one.number)) for one in info.parts)
        self._parts = parts
        self._stack = stack
        self._do = do
        self._guard = Lock()
        """A file has one position, and stays open while a thread reads it."""
        self._is_closed = False

    async def chunk(self, part: int, index: int) -> bytes:
        return await self._read(part, lambda one: one.chunk(index))

    async def keystrokes(self, part: int, index: int) -> bytes:
        return await self._read(part, lambda one: one.keystrokes(index))

    def close(self) -> None:
        self._is_closed = True
        self._try_close()

    def _try_close(self) -> None:
        """Close the files, unless a thread reads them: it closes them afterwards."""
        if self._guard.acquire(blocking=False):
            try:
                self._stack.close()
            finally:
                self._guard.release()

    async def _read(self, part: int, read: Callable[[ClosedPart], bytes]) -> bytes:
        found = self._parts.get(part)
        if found is None:
            raise IndexError(part)
        return await self._do(partial(self._read_one, found, read))

    def _read_one(self, part: ClosedPart, read: Callable[[ClosedPart], bytes]) -> bytes:
        try:
            with self._guard:
                return read(part)
        finally:
            if self._is_closed:
                self._try_close()


def _times(info: PartInfo, part: ClosedPart | None) -> PartTimes:
    if part is None:
        return PartTimes(info, (), ())
    return PartTimes(
        info, part.chunks, part.marks, part.keystroke_chunks, part.footer.omitted_marks
    )
