"""A disk that hangs in a call ends what must be recorded within a second (invariant 12).

The call really blocks a thread of the driver, as a lost network disk does; a part that hangs in
one call must not need another call to be found.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import (
    file_recordings,
    open_part,
    part_threads,
    stored_recordings,
    write_threads,
)
from gateway.drivers.recordings.recording_directory import part_files
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.drivers.recordings.sync_threads import SYNC_THREADS
from gateway.flow.recordings.recorded_channel import RecordedChannel
from gateway.flow.recordings.recording_store import RecordingUnreadable, Unreadable
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
            recordings._threads._opens._timeout_s = 0.5
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


async def test_slow_writes_of_many_sessions_do_not_wait_in_a_row(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write waits until as many others are in the disk as there are threads."""
    failed: list[str] = []
    write, together = open_part._write, threading.Barrier(write_threads.THREADS_MAX)

    def slowly(fd: int, data: bytes) -> None:
        together.wait(30)
        write(fd, data)

    async with scene.running() as recordings:
        count = 2 * write_threads.THREADS_MAX
        parts = [
            await recordings.open_part(a_recording(i), failed.append) for i in range(1, count + 1)
        ]
        monkeypatch.setattr(open_part, "_write", slowly)
        async with asyncio.timeout(30):
            await asyncio.gather(*(one.append([screen_record(1, b"seen")]) for one in parts))
        monkeypatch.undo()
        for one in parts:
            one.close([END])
    assert failed == []
    assert {scene.screen(a_recording(i).id) for i in range(1, count + 1)} == {b"seen"}


