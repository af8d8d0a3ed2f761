"""Invariant 12 in whole sessions under seeded schedules and faults, in virtual time.

Network and cloud are fakes, the directory is real. `RECORDED_SEEDS=5000 python -m pytest
tests/simulation/test_recorded_consoles.py` runs more, `SEED=17` runs that one alone. The invariant
is also broken on purpose, and the comparison must find it.
"""

import asyncio
import errno
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.consoles.model import ConsoleTarget
from gateway.domain.recordings.index_lines import read_index
from gateway.domain.recordings.records import RecordKind
from gateway.domain.recordings.verdicts import Verdict, judge
from gateway.drivers.recordings import open_part
from gateway.drivers.recordings.closed_part import ClosedPart
from gateway.drivers.recordings.found_recordings import found_recordings
from gateway.drivers.recordings.recording_directory import part_files, read_wrapped_keys
from gateway.drivers.recordings.recording_index import index_lines
from gateway.flow.consoles.live_session import LiveSession
from gateway.flow.recordings.recorded_channel import RecordedChannel
from tests.support import rfb
from tests.support.clock import FakeClock
from tests.support.consoles import OTHER_TARGET, TARGET
from tests.support.frame_channel import MemoryChannel
from tests.support.live_consoles import Page
from tests.support.recorded_consoles import Disk, RecordedPart, RecordedReplica, recorded_world
from tests.support.recordings import RecordingScene
from tests.support.virtual_time import run_virtually

_SEEDS = int(os.environ.get("RECORDED_SEEDS", "50"))
_BROKEN_SEEDS = 30
_PEOPLE = {"ada": TARGET, "ben": OTHER_TARGET}
_RUNS_S = 15.0
_ENDS_WITHIN_S = 1.0


class Fleet:
    """Replicas on one directory, people, and what their browsers received."""

    def __init__(self, seed: int, root: Path, disk: Disk) -> None:
        self.chance = random.Random(f"recordings {seed}")
        self.fault = FAULTS[seed % len(FAULTS)]
        self.world = recorded_world()
        self.root = root
        self.disk = disk
        self.moved: list[Path] = []
        self.replicas = [
            RecordedReplica(self.world, f"p{number}", processes=2, root=root, disk=disk).start()
            for number in range(2)
        ]
        self.pages: list[Page] = []
        self.opening = asyncio.Lock()
        self.ends_at = self.world.clock.monotonic() + _RUNS_S

    @property
    def goes_on(self) -> bool:
        return self.world.clock.monotonic() < self.ends_at

    @property
    def parts(self) -> list[RecordedPart]:
        return [part for one in self.replicas for part in one.parts]

    def any_replica(self) -> RecordedReplica:
        return self.chance.choice([one for one in self.replicas if not one.is_dead])

    async def person(self, subject: str, target: ConsoleTarget) -> None:
        """Open a console, look at it, and resume it, on any replica."""
        ticket = await self.any_replica().ticket(self.world.person(subject), target)
        replica = self.any_replica()
        new = await replica.redeem(ticket)
        key = new.resume_key.reveal()
        while self.goes_on:
            page, cloud = await self._open(self.any_replica(), new, key)
            if cloud is not None:
                await self._sit(page, cloud)
            key = page.key
            if page.closed is not None and page.closed[0] != 4007:
                return
            await asyncio.sleep(self.chance.uniform(0.0, 2.0))

    async def _open(
        self, replica: RecordedReplica, new: Any, key: str
    ) -> tuple[Page, MemoryChannel | None]:
        async with self.opening:  # the newest channel of the cloud is that of this page
            page = replica.open_page(new, key)
            self.pages.append(page)
            while not (page.is_live or page.task.done()):
                await self.world.clock.sleep(0.01)
            if not page.is_live or page.task.done():
                return page, None
            cloud = await page.shake_hands()
            page.channel.put(rfb.set_pixel_format(), rfb.update_request())
            return page, cloud

    async def _sit(self, page: Page, cloud: MemoryChannel) -> None:
        leaves_at = self.world.clock.monotonic() + self.chance.uniform(1.0, 10.0)
        while not page.task.done() and self.world.clock.monotonic() < leaves_at:
            for _ in range(self.chance.choice((1, 1, 5))):
                self._show(cloud)
            if self.chance.random() < 0.3:
                page.channel.put(rfb.key(0x61))
            await asyncio.sleep(self.chance.choice((0.0, 0.01, 0.3)))
        if not page.task.done():
            if self.chance.random() < 0.2:
                page.send(type="end")
            else:
                page.lose()
        await asyncio.wait({page.task}, timeout=30)
        assert page.task.done()

    def _show(self, cloud: MemoryChannel) -> None:
        """Send an update, in frames that end anywhere."""
        width = self.chance.choice((1, 8, 60))
        body = self.chance.randbytes(4 * width * 16)
        data = rfb.update(rfb.rectangle(width, 16, 0, body))
        cut = self.chance.randrange(len(data))
        cloud.put(*(one for one in (data[:cut], data[cut:]) if one))

    async def watch(self) -> None:
        """Find a session that goes on after its recording has failed."""
        while True:
            await asyncio.sleep(0.05)
            now = self.world.clock.monotonic()
            for part in self.parts:
                is_over = part.channel.closed is not None or self._page_of(part).task.done()
                if part.failed_at is not None and not is_over:
                    late_s = now - part.failed_at
                    assert late_s <= _ENDS_WITHIN_S, "a session goes on after its recording failed"

    def _page_of(self, part: RecordedPart) -> Page:
        return next(one for one in self.pages if one.channel is part.channel)

    def move_out(self, path: Path) -> None:
        """Remove a recording under its writer; the test still compares its files."""
        moved = self.root.with_name(f"moved-{len(self.moved)}")
        (moved / path.parent.name).mkdir(parents=True)
        shutil.move(path, moved / path.parent.name / path.name)
        self.moved.append(moved)


