"""The recorded channel: nothing reaches the browser before it is written."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from gateway.domain.consoles.model import PersonRef, SessionMode
from gateway.domain.consoles.page_messages import Watcher
from gateway.domain.recordings.records import (
    Record,
    RecordKind,
    decode_records,
    encode_records,
    key_record,
)
from gateway.drivers.host.clock import SystemClock
from gateway.flow.clock import Clock
from gateway.flow.recordings.recorded_channel import RecordedChannel
from gateway.flow.recordings.recording_writer import RecordingFailed
from tests.support.clock import FakeClock, settle
from tests.support.frame_channel import MemoryChannel
from tests.support.waiting import until


class FakePart:
    """A part in memory. While `accepts` is cleared, a write does not return."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.last: Sequence[Record] = ()
        self.writes = 0
        self.error: RecordingFailed | None = None
        self.accepts = asyncio.Event()
        self.accepts.set()

    async def append(self, records: Sequence[Record]) -> None:
        self.writes += 1
        await self.accepts.wait()
        if self.error is not None:
            raise self.error
        self.records += records

    def close(self, records: Sequence[Record]) -> None:
        self.last = records

    @property
    def screen(self) -> bytes:
        return b"".join(one.payload for one in self.records if one.kind is RecordKind.SCREEN)

    @property
    def kinds(self) -> list[RecordKind]:
        return [one.kind for one in self.records]


class Scene:
    def __init__(self, clock: Clock, *, is_required: bool = True) -> None:
        self.browser, self.part = MemoryChannel(), FakePart()
        self.failed: list[str] = []
        self.channel = RecordedChannel(
            self.browser,
            self.part,
            clock,
            is_required=is_required,
            on_failure=self.failed.append,
        )

    @property
    def seen(self) -> bytes:
        return b"".join(one for one in self.browser.sent if isinstance(one, bytes))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.channel.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
async def scene(clock: FakeClock) -> Scene:
    return Scene(clock)


async def test_frame_waits_for_its_write(scene: Scene) -> None:
    async with scene.running():
        scene.part.accepts.clear()
        await scene.channel.send(b"one")
        await settle()
        assert (scene.part.writes, scene.seen) == (1, b"")
        scene.part.accepts.set()
        await settle()
        assert (scene.part.screen, scene.seen) == (b"one", b"one")


async def test_frames_are_gathered_during_a_write(scene: Scene) -> None:
    async with scene.running():
        scene.part.accepts.clear()
        for frame in (b"a", b"b", b"c", b"d"):
            await scene.channel.send(frame)
            await settle()
        scene.part.accepts.set()
        await settle()
    assert scene.part.writes == 2
    assert scene.browser.sent == [b"a", b"bcd"]


async def test_slow_disk_stops_the_relay_at_a_bound(scene: Scene) -> None:
    async with scene.running():
        scene.part.accepts.clear()
        frame = bytes(65_536)
        sending = asyncio.create_task(send_all(scene, [frame] * 16))
        await settle()
        assert not sending.done()
        scene.part.accepts.set()
        async with asyncio.timeout(60):
            await sending
        await settle()
    assert scene.seen == scene.part.screen == frame * 16


async def send_all(scene: Scene, frames: Sequence[bytes]) -> None:
    for frame in frames:
        await scene.channel.send(frame)


async def test_required_recording_that_fails_sends_no_more(scene: Scene) -> None:
    async with scene.running():
        await scene.channel.send(b"seen")
        await settle()
        scene.part.error = RecordingFailed("write: No space left on device")
        await scene.channel.send(b"lost")
        await settle()
        await scene.channel.send(b"later")
        await settle()
    assert scene.seen == b"seen"
    assert scene.failed == ["write: No space left on device"]


async def test_failure_between_writes_ends_a_required_recording(scene: Scene) -> None:
    async with scene.running():
        scene.part.accepts.clear()
        await scene.channel.send(b"lost")
        await settle()
        scene.channel.fail("removed: the file was removed or replaced")
        scene.part.error = RecordingFailed("removed")
        scene.part.accepts.set()
        await settle()
    assert (scene.seen, len(scene.failed)) == (b"", 1)


async def test_optional_recording_that_fails_lets_frames_pass(clock: FakeClock) -> None:
    scene = Scene(clock, is_required=False)
    async with scene.running():
        await scene.channel.send(b"recorded ")
        await settle()
        scene.part.error = RecordingFailed("write: full")
        await scene.channel.send(b"not ")
        await settle()
        await scene.channel.send(b"recorded")
        await settle()
    assert (scene.seen, scene.part.screen) == (b"recorded not recorded", b"recorded ")
    assert (scene.failed, scene.part.writes) == (["write: full"], 2)


async def test_marks_are_recorded_without_a_frame(scene: Scene, clock: FakeClock) -> None:
    async with scene.running():
        scene.channel.mark_mode(SessionMode.CONTROL)
        for _ in range(3):
            scene.channel.mark_input()
        scene.channel.mark_watchers([Watcher(PersonRef("bob", "corp"), 5.0)])
        scene.channel.mark_key(0x61, is_down=True)
        await settle()
        await clock.advance(1.5)
        scene.channel.mark_input()
        await settle()
    kinds = RecordKind
    assert scene.part.kinds == [kinds.MODE, kinds.INPUT, kinds.WATCHERS, kinds.KEY, kinds.INPUT]
    assert scene.part.records[2].payload == b'[{"subject":"bob","issuer":"corp","since":5.0}]'
    assert [one.at_ms for one in scene.part.records] == [0, 0, 0, 0, 1_500]


async def test_viewers_that_come_and_go_are_one_mark_a_second() -> None:
    """A part's time index cannot be filled by a viewer that attaches again and again."""
    scene = Scene(SystemClock())
    kinds = RecordKind
    async with scene.running():
        for number in range(200):
            scene.channel.mark_watchers([Watcher(PersonRef("bob", "corp"), float(number))])
            await asyncio.sleep(0)
        scene.channel.mark_watchers([])
        await until(lambda: [one.payload for one in scene.part.records[-1:]] == [b"[]"])
        scene.channel.mark_watchers([Watcher(PersonRef("eve", "corp"), 9.0)])
    scene.channel.end("person", "")
    *marks, end = [*scene.part.records, *scene.part.last]
    assert {one.kind for one in marks} == {kinds.WATCHERS}
    assert end.kind is kinds.END
    # Without the mark at the end, which does not wait. One more for each second on a busy machine.
    times = [one.at_ms for one in scene.part.records]
    assert all(later - earlier >= 1_000 for earlier, later in pairwise(times))
    assert len(times) < 20
    assert b'"eve"' in marks[-1].payload


async def test_last_frames_are_flushed_and_the_end_recorded(scene: Scene) -> None:
    async with scene.running():
        scene.part.accepts.clear()
        await scene.channel.send(b"rejected")
        flushing = asyncio.create_task(scene.channel.flush())
        await settle()
        assert not flushing.done()
        scene.part.accepts.set()
        await flushing
    scene.channel.end("cloud_closed", "cloud: close code 1000")
    assert scene.seen == b"rejected"
    (last,) = scene.part.last
    assert last.payload == b'{"end":"cloud_closed","detail":"cloud: close code 1000"}'


def test_records_are_decoded_whole_or_rejected() -> None:
    records = [Record(1, RecordKind.SCREEN, b"abc"), key_record(2**40, 0xFF0D, is_down=False)]
    data = encode_records(records)
    assert next(decode_records(data)) == records[0]
    for size in range(1, len(data)):
        if size != 9 + 3:
            with pytest.raises(ValueError, match="ends within a record"):
                [*decode_records(data[:size])]
