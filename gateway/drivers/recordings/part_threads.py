"""The parts that this process writes, and the threads that open, write and sync them.

A disk may block in each call, and a session must not wait for another's. When a thread hangs in a
call of the operating system, the recordings that wait for it have failed. It may be one file that
hangs, so new recordings are opened with other threads, until such an opening hangs as well.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from gateway.domain.recordings.records import Record
from gateway.drivers.host.bounded_threads import BoundedThreads
from gateway.drivers.recordings.open_part import OpenPart
from gateway.drivers.recordings.sync_threads import SYNC_THREADS, SyncThread
from gateway.drivers.recordings.threaded_part import (
    OnFailure,
    QueuedWrite,
    ThreadedPart,
    describe,
)
from gateway.drivers.recordings.write_threads import STALL_TICKS, WriteThreads
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingFailure

_STALL_TICK_S: Final = 0.1
_OPEN_TIMEOUT_S: Final = 5.0
_OPENS_MAX: Final = 64
"""Parts that are opened at the same time; each takes about ten calls of the disk."""
_NO_DATA: Final = "the disk accepts no data"


class PartThreads:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._writes = WriteThreads(clock, self._written)
        self._syncs = [SyncThread(clock) for _ in range(SYNC_THREADS)]
        self._opens = BoundedThreads(
            "recording opens", threads_max=_OPENS_MAX, timeout_s=_OPEN_TIMEOUT_S
        )
        self._opening: set[object] = set()
        """Openings whose calls have not returned."""
        self._opened = 0
        self._progress = -1
        """Of all threads, at the last tick."""
        self._ticks = 0
        """Ticks for which an opening, and all else, has made no progress."""
        self._hangs = False

    @property
    def parts(self) -> list[ThreadedPart]:
        return [part for one in self._syncs for part in one.parts]

    @property
    def lag_s(self) -> float:
        """Age of the oldest byte that is not durable yet, in seconds."""
        now = self._clock.monotonic()
        return max(
            (now - one.unsynced_since for one in self.parts if one.unsynced_since is not None),
            default=0.0,
        )

    async def open(
        self, create: Callable[[], OpenPart], unused: Callable[[OpenPart], None]
    ) -> OpenPart:
        """Return the part that `create` opens; raise OSError, also while the disk hangs.

        `unused` gets a part that is not awaited any more.
        """
        if self._hangs:
            raise OSError(errno.EIO, _NO_DATA)
        try:
            return await self._opens.do(partial(self._open, create), unused=unused)
        except TimeoutError:
            raise OSError(errno.EIO, _NO_DATA) from None

    def _open(self, create: Callable[[], OpenPart]) -> OpenPart:
        this = object()
        self._opening.add(this)
        try:
            return create()
        finally:
            self._opened += 1
            self._opening.discard(this)

    def add(self, part: OpenPart, on_failure: OnFailure) -> ThreadedPart:
        """Begin to make a part durable. After a call of `on_failure` it is written no more."""
        working = [one for one in self._syncs if not one.is_hung]
        syncs = min(working or self._syncs, key=lambda one: len(one.parts))

        def failed(kind: RecordingFailure, detail: str) -> None:
            syncs.parts.pop(added, None)
            on_failure(kind, detail)

        added = ThreadedPart(part, failed)
        syncs.parts[added] = None
        return added

    async def write(self, part: ThreadedPart, records: Sequence[Record]) -> int:
        """Return the bytes when they are written; raise RecordingFailed."""
        if part.failure is not None:
            raise part.failure
        write = QueuedWrite(part, records, self._loop.create_future())
        part.writes.append(write)
        if len(part.writes) == 1:
            self._writes.submit(write)
        return await write.done

    async def run(self) -> None:
        """Make parts durable and watch the disk, until cancelled."""
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._watch())
            for one in self._syncs:
                _ = group.create_task(one.run())

    async def release(self, part: ThreadedPart) -> None:
        """Make a part durable, as far as possible, and write it no more.

        One that has failed is left to the process that closes it: its sync may hang.
        """
        for one in self._syncs:
            if part in one.parts:
                await one.release(part)

    def end(self) -> None:
        self._writes.end()
        for one in self._syncs:
            one.end()

    def _written(self, write: QueuedWrite) -> None:
        part, now = write.part, self._clock.monotonic()
        part.written_at = now
        if part.unsynced_since is None:
            part.unsynced_since = now
        if write.error is not None:
            part.fail(RecordingFailure.WRITE, describe(write.error))
        if not write.done.done():  # neither cancelled nor failed
            write.done.set_result(write.size)
        part.end_write()
        if part.writes:
            self._writes.submit(part.writes[0])

    async def _watch(self) -> None:
        """Fail the parts that wait for a thread without progress."""
        while True:
            await self._clock.sleep(_STALL_TICK_S)
            writes = self._writes.find_stalled()
            for write in writes:
                write.part.fail(RecordingFailure.STALLED, _NO_DATA)
            for one in self._syncs:
                for part in one.find_stalled():
                    part.fail(RecordingFailure.STALLED, "the disk makes no data durable")
            self._hangs = self._find_hang(writes)

    def _find_hang(self, stalled: Sequence[QueuedWrite]) -> bool:
        """Return whether no further part could be written; called at each tick.

        One file that hangs leaves threads for the others. So the disk hangs where none is left, or
        where an opening, which uses other files, has stopped as well.
        """
        progress = self._opened + self._writes.written + sum(one.synced for one in self._syncs)
        is_stuck = bool(self._opening) and progress == self._progress
        self._progress = progress
        self._ticks = self._ticks + 1 if is_stuck else 0
        hung = [one.is_hung for one in self._syncs]
        if all(hung) or not all(one.has_begun for one in stalled):
            return True
        return self._ticks >= STALL_TICKS and (bool(stalled) or any(hung))
