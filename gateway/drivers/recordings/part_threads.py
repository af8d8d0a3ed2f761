"""The parts that this process writes, and the threads that write them and make them durable.

A disk may block in each call, and a session must not wait for another's. When a thread hangs in a
call of the operating system, the recordings that wait for it have failed.
"""

import asyncio
import errno
from collections.abc import Sequence
from typing import Final

from gateway.domain.recordings.records import Record
from gateway.drivers.recordings.open_part import OpenPart
from gateway.drivers.recordings.sync_threads import SYNC_THREADS, SyncThread
from gateway.drivers.recordings.threaded_part import (
    OnFailure,
    QueuedWrite,
    ThreadedPart,
    describe,
)
from gateway.drivers.recordings.write_threads import WriteThreads
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingFailure

_STALL_TICK_S: Final = 0.1


class PartThreads:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._writes = WriteThreads(clock, self._written)
        self._syncs = [SyncThread(clock) for _ in range(SYNC_THREADS)]
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

    def check(self) -> None:
        """Raise OSError while a thread hangs: no further part could be written."""
        if self._hangs:
            raise OSError(errno.EIO, "the disk accepts no data")

    def add(self, part: OpenPart, on_failure: OnFailure) -> ThreadedPart:
        """Begin to make a part durable. After a call of `on_failure` it is written no more."""
        syncs = min(self._syncs, key=lambda one: len(one.parts))

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
        part.writes.popleft()
        if part.writes:
            self._writes.submit(part.writes[0])

    async def _watch(self) -> None:
        """Fail the parts that wait for a thread without progress."""
        while True:
            await self._clock.sleep(_STALL_TICK_S)
            writes = self._writes.find_stalled()
            for write in writes:
                write.part.fail(RecordingFailure.STALLED, "the disk accepts no data")
            for one in self._syncs:
                for part in one.find_stalled():
                    part.fail(RecordingFailure.STALLED, "the disk makes no data durable")
            self._hangs = bool(writes) or any(one.is_hung for one in self._syncs)
