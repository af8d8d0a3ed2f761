"""The threads that write recordings: one while the disk keeps up, more while it does not.

A disk may block in each write. So a write that has waited for 5 ms wakes another thread, up to a
bound; each thread takes the write that waits longest. A part has one write with the threads at a
time: its order stays, and a busy session waits behind the others after each write.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Final

from gateway.drivers.recordings.threaded_part import QueuedWrite
from gateway.drivers.recordings.write_buffers import WriteBuffers
from gateway.flow.clock import Clock

THREADS_MAX: Final = 32
_HELP_AFTER_S: Final = 0.005
STALL_TICKS: Final = 9
"""A call without progress for this many ticks has failed: a recording that cannot be written ends
its session within a second. Ticks, not time: a process that was suspended finds one tick, however
long that took."""


class WriteThreads:
    """Its methods are called in the event loop."""

    def __init__(self, clock: Clock, on_written: Callable[[QueuedWrite], None]) -> None:
        """`on_written` is called in the event loop, also after an error."""
        self._clock = clock
        self._on_written = on_written
        self._loop = asyncio.get_running_loop()
        self._ready: deque[QueuedWrite] = deque()
        self._submitted: set[QueuedWrite] = set()
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        self._started = 0
        self._awake = 0
        """Threads that were woken and have not reported that they found no work."""
        self._reports: deque[QueuedWrite | None] = deque()
        self._is_reported = False
        self._help: asyncio.TimerHandle | None = None
        self._stuck = 0
        """Threads whose call has stalled, at the last tick."""
        self.written = 0
        """Writes that have ended."""
        self._written_before = -1
        """At the last tick."""

    def submit(self, write: QueuedWrite) -> None:
        write.queued_at = self._clock.monotonic()
        self._submitted.add(write)
        self._ready.append(write)
        if self._needs_thread:
            self._wake()
        elif self._help is None:
            self._help = self._loop.call_later(_HELP_AFTER_S, self._send_help)

    def find_stalled(self) -> Sequence[QueuedWrite]:
        """Return the writes that the disk has not taken; called at each tick of the watch.

        A write that has begun waits for its own call; the others, for any thread's progress.
        """
        is_moving = self.written != self._written_before
        self._written_before = self.written
        for write in self._submitted:
            is_waiting = write.has_begun or not is_moving
            write.ticks = write.ticks + 1 if is_waiting else 0
        stalled = [one for one in self._submitted if one.ticks >= STALL_TICKS]
        self._stuck = sum(one.has_begun for one in stalled)
        return stalled

    @property
    def _needs_thread(self) -> bool:
        """Return whether no thread takes the next write: one that is stuck takes none."""
        return self._stuck >= self._awake < THREADS_MAX

    def end(self) -> None:
        """End the threads after the writes in their queue; does not wait."""
        if self._help is not None:
            self._help.cancel()
        for _ in range(self._started):
            self._wakes.put(False)

    def _wake(self) -> None:
        if self._awake == self._started:
            self._started += 1
            Thread(target=self._work, name="recording writes", daemon=True).start()
        self._awake += 1
        self._wakes.put(True)

    def _send_help(self) -> None:
        self._help = None
        try:
            waited_s = self._clock.monotonic() - self._ready[0].queued_at
        except IndexError:  # a thread took it
            return
        if waited_s >= _HELP_AFTER_S and self._awake < THREADS_MAX:
            self._wake()
        self._help = self._loop.call_later(_HELP_AFTER_S, self._send_help)

    def _work(self) -> None:
        buffers = WriteBuffers()
        while self._wakes.get():
            while True:
                try:
                    write = self._ready.popleft()
                except IndexError:
                    break
                write.has_begun = True
                try:
                    write.size = write.part.open_part.append(write.records, buffers)
                except Exception as error:  # noqa: BLE001 - raised where the write is awaited
                    write.error = error
                self._report(write)
            self._report(None)

    def _report(self, done: QueuedWrite | None) -> None:
        """Report a write, or that the thread found no work, before the next call may block."""
        self._reports.append(done)
        if not self._is_reported:
            self._is_reported = True
            with suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._take_reports)

    def _take_reports(self) -> None:
        self._is_reported = False  # before the reports: a later one is announced again
        while self._reports:
            write = self._reports.popleft()
            if write is None:
                self._awake -= 1
                continue
            self.written += 1
            self._submitted.discard(write)
            self._on_written(write)
        if self._ready and self._needs_thread:
            self._wake()
