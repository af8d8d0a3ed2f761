"""Invariant 12 in 50 faulted runs, by comparison: what a browser received is in the recording.

Each run is a process that records a session on a real disk and sends it to a browser, which is this
process. The fault is real: kill -9, a limit of the file's size, a removed directory, a slow disk.
"""

import asyncio
import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import open_part
from gateway.flow.consoles.frame_channel import ChannelClosed, FrameChannel
from gateway.flow.recordings.recorded_channel import RecordedChannel
from tests.support.frame_channel import MemoryChannel
from tests.support.killed import fork
from tests.support.recordings import RecordingScene, a_recording

FAULTS = ("kill", "full", "removed", "slow", "read_only", "none")
RUNS = 10 * len(FAULTS)


class PipeBrowser:
    """The browser's channel: a pipe to the process that compares."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def receive(self) -> ChannelClosed:
        await asyncio.Event().wait()
        return ChannelClosed(1006)

    async def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    async def send_text(self, text: str) -> None:
        pass

    async def close(self, code: int, reason: str) -> None:
        pass


class SendsFirst(RecordedChannel):
    """Breaks invariant 12 on purpose: a frame is sent before it is written."""

    def __init__(self, browser: FrameChannel, *arguments: Any, **options: Any) -> None:
        super().__init__(MemoryChannel(), *arguments, **options)
        self._real_browser = browser

    async def send(self, data: bytes) -> None:
        await self._real_browser.send(data)
        await super().send(data)


@dataclass(frozen=True, slots=True)
class Session:
    """What the console of one run shows, and which fault it meets."""

    frames: list[bytes]
    fault: str
    fault_after: int
    """Bytes that the browser has received, or the file has."""

    @classmethod
    def of(cls, seed: int) -> "Session":
        random = Random(seed)
        sizes = [random.choice((1, 30, 1_000, 16_000)) for _ in range(random.randrange(50, 150))]
        frames = [random.randbytes(size) for size in sizes]
        total = sum(sizes)
        return cls(frames, FAULTS[seed % len(FAULTS)], random.randrange(total // 4, total))


async def record(
    session: Session, root: Path, *, browser_fd: int, channel_type: type[RecordedChannel]
) -> None:
    """Run the session as a gateway does, until it ends or its recording fails."""
    failed = asyncio.Event()
    scene = RecordingScene(root, clock=SystemClock())
    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), lambda _: failed.set())
        channel = channel_type(
            PipeBrowser(browser_fd),
            part,
            SystemClock(),
            is_required=True,
            on_failure=lambda _: failed.set(),
        )
        if session.fault == "full":
            limit = session.fault_after
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        if session.fault == "slow":
            slow_down()
        if session.fault == "read_only":
            become_read_only(session.fault_after)
        pump = asyncio.create_task(channel.run())
        for frame in session.frames:
            if failed.is_set():
                break
            await channel.send(frame)
            await asyncio.sleep(0.001 * (len(frame) < 100))  # others arrive together
        if session.fault == "removed":
            await asyncio.wait_for(failed.wait(), 60)
        # Not `flush`, which a browser that does not read for a second does not delay.
        idle = asyncio.create_task(channel._idle.wait())
        await asyncio.wait({pump, idle}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        pump.cancel()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def slow_down() -> None:
    write = open_part._write

    def slowly(fd: int, data: bytes) -> None:
        time.sleep(0.1)
        write(fd, data)

    open_part._write = slowly


def become_read_only(after: int) -> None:
    """Reject writes after so many bytes, as a file system does that has met an error."""
    write, written = open_part._write, 0

    def rejecting(fd: int, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > after:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        write(fd, data)

    open_part._write = rejecting


def browse(session: Session, process: int, reader: int, root: Path) -> bytes:
    """Receive what the browser is sent; cause the fault once enough has arrived."""
    received, is_due = b"", session.fault in ("kill", "removed")
    while data := os.read(reader, 65_536):
        received += data
        if is_due and len(received) >= session.fault_after:
            is_due = False
            if session.fault == "kill":
                os.kill(process, signal.SIGKILL)
            else:
                shutil.move(root, root.with_name("moved"))
    os.close(reader)
    os.waitpid(process, 0)
    return received


@dataclass(frozen=True, slots=True)
class Run:
    session: Session
    received: bytes
    recorded: bytes


def run_all(
    seeds: Iterable[int], directory: Path, channel_type: type[RecordedChannel]
) -> Iterator[Run]:
    """Run the sessions of these seeds, one for each fault at the same time."""
    for batch in zip(*[iter(seeds)] * len(FAULTS), strict=True):
        begun = [begin(Session.of(seed), directory / str(seed), channel_type) for seed in batch]
        with ThreadPoolExecutor(len(FAULTS)) as threads:
            yield from threads.map(lambda one: finish(*one), begun)


def begin(
    session: Session, directory: Path, channel_type: type[RecordedChannel]
) -> tuple[Session, Path, int, int]:
    root = directory / "recordings"
    root.mkdir(parents=True)
    work = partial(record, session, root, channel_type=channel_type)
    return session, root, *fork(lambda writer: asyncio.run(work(browser_fd=writer)))


def finish(session: Session, root: Path, process: int, reader: int) -> Run:
    received = browse(session, process, reader, root)
    moved = root.with_name("moved")
    scene = RecordingScene(moved if moved.exists() else root, clock=SystemClock())
    scene.closer.recover(scene.directory.recordings())
    scene.index.close()
    return Run(session, received, scene.screen(a_recording().id))


def test_browser_receives_nothing_that_is_not_recorded(tmp_path: Path) -> None:
    runs = [*run_all(range(RUNS), tmp_path, RecordedChannel)]
    assert len(runs) == RUNS
    for seed, one in enumerate(runs):
        shown = b"".join(one.session.frames)
        assert one.recorded.startswith(one.received), (seed, one.session.fault)
        assert shown.startswith(one.recorded), (seed, one.session.fault)
        if one.session.fault in ("none", "slow"):
            assert one.received == one.recorded == shown
    cut = [one for one in runs if len(one.received) < sum(map(len, one.session.frames))]
    assert len(cut) > RUNS // len(FAULTS)


def test_comparison_finds_what_is_sent_before_it_is_written(tmp_path: Path) -> None:
    runs = [*run_all(range(2 * len(FAULTS)), tmp_path, SendsFirst)]
    missing = [one for one in runs if not one.recorded.startswith(one.received)]
    assert {one.session.fault for one in missing} >= {"full"}
    assert all(one.received == one.recorded for one in runs if one.session.fault == "none")
