"""A part that threads write and make durable; its state is that of the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from gateway.domain.recordings.records import Record
from gateway.drivers.recordings.open_part import OpenPart
from gateway.flow.recordings.recording_telemetry import RecordingFailure
from gateway.flow.recordings.recording_writer import RecordingFailed

OnFailure = Callable[[RecordingFailure, str], None]


class QueuedWrite:
    """What one call of `append` has queued."""

    __slots__ = ("done", "error", "has_begun", "part", "queued_at", "records", "size", "ticks")

    def __init__(
        self, part: "ThreadedPart", records: Sequence[Record], done: asyncio.Future[int]
    ) -> None:
        self.part = part
        self.records = records
        self.done = done
        self.queued_at = 0.0
        """Monotonic."""
        self.ticks = 0
        """Ticks of the watch for which the disk has not taken it."""
        self.has_begun = False
        """Set by the thread that writes it, as `size` and `error` are."""
        self.size = 0
        self.error: Exception | None = None


class ThreadedPart:
    def __init__(self, part: OpenPart, on_failure: OnFailure) -> None:
        self.open_part = part
        self.failure: RecordingFailed | None = None
        self.writes: deque[QueuedWrite] = deque()
        """The first is with the threads; the others follow it one by one."""
        self.unsynced_since: float | None = None
        """Monotonic time of the oldest byte that is not durable yet."""
        self.written_at = 0.0
        """Monotonic time at which the last write was reported."""
        self.is_syncing = False
        """Set by the thread that makes it durable."""
        self._on_failure = on_failure
        self._on_idle: Callable[[], None] | None = None

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call `call`, once, when no thread is in a call for the part: now, or when it returns."""
        self._on_idle = call
        self.note_idle()

    def end_write(self) -> None:
        """Note that the first write has returned."""
        self.writes.popleft()
        self.note_idle()

    def note_idle(self) -> None:
        """Note that a call may have returned."""
        call = self._on_idle
        if call is not None and not self.writes and not self.is_syncing:
            self._on_idle = None
            call()

    def note_sync(self, began: float) -> None:
        """Note that what was written before a monotonic time is durable."""
        self.unsynced_since = None if self.written_at < began else began

    def fail(self, kind: RecordingFailure, detail: str) -> None:
        """End the recording, once: no queued write is awaited or begun any more."""
        if self.failure is not None:
            return
        self.failure = RecordingFailed(f"{kind.value}: {detail}")
        for write in self.writes:
            if not write.done.done():
                write.done.set_exception(self.failure)
        while len(self.writes) > 1:
            self.writes.pop()
        self._on_failure(kind, detail)


def describe(error: Exception) -> str:
    """Return the reason without a path."""
    return (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
