"""The threads that write recordings: a disk may block, and a session must not wait for another's.

One thread writes what the sessions of the process have queued, together: while it writes, more is
queued. A second thread makes it durable each second, so that a lost host loses no more, and finds
files that were removed. Both report to the event loop, which fails recordings when a thread hangs
in a call of the operating system.
"""

import asyncio
import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Final, TypeVar

from gateway.domain.recordings.records import Record
from gateway.drivers.host.worker_thread import WorkerThread
from gateway.drivers.recordings.open_part import OpenPart, PartFileMissing
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingFailure
from gateway.flow.recordings.recording_writer import RecordingFailed

_CHECK_EVERY_S: Final = 0.5
_CHECKS_PER_SYNC: Final = 2
_STALL_TICK_S: Final = 0.1
_STALL_TICKS: Final = 9
"""A write, or fdatasync, without progress for this many ticks has failed: a recording that cannot
be written ends its session within a second. Ticks, not time: a process that was suspended finds
one tick, however long that took."""

_T = TypeVar("_T")
OnFailure = Callable[[RecordingFailure, str], None]


class ThreadedPart:
    """A part that the threads write. Its methods are called in the event loop."""

    def __init__(self, part: OpenPart, threads: "PartThreads", on_failure: OnFailure) -> None:
        self.open_part = part
        self.failure: RecordingFailed | None = None
        self.unsynced_since: float | None = None
        """Monotonic time of the oldest byte that is not durable yet."""
        self.written_at = 0.0
        """Monotonic time at which the last write was reported."""
        self._threads = threads
        self._on_failure = on_failure

    def fail(self, kind: RecordingFailure, detail: str) -> None:
        """End the recording, once."""
        if self.failure is None:
            self.failure = RecordingFailed(f"{kind.value}: {detail}")
            self._threads.parts.discard(self)
            self._on_failure(kind, detail)


class _Write:
    """What one call of `append` has queued."""

    __slots__ = ("done", "error", "part", "records", "size")

    def __init__(
        self, part: ThreadedPart, records: Sequence[Record], done: asyncio.Future[int]
    ) -> None:
        self.part = part
        self.records = records
        self.done = done
        self.size = 0
        self.error: Exception | None = None


class _StallWatch:
    """Finds a thread that has work and makes no progress."""

    def __init__(self) -> None:
        self._progress = -1
        self._ticks = 0

    def tick(self, progress: int, *, is_busy: bool) -> bool:
        """Return whether the thread hangs."""
        self._ticks = self._ticks + 1 if is_busy and progress == self._progress else 0
        self._progress = progress
        return self._ticks >= _STALL_TICKS


class PartThreads:
    def __init__(self, clock: Clock) -> None:
        self.parts: set[ThreadedPart] = set()
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queued: list[_Write] = []
        self._writing: list[_Write] = []
        self._jobs: SimpleQueue[list[_Write] | None] = SimpleQueue()
        self._written = 0
        """Writes that the first thread has finished."""
        self._synced = 0
        """Parts that the second thread has made durable or checked."""
        self._syncing = 0
        """Jobs of the second thread that have not ended."""
        self._hangs = False
        Thread(target=self._work, name="recording writes", daemon=True).start()
        self._syncs = WorkerThread("recording syncs")

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

    async def write(self, part: ThreadedPart, records: Sequence[Record]) -> int:
        """Return the bytes when they are written; raise RecordingFailed."""
        if part.failure is not None:
            raise part.failure
        done: asyncio.Future[int] = self._loop.create_future()
        self._queued.append(_Write(part, records, done))
        if not self._writing:
            self._begin()
        return await done

    async def run(self) -> None:
        """Make parts durable and watch the disk, until cancelled."""
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._watch())
            _ = group.create_task(self._keep_durable())

    async def release(self, part: ThreadedPart) -> None:
        """Make a part durable, as far as possible, and write it no more."""
        self.parts.discard(part)
        with suppress(OSError):
            await self._sync(part.open_part.sync)

    def end(self) -> None:
        self._jobs.put(None)
        self._syncs.end()

    def _begin(self) -> None:
        self._writing, self._queued = self._queued, []
        self._jobs.put(self._writing)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            for one in job:
                try:
                    one.size = one.part.open_part.append(one.records)
                except Exception as error:  # noqa: BLE001 - raised where the write is awaited
                    one.error = error
                self._written += 1
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        finished, self._writing = self._writing, []
        if self._queued:
            self._begin()
        now = self._clock.monotonic()
        for one in finished:
            one.part.written_at = now
            if one.part.unsynced_since is None:
                one.part.unsynced_since = now
            if one.error is not None:
                one.part.fail(RecordingFailure.WRITE, describe(one.error))
            if one.done.done():
                continue  # cancelled, or the disk was too slow
            if one.part.failure is not None:
                one.done.set_exception(one.part.failure)
            else:
                one.done.set_result(one.size)

    async def _watch(self) -> None:
        """Fail the parts that wait for a thread without progress."""
        writes, syncs = _StallWatch(), _StallWatch()
        while True:
            await self._clock.sleep(_STALL_TICK_S)
            write_hangs = writes.tick(self._written, is_busy=bool(self._writing))
            sync_hangs = syncs.tick(self._synced, is_busy=self._syncing > 0)
            self._hangs = write_hangs or sync_hangs
            if write_hangs:
                for one in [*self._writing, *self._queued]:
                    one.part.fail(RecordingFailure.STALLED, "the disk accepts no data")
                    if not one.done.done() and one.part.failure is not None:
                        one.done.set_exception(one.part.failure)
            if sync_hangs:
                for part in [one for one in self.parts if one.unsynced_since is not None]:
                    part.fail(RecordingFailure.STALLED, "the disk makes no data durable")

    async def _sync(self, job: Callable[[], _T]) -> _T:
        """Run a job of the second thread, which counts its progress in `_synced`."""
        self._syncing += 1
        try:
            return await self._syncs.do(job)
        finally:
            self._syncing -= 1
            self._synced += 1

    async def _keep_durable(self) -> None:
        checks = 0
        while True:
            await self._clock.sleep(_CHECK_EVERY_S)
            checks += 1
            parts = list(self.parts)
            if not parts:
                continue
            syncs = checks % _CHECKS_PER_SYNC == 0
            began = self._clock.monotonic()
            errors = await self._sync(partial(self._check, parts, syncs=syncs))
            for part, (kind, detail) in errors.items():
                part.fail(kind, detail)
            if syncs:
                for part in parts:
                    is_durable = part.written_at < began
                    part.unsynced_since = None if is_durable else began

    def _check(
        self, parts: Sequence[ThreadedPart], *, syncs: bool
    ) -> dict[ThreadedPart, tuple[RecordingFailure, str]]:
        errors = {}
        for part in parts:
            try:
                part.open_part.check()
                if syncs and part.unsynced_since is not None:
                    part.open_part.sync()
            except PartFileMissing as error:
                errors[part] = (RecordingFailure.REMOVED, describe(error))
            except OSError as error:
                errors[part] = (RecordingFailure.SYNC, describe(error))
            self._synced += 1
        return errors


def describe(error: Exception) -> str:
    """Return the reason without a path."""
    return (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
