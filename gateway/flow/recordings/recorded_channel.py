"""Recording: the stage between the relay and a browser, which writes before it sends.

The relay takes it for the browser's channel. Frames that arrive while others are written are
gathered and then written, and sent, as one: RFB is a stream, so its frames have no boundaries. A
frame waits for the write before its own, and for nothing else.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import orjson

from gateway.domain.consoles.model import SessionMode
from gateway.domain.consoles.page_messages import Watcher, person_fields
from gateway.domain.recordings.records import (
    Record,
    RecordKind,
    json_record,
    key_record,
    screen_record,
)
from gateway.flow.clock import Clock
from gateway.flow.consoles.frame_channel import ChannelClosed, FrameChannel
from gateway.flow.recordings.recording_writer import PartWriter, RecordingFailed

_QUEUED_MAX: Final = 262_144
"""Bytes that wait for the write before; the relay then waits, and so does the cloud."""
_INPUT_EVERY_MS: Final = 1_000
_WATCHERS_EVERY_MS: Final = 1_000
"""Viewers that come and go more often are one mark: a part's time index is bounded."""
_LAST_FRAMES_S: Final = 1.0


class RecordedChannel:
    """Records one connection. Implements `FrameChannel`; only one task calls `send`."""

    def __init__(
        self,
        browser: FrameChannel,
        part: PartWriter,
        clock: Clock,
        *,
        is_required: bool,
        on_failure: Callable[[str], None],
    ) -> None:
        """`on_failure`: the recording has ended; if it is required, no frame is sent any more."""
        self._browser = browser
        self._part = part
        self._clock = clock
        self.is_required = is_required
        self._on_failure = on_failure
        self._started_at = clock.monotonic()
        self._frames: list[bytes] = []
        self._queued = 0
        self._marks: list[Record] = []
        self._marked_input_ms = -_INPUT_EVERY_MS
        self._watchers: bytes | None = None
        """Not marked yet."""
        self._marked_watchers_ms = -_WATCHERS_EVERY_MS
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.has_failed = False

    async def send(self, data: bytes) -> None:
        """Queue a frame; return when there is room for another."""
        if self._is_over:
            return
        self._frames.append(data)
        self._queued += len(data)
        self._begin_work()
        while self._queued > _QUEUED_MAX and not self._is_over:
            self._room.clear()
            await self._room.wait()

    async def receive(self) -> bytes | str | ChannelClosed:
        return await self._browser.receive()

    async def send_text(self, text: str) -> None:
        await self._browser.send_text(text)

    async def close(self, code: int, reason: str) -> None:
        await self._browser.close(code, reason)

    def mark_input(self) -> None:
        """Record that the person typed or moved the pointer."""
        at_ms = self._now_ms()
        if at_ms - self._marked_input_ms >= _INPUT_EVERY_MS:
            self._marked_input_ms = at_ms
            self._mark(Record(at_ms, RecordKind.INPUT, b""))

    def mark_key(self, keysym: int, *, is_down: bool) -> None:
        """Record a key; the part drops it unless keystrokes are recorded."""
        self._mark(key_record(self._now_ms(), keysym, is_down=is_down))

    def mark_mode(self, mode: SessionMode) -> None:
        self._mark(Record(self._now_ms(), RecordKind.MODE, mode.value.encode()))

    def mark_watchers(self, watchers: Sequence[Watcher]) -> None:
        """Record who watches; of several changes in a second, the last."""
        listed = [{**person_fields(one.person), "since": one.since} for one in watchers]
        self._watchers = orjson.dumps(listed)
        self._take_watchers()
        self._begin_work()

    def fail(self, reason: str) -> None:
        """End the recording; called by the part when it can no longer be written."""
        if not self.has_failed:
            self.has_failed = True
            self._room.set()
            self._on_failure(reason)

    async def run(self) -> None:
        """Write and send what is queued, until it is cancelled or a required recording fails."""
        while True:
            await self._wait_for_work()
            self._work.clear()
            self._take_watchers()
            while self._frames or self._marks:
                if not await self._write_and_send():
                    return
                self._take_watchers()
            self._idle.set()

    async def flush(self) -> None:
        """Wait until the browser has what is queued; not for a browser that does not read."""
        if self.has_failed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FRAMES_S):
                await self._idle.wait()

    def end(self, end: str, detail: str) -> None:
        """Close the part; frames that are still queued were not sent and are not recorded."""
        self._marked_watchers_ms = -_WATCHERS_EVERY_MS
        self._take_watchers()
        value = {"end": end, "detail": detail}
        self._part.close([*self._marks, json_record(self._now_ms(), RecordKind.END, value)])

    @property
    def _is_over(self) -> bool:
        """Nothing more may be sent."""
        return self.has_failed and self.is_required

    async def _wait_for_work(self) -> None:
        if self._watchers is None:
            await self._work.wait()
            return
        left_ms = self._marked_watchers_ms + _WATCHERS_EVERY_MS - self._now_ms()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left_ms / 1_000)):
                await self._work.wait()

    def _take_watchers(self) -> None:
        """Turn the last change of the watchers into a mark, at most once a second."""
        at_ms = self._now_ms()
        if self._watchers is None or at_ms - self._marked_watchers_ms < _WATCHERS_EVERY_MS:
            return
        self._marks.append(Record(at_ms, RecordKind.WATCHERS, self._watchers))
        self._watchers, self._marked_watchers_ms = None, at_ms

    async def _write_and_send(self) -> bool:
        """Return False if a required recording has failed."""
        frames, self._frames = self._frames, []
        records, self._marks = self._marks, []
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if data:
            records.append(screen_record(self._now_ms(), data))
        if not self.has_failed:
            try:
                await self._part.append(records)
            except RecordingFailed as failed:
                self.fail(str(failed))
        if self._is_over:
            return False
        if data:
            await self._browser.send(data)
        self._queued -= len(data)
        self._room.set()
        return True

    def _mark(self, record: Record) -> None:
        self._marks.append(record)
        self._begin_work()

    def _begin_work(self) -> None:
        self._idle.clear()
        self._work.set()

    def _now_ms(self) -> int:
        return round((self._clock.monotonic() - self._started_at) * 1000)
