"""A disk that hangs in a call ends what must be recorded within a second (invariant 12).

The call really blocks a thread of the driver, as a lost network disk does; a part that hangs in
one call must not need another call to be found.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import open_part, part_threads
from gateway.flow.recordings.recorded_channel import RecordedChannel
from gateway.flow.recordings.recording_telemetry import RecordingFailure
from gateway.flow.recordings.recording_writer import RecordingFailed
from tests.support.frame_channel import MemoryChannel
from tests.support.recordings import RecordingScene, a_recording

END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})


TICK_S = part_threads._STALL_TICK_S


class CountingClock(SystemClock):
    """Counts the ticks of the watch: a busy machine makes them longer, but not more."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self.ticks += seconds == TICK_S


@pytest.fixture
def clock() -> CountingClock:
    return CountingClock()


@pytest.fixture
def scene(tmp_path: Path, clock: CountingClock) -> RecordingScene:
    return RecordingScene(tmp_path, clock=clock)


class HungCall:
    """A call of the operating system that blocks until the test ends."""

    def __init__(self, clock: CountingClock) -> None:
        self.release = threading.Event()
        self.entered_at = -1
        self._clock = clock

    def __call__(self, *_: object) -> None:
        if self.entered_at < 0:
            self.entered_at = self._clock.ticks
        self.release.wait(60)


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, clock: CountingClock, name: str) -> Iterator[HungCall]:
    call = HungCall(clock)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(open_part, name, call)
            yield call
    finally:
        call.release.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["_write", "sync"])
async def test_hung_call_ends_a_required_session_within_a_second(
    scene: RecordingScene, clock: CountingClock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    browser, failed_at, reasons = MemoryChannel(), list[int](), list[str]()
    channels: list[RecordedChannel] = []

    def fail(reason: str) -> None:
        reasons.append(reason)
        failed_at.append(clock.ticks)

    def part_failed(reason: str) -> None:
        channels[0].fail(reason)

    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), part_failed)
        channel = RecordedChannel(browser, part, scene.clock, is_required=True, on_failure=fail)
        channels.append(channel)
        pump = asyncio.create_task(channel.run())
        await channel.send(b"seen")
        await channel.flush()
        with hanging(monkeypatch, clock, name) as call:
            await channel.send(b"written while the disk hangs")
            await until(lambda: bool(failed_at))
            # On a busy machine the call may have begun some ticks before its thread says so.
            assert 0.6 < (failed_at[0] - call.entered_at) * TICK_S < 1.01
            await channel.send(b"never sent")
            with pytest.raises(RecordingFailed, match="start: the disk accepts no data"):
                await recordings.open_part(a_recording(2), print)
            sent = b"".join(one for one in browser.sent if isinstance(one, bytes))
        pump.cancel()
        channel.end("recording_failed", reasons[0])
    assert [one.partition(":")[0] for one in reasons] == ["stalled"]
    assert scene.telemetry.failures[RecordingFailure.STALLED] == 1
    assert b"never sent" not in sent
    assert sent.startswith(b"seen")
    assert scene.screen(a_recording().id).startswith(sent)


async def test_hung_sync_fails_every_part_that_waits_for_it(
    scene: RecordingScene, clock: CountingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    async with scene.running() as recordings:
        parts = [await recordings.open_part(a_recording(i), failed.append) for i in range(1, 4)]
        with hanging(monkeypatch, clock, "sync"):
            await parts[0].append([screen_record(1, b"x")])
            await parts[1].append([screen_record(1, b"x")])
            await until(lambda: len(failed) == 2)
            await parts[2].append([screen_record(1, b"later")])
            await until(lambda: len(failed) == 3)
        for one in parts:
            one.close([END])
        # The disk works again, and so does the next recording.
        async with asyncio.timeout(30):
            while True:
                try:
                    part = await recordings.open_part(a_recording(5), print)
                    break
                except RecordingFailed:
                    await asyncio.sleep(0.05)
        await part.append([screen_record(1, b"again")])
        assert failed == ["stalled: the disk makes no data durable"] * 3
    assert scene.screen(a_recording(5).id) == b"again"


async def test_slow_sync_of_many_parts_fails_none(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fdatasync makes progress; all together may take longer than a second."""
    failed: list[str] = []
    synced: list[int] = []

    def slowly(fd: int) -> None:
        time.sleep(0.15)
        synced.append(fd)

    async with scene.running() as recordings:
        parts = [await recordings.open_part(a_recording(i), failed.append) for i in range(1, 11)]
        monkeypatch.setattr(open_part, "sync", slowly)
        for one in parts:
            await one.append([screen_record(1, b"x")])
        await until(lambda: len(synced) >= len(parts))
        monkeypatch.undo()
    assert failed == []
