"""A thread that makes parts durable each second, and finds files that were removed.

Each part has one of several such threads, so that the sync of one part waits for few others, and no
write waits for a sync.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from gateway.drivers.host.worker_thread import WorkerThread
from gateway.drivers.recordings.open_part import PartFileMissing
from gateway.drivers.recordings.threaded_part import ThreadedPart, describe
from gateway.drivers.recordings.write_threads import STALL_TICKS
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingFailure

SYNC_THREADS: Final = 8
_CHECK_EVERY_S: Final = 0.5
_CHECKS_PER_SYNC: Final = 2

_T = TypeVar("_T")


class SyncThread:
    """Its methods are called in the event loop."""

    def __init__(self, clock: Clock) -> None:
        self.parts: dict[ThreadedPart, None] = {}
        """In an order that stays, so that each part is synced once in each period."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread = WorkerThread("recording syncs")
        self._jobs = 0
        """Jobs that have not ended."""
        self.synced = 0
        """Parts that the thread has made durable or checked."""
        self._synced_before = -1
        """At the last tick."""
        self._ticks = 0

    async def run(self) -> None:
        """Check the parts, and make them durable, until cancelled."""
        checks, due_at = 0, self._clock.monotonic()
        while True:
            # At a fixed rate: the time that the last check took does not add to the period.
            due_at = max(due_at + _CHECK_EVERY_S, self._clock.monotonic())
            await self._clock.sleep(due_at - self._clock.monotonic())
            checks += 1
            if self.parts:
                await self._check_parts(syncs=checks % _CHECKS_PER_SYNC == 0)

    async def release(self, part: ThreadedPart) -> None:
        """Make a part durable, as far as possible, and check it no more.

        Returns at the latest when the thread hangs.
        """
        self.parts.pop(part, None)
        if self.is_hung:
            return
        syncing, done = self._submit(partial(self._sync, part)), False
        while not (done or self.is_hung):
            done = bool((await asyncio.wait({syncing}, timeout=_CHECK_EVERY_S))[0])

    def find_stalled(self) -> Sequence[ThreadedPart]:
        """Return the parts that wait for a hung thread; called at each tick of the watch."""
        is_stuck = self._jobs > 0 and self.synced == self._synced_before
        self._synced_before = self.synced
        self._ticks = self._ticks + 1 if is_stuck else 0
        if not self.is_hung:
            return []
        return [one for one in self.parts if one.unsynced_since is not None]

    @property
    def is_hung(self) -> bool:
        return self._ticks >= STALL_TICKS

    def end(self) -> None:
        self._thread.end()

    async def _check_parts(self, *, syncs: bool) -> None:
        errors = await self._submit(partial(self._check, list(self.parts), syncs=syncs))
        for part, (kind, detail) in errors.items():
            if part in self.parts:  # one that was released meanwhile may be closed
                part.fail(kind, detail)

    def _check(
        self, parts: Sequence[ThreadedPart], *, syncs: bool
    ) -> dict[ThreadedPart, tuple[RecordingFailure, str]]:
        errors = {}
        for part in parts:
            try:
                part.open_part.check()
                if syncs and part.unsynced_since is not None:
                    began = self._clock.monotonic()
                    self._sync(part)
                    with suppress(RuntimeError):  # the event loop has ended
                        self._loop.call_soon_threadsafe(part.note_sync, began)
            except PartFileMissing as error:
                errors[part] = (RecordingFailure.REMOVED, describe(error))
            except OSError as error:
                errors[part] = (RecordingFailure.SYNC, describe(error))
            self.synced += 1
        return errors

    def _sync(self, part: ThreadedPart) -> None:
        part.is_syncing = True
        try:
            part.open_part.sync()
        finally:
            part.is_syncing = False
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(part.note_idle)

    def _submit(self, job: Callable[[], _T]) -> asyncio.Future[_T]:
        self._jobs += 1
        done = self._thread.submit(job)
        done.add_done_callback(self._count)
        return done

    def _count(self, done: asyncio.Future[Any]) -> None:
        """Count a job that has ended; an error that nothing awaits is not logged."""
        self._jobs -= 1
        self.synced += 1
        if not done.cancelled():
            done.exception()