async def test_busy_session_waits_behind_the_others(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part has one write at a time with the threads, and its writes stay in order."""
    monkeypatch.setattr(write_threads, "THREADS_MAX", 1)
    write, order, starts = open_part._write, list[int](), threading.Event()

    def noted(fd: int, data: bytes) -> None:
        starts.wait(30)
        order.append(fd)
        write(fd, data)

    async with scene.running() as recordings:
        parts = [await recordings.open_part(a_recording(i), print) for i in (1, 2, 3)]
        monkeypatch.setattr(open_part, "_write", noted)
        appends = [parts[0].append([screen_record(i, b"%d" % i)]) for i in range(4)]
        appends += [one.append([screen_record(1, b"x")]) for one in parts[1:]]
        writing = [asyncio.ensure_future(one) for one in appends]
        await asyncio.sleep(0.05)
        starts.set()
        await asyncio.gather(*writing)
        monkeypatch.undo()
        assert [order.index(one) for one in dict.fromkeys(order)] == [0, 1, 2]
        assert len(order) == 6
    assert scene.screen(a_recording(1).id) == b"0123"


async def test_hung_write_ends_its_own_session_only(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file that hangs, as of a lost server of a cluster, stops no other recording.

    Neither one that goes on nor one that begins; and one that ends is closed.
    """
    failed: dict[int, list[str]] = {1: [], 2: [], 3: []}
    write, hung, release = open_part._write, list[int](), threading.Event()

    def hangs(fd: int, data: bytes) -> None:
        if fd in hung:
            release.wait(60)
        write(fd, data)

    async with scene.running() as recordings:
        first, second = [
            await recordings.open_part(a_recording(i), failed[i].append) for i in (1, 2)
        ]
        monkeypatch.setattr(open_part, "_write", hangs)
        hung.append(first._part.open_part._fd)
        waiting = asyncio.ensure_future(first.append([screen_record(1, b"hangs")]))
        wrote = 0
        try:
            async with asyncio.timeout(30):
                while not failed[1]:
                    await second.append([screen_record(wrote, b"goes on ")])
                    wrote += 1
                    await asyncio.sleep(0.01)
            with pytest.raises(RecordingFailed, match="stalled: the disk accepts no data"):
                await waiting
            first.close([END])
            third = await recordings.open_part(a_recording(3), failed[3].append)
            await third.append([screen_record(1, b"begins")])
            third.close([END])
            await until(lambda: is_closed(scene, 3))
            assert not is_closed(scene, 1)
        finally:
            release.set()
        await until(lambda: is_closed(scene, 1))
        await second.append([screen_record(wrote, b"goes on ")])
        second.close([END])
    assert failed == {1: ["stalled: the disk accepts no data"], 2: [], 3: []}
    assert scene.screen(a_recording(2).id) == b"goes on " * (wrote + 1)
    assert scene.screen(a_recording(3).id) == b"begins"


def is_closed(scene: RecordingScene, number: int) -> bool:
    path = scene.directory.find(a_recording(number).id)
    return path is not None and [one.is_closed for one in part_files(path)] == [True]


async def test_disk_that_hangs_is_found_by_one_opening(
    scene: RecordingScene, clock: CountingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further opening begins, and takes a thread, until a call has returned."""
    failed: list[str] = []
    async with scene.running() as recordings:
        threads = recordings._threads
        part = await recordings.open_part(a_recording(), failed.append)
        with hanging(monkeypatch, clock, "_write"):
            with pytest.raises(RecordingFailed, match="stalled"):
                await part.append([screen_record(1, b"x")])
            opening = asyncio.ensure_future(recordings.open_part(a_recording(2), print))
            await until(lambda: threads._hangs)
            for number in range(3, 20):
                with pytest.raises(RecordingFailed, match="start: the disk accepts no data"):
                    await recordings.open_part(a_recording(number), print)
            assert len(threads._opening) == 1
        await asyncio.wait({opening})
        await until(lambda: not threads._hangs)
        part = await recordings.open_part(a_recording(20), failed.append)
        await part.append([screen_record(1, b"again")])
        part.close([END])
    assert scene.screen(a_recording(20).id) == b"again"


async def test_threads_that_hang_are_bounded(
    scene: RecordingScene, clock: CountingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each thread is in a call that hangs, the disk is taken for one that hangs."""
    monkeypatch.setattr(write_threads, "THREADS_MAX", 2)
    failed: list[str] = []
    async with scene.running() as recordings:
        threads = recordings._threads
        parts = [await recordings.open_part(a_recording(i), failed.append) for i in range(1, 5)]
        with hanging(monkeypatch, clock, "_write"):
            writes = [asyncio.ensure_future(one.append([screen_record(1, b"x")])) for one in parts]
            await until(lambda: len(failed) == len(parts) and threads._hangs)
            with pytest.raises(RecordingFailed, match="start: the disk accepts no data"):
                await recordings.open_part(a_recording(9), print)
            assert threads._writes._started == 2
        await asyncio.gather(*writes, return_exceptions=True)
        await until(lambda: not threads._hangs)
        part = await recordings.open_part(a_recording(9), print)
        await part.append([screen_record(1, b"again")])
        part.close([END])
    assert scene.screen(a_recording(9).id) == b"again"


async def test_hung_write_delays_no_write_that_its_thread_has_done(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, queued, release = open_part._write, threading.Event(), threading.Event()

    async with scene.running() as recordings:
        done, hung = [await recordings.open_part(a_recording(i), print) for i in (1, 2)]
        hung_fd = hung._part.open_part._fd

        def hangs(fd: int, data: bytes) -> None:
            queued.wait(30)
            if fd == hung_fd:
                release.wait(30)
            write(fd, data)

        monkeypatch.setattr(open_part, "_write", hangs)
        first = asyncio.ensure_future(done.append([screen_record(1, b"seen")]))
        second = asyncio.ensure_future(hung.append([screen_record(1, b"hangs")]))
        await asyncio.sleep(0)  # both wait for the one thread
        queued.set()
        try:
            async with asyncio.timeout(30):
                await first
            assert not release.is_set()
        finally:
            release.set()
        with suppress(RecordingFailed):
            await second
        for part in (done, hung):
            part.close([END])
    assert scene.screen(a_recording(1).id) == b"seen"


async def test_hung_sync_fails_the_parts_of_its_thread_only(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: dict[int, list[str]] = {1: [], 2: [], 3: []}
    sync, hung, release = open_part.sync, list[int](), threading.Event()

    def hangs(fd: int) -> None:
        if fd in hung:
            release.wait(60)
        sync(fd)

    async with scene.running() as recordings:
        first, second = [
            await recordings.open_part(a_recording(i), failed[i].append) for i in (1, 2)
        ]
        monkeypatch.setattr(open_part, "sync", hangs)
        hung.append(first._part.open_part._fd)
        try:
            await first.append([screen_record(1, b"x")])
            await second.append([screen_record(1, b"x")])
            await until(lambda: bool(failed[1]) and recordings.lag_s == 0.0)
            # New recordings go to the other threads.
            for i in range(3, 3 + SYNC_THREADS):
                part = await recordings.open_part(a_recording(i), failed[3].append)
                await part.append([screen_record(1, b"x")])
            await until(lambda: recordings.lag_s == 0.0)
        finally:
            release.set()
    assert failed == {1: ["stalled: the disk makes no data durable"], 2: [], 3: []}


async def test_hung_sync_delays_the_end_of_no_other_recording(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of one that waits for the thread that hangs, nor of one that does not.

    When the call returns, a part that was closed meanwhile has not failed.
    """
    monkeypatch.setattr(part_threads, "SYNC_THREADS", 2)
    monkeypatch.setattr(file_recordings, "_ENDS_MAX", 1)
    sync, hung, failed = open_part.sync, list[int](), list[str]()
    entered, release = threading.Event(), threading.Event()

    def hangs(fd: int) -> None:
        if fd in hung:
            entered.set()
            release.wait(60)
        sync(fd)

    async with scene.running() as recordings:
        parts = [await recordings.open_part(a_recording(i), failed.append) for i in (1, 2, 3)]
        monkeypatch.setattr(open_part, "sync", hangs)
        hung.append(parts[0]._part.open_part._fd)
        try:
            await parts[0].append([screen_record(1, b"x")])
            await until(entered.is_set)
            parts[2].close([END])  # of the thread that hangs
            parts[1].close([END])
            await until(lambda: bool(failed))
            parts[0].close([END])
            await until(lambda: is_closed(scene, 2) and is_closed(scene, 3))
            assert not is_closed(scene, 1)
        finally:
            release.set()
        await until(lambda: is_closed(scene, 1))
    assert set(failed) == {"stalled: the disk makes no data durable"}


async def test_hung_disk_of_reads_stops_no_other_thread(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads that hang are bounded, in number and in time, and leave the loop's threads alone."""
    release, entered = threading.Event(), list[str]()

    def hangs(path: Path) -> None:
        entered.append(path.name)
        release.wait(60)

    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), print)
        part.close([END])
    monkeypatch.setattr(stored_recordings, "_READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(stored_recordings, "read_info", hangs)
    store = StoredRecordings(scene.directory, scene.keys)
    many = min(32, (os.cpu_count() or 1) + 4) + stored_recordings._THREADS_MAX
    try:
        reads = [asyncio.ensure_future(store.find(a_recording().id)) for _ in range(many)]
        await until(lambda: len(entered) == stored_recordings._THREADS_MAX)
        async with asyncio.timeout(30):
            assert await asyncio.to_thread(lambda: "policy") == "policy"
            outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert [one.reason for one in outcomes if isinstance(one, RecordingUnreadable)] == [
            Unreadable.UNAVAILABLE
        ] * many
        assert len(entered) == stored_recordings._THREADS_MAX
    finally:
        release.set()
    monkeypatch.undo()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await store.find(a_recording().id) is not None
                break
            except RecordingUnreadable:
                await asyncio.sleep(0.05)