async def no_fault(fleet: Fleet) -> None:
    del fleet


async def disk_is_slow(fleet: Fleet) -> None:
    fleet.disk.delay_s = 0.1


async def disk_is_full(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.5, _RUNS_S))
    fleet.disk.error = errno.ENOSPC


async def disk_is_read_only(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.5, _RUNS_S))
    fleet.disk.error = errno.EROFS


async def recording_is_removed(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.5, _RUNS_S))
    for path in [*fleet.replicas[0].scene.directory.recordings()]:
        fleet.move_out(path)


async def replica_is_killed(fleet: Fleet) -> None:
    fleet.disk.delay_s = fleet.chance.choice((0.0, 0.05))
    await asyncio.sleep(fleet.chance.uniform(0.5, _RUNS_S))
    await fleet.replicas[0].kill()


FAULTS = (
    disk_is_slow,
    disk_is_full,
    disk_is_read_only,
    recording_is_removed,
    replica_is_killed,
    no_fault,
)


async def one_fleet(seed: int, root: Path, disk: Disk) -> Counter[str]:
    fleet = Fleet(seed, root, disk)
    people = [asyncio.create_task(fleet.person(*one)) for one in _PEOPLE.items()]
    watching = asyncio.create_task(fleet.watch())
    everything = asyncio.gather(*people, fleet.fault(fleet))
    try:
        done, _ = await asyncio.wait({watching, everything}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        await asyncio.sleep(5.0)
    finally:
        watching.cancel()
        everything.cancel()
        await asyncio.gather(everything, return_exceptions=True)
        for replica in fleet.replicas:
            await replica.stop()
            replica.release()
    disk.error = 0
    assert fleet.world.failures == []
    seen = compare(fleet)
    check_verdicts(fleet)
    return seen


def received(channel: MemoryChannel) -> bytes:
    return b"".join(one for one in channel.sent if isinstance(one, bytes))


def compare(fleet: Fleet) -> Counter[str]:
    """Compare what each browser received with the part of its connection."""
    recorded: dict[tuple[str, int, float], bytes] = {}
    for root in (fleet.root, *fleet.moved):
        recorded |= screens(root)
    seen: Counter[str] = Counter()
    of_channel = {id(one.channel): one for one in fleet.parts}
    for page in fleet.pages:
        screen = received(page.channel)
        part = of_channel.get(id(page.channel))
        if part is None:
            assert screen == b"", "a browser received a screen without a recording"
            continue
        header = part.open_part.header
        found = recorded.get((header.recording, header.part, header.started_at), b"")
        assert found.startswith(screen), "a browser received what is not in the recording"
        seen["bytes"] += len(screen)
        seen["parts"] += bool(screen)
        seen["failed"] += part.failed_at is not None
    return seen


def screens(root: Path) -> dict[tuple[str, int, float], bytes]:
    """Return the screen data of each part, after a restart has closed it."""
    scene = RecordingScene(root, clock=FakeClock())
    scene.closer.recover(scene.directory.recordings())
    scene.index.close()
    found = {}
    for path in scene.directory.recordings():
        keys = scene.keys.unwrap(path.name, read_wrapped_keys(path))
        for file in part_files(path):
            with ClosedPart(file.file, keys) as part:
                key = (part.header.recording, part.header.part, part.header.started_at)
                found[key] = b"".join(
                    one.payload for one in part.records() if one.kind is RecordKind.SCREEN
                )
    return found


def check_verdicts(fleet: Fleet) -> None:
    """Only what was removed is reported as a problem."""
    scene = RecordingScene(fleet.root, clock=FakeClock())
    index = read_index(index_lines(fleet.root))
    problems = {
        one.verdict
        for one in judge(index, found_recordings(scene.directory, scene.keys))
        if one.verdict.is_problem
    }
    assert problems <= ({Verdict.MISSING} if fleet.moved else set())


@pytest.fixture
def memory() -> Iterator[Path]:
    """Return a directory in memory: virtual time does not wait for `fsync`."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        yield Path(name)


def run(seed: int, directory: Path) -> Counter[str]:
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        root = directory / str(seed) / "recordings"
        root.mkdir(parents=True)
        return run_virtually(one_fleet(seed, root, disk))


def test_browsers_receive_only_what_is_recorded(memory: Path) -> None:
    seeds = [int(os.environ["SEED"])] if "SEED" in os.environ else range(_SEEDS)
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            seen += run(seed, memory)
        except Exception as error:
            raise AssertionError(f"SEED={seed}") from error
    if len(seeds) > 1:  # the schedules reach what the comparison is about
        assert seen["bytes"] > 100_000 * len(seeds)
        assert seen["parts"] > 2 * len(seeds)
        assert seen["failed"] > len(seeds) / 3


def sends_before_it_writes(patch: pytest.MonkeyPatch) -> None:
    write_and_send = RecordedChannel._write_and_send

    async def sends(self: RecordedChannel) -> bool:
        for frame in self._frames:
            await self._browser.send(frame)
        browser, self._browser = self._browser, MemoryChannel()
        try:
            return await write_and_send(self)
        finally:
            self._browser = browser

    patch.setattr(RecordedChannel, "_write_and_send", sends)


def goes_on_without_a_recording(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecordedChannel, "_is_over", property(lambda _: False))


def ends_no_session(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LiveSession, "_recording_failed", lambda *_: None)
    patch.setattr(RecordedChannel, "run", never_ends(RecordedChannel.run))


def never_ends(run: Callable[[RecordedChannel], Any]) -> Callable[[RecordedChannel], Any]:
    async def runs(self: RecordedChannel) -> None:
        await run(self)
        await asyncio.Event().wait()

    return runs


def buffers_its_writes(patch: pytest.MonkeyPatch) -> None:
    """Return before the operating system has the bytes: SIGKILL loses them."""
    write, buffers = open_part._write, dict[int, bytes]()

    def buffered(fd: int, data: bytes) -> None:
        waiting = buffers.pop(fd, b"") + data
        if len(waiting) < 60_000:
            buffers[fd] = waiting
        else:
            write(fd, waiting)

    close = open_part.OpenPart.close

    def flushed(self: open_part.OpenPart) -> None:
        buffers.pop(self._fd, None)
        close(self)

    patch.setattr(open_part, "_write", buffered)
    patch.setattr(open_part.OpenPart, "close", flushed)


def records_the_first_connection_only(patch: pytest.MonkeyPatch) -> None:
    begin = LiveSession._begin_recording

    async def begins(self: LiveSession) -> None:
        if self._attempt == 0:
            await begin(self)

    patch.setattr(LiveSession, "_begin_recording", begins)


NOT_RECORDED = "a browser received what is not in the recording"
BROKEN = {
    sends_before_it_writes: NOT_RECORDED,
    goes_on_without_a_recording: NOT_RECORDED,
    buffers_its_writes: NOT_RECORDED,
    records_the_first_connection_only: "a browser received a screen without a recording",
    ends_no_session: "a session goes on after its recording failed",
}


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda one: one.__name__)
def test_broken_recording_is_caught(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, memory: Path
) -> None:
    break_it(monkeypatch)
    for seed in range(_BROKEN_SEEDS):
        try:
            run(seed, memory)
        except AssertionError as error:
            if BROKEN[break_it] in str(error):
                return
    pytest.fail("no check has found it")
