"""Many parts that are opened at the same time share the commits of the index."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from gateway.domain.recordings.index_lines import PART_OPENED, recording_opened
from gateway.domain.recordings.records import screen_record
from gateway.drivers.audit import file_store
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import open_part
from gateway.drivers.recordings.recording_index import RecordingIndex, index_lines
from tests.support.recordings import STARTED_AT, RecordingScene, a_recording

PARTS = 50


def until(condition: Callable[[], bool]) -> None:
    for _ in range(3_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true")


class Commits:
    """Counts the commits of the index; each waits as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.wait: Callable[[], object] = lambda: None
        write = file_store.write_durably

        def counted(fd: int, data: bytes) -> None:
            self.count += 1
            self.wait()
            write(fd, data)

        monkeypatch.setattr(file_store, "write_durably", counted)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(monkeypatch)


def line_about(number: int) -> bytes:
    return recording_opened(STARTED_AT, f"{number:032x}", "0" * 64, "0" * 64)


class Appends:
    """Threads that append to an index, one line each."""

    def __init__(self, index: RecordingIndex) -> None:
        self._index = index
        self._threads: list[Thread] = []
        self.errors: list[Exception] = []

    def start(self, number: int) -> None:
        thread = Thread(target=self._append, args=(number,))
        self._threads.append(thread)
        thread.start()

    def _append(self, number: int) -> None:
        try:
            self._index.append(line_about(number))
        except OSError as error:
            self.errors.append(error)

    def join(self) -> None:
        for one in self._threads:
            one.join(60)


def recordings_in(directory: Path) -> set[int]:
    lines = [one.fields for one in index_lines(directory)]
    return {int(one["recording"], 16) for one in lines if "recording" in one}


@pytest.mark.parametrize("fails", [False, True])
def test_threads_that_wait_for_a_commit_share_the_next(
    tmp_path: Path, commits: Commits, *, fails: bool
) -> None:
    """A failed commit rejects each of its lines, and no other."""
    index, begun, goes_on = RecordingIndex(tmp_path, SystemClock(), None), Event(), Event()
    index.append(line_about(1))

    def wait() -> None:
        begun.set()
        goes_on.wait(60)
        if fails and commits.count == 2:
            raise OSError(5, "Input/output error")

    commits.wait, commits.count = wait, 0
    appends = Appends(index)
    appends.start(2)
    begun.wait(60)
    for number in range(3, 13):
        appends.start(number)
    until(lambda: len(index._waiting) == 10)
    goes_on.set()
    appends.join()
    commits.wait = lambda: None
    assert commits.count == 2
    assert len(appends.errors) == (10 if fails else 0)
    assert recordings_in(tmp_path) == ({1, 2} if fails else set(range(1, 13)))
    index.append(line_about(20))
    index.close()
    assert 20 in recordings_in(tmp_path)


async def test_parts_opened_at_once_on_a_slow_disk_all_start(
    tmp_path: Path, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fdatasync and fsync takes 100 ms."""
    scene = RecordingScene(tmp_path, clock=SystemClock())
    monkeypatch.setattr(open_part, "sync", slowly(open_part.sync))
    monkeypatch.setattr(os, "fsync", slowly(os.fsync))
    commits.wait = lambda: time.sleep(0.1)
    async with scene.running() as recordings:
        # The time is that of the benchmark; a busy machine takes longer.
        recordings._threads._opens._timeout_s = 60
        part = await recordings.open_part(a_recording(PARTS + 1), print)
        commits.count = 0
        parts = await asyncio.gather(
            *(recordings.open_part(a_recording(i), print) for i in range(1, PARTS + 1))
        )
        opened_with = commits.count
        monkeypatch.undo()
        for one in (part, *parts):
            await one.append([screen_record(1, b"seen")])
    assert opened_with < PARTS
    lines = [one.fields for one in index_lines(tmp_path)]
    assert sum(one["event"] == PART_OPENED for one in lines) == PARTS + 1
    assert {scene.screen(a_recording(i).id) for i in range(1, PARTS + 1)} == {b"seen"}


def slowly(sync: Callable[[int], None]) -> Callable[[int], None]:
    def slow(fd: int) -> None:
        time.sleep(0.1)
        sync(fd)

    return slow
