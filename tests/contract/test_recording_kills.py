"""kill -9 before each system call of a recording's life: what was seen stays, a restart completes.

Each test runs its scenario once per system call: the process dies before the first, the second, and
so on, until it ends by itself. A write is torn in the middle.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.commands.recordings_rewrap import rewrap_recording
from gateway.domain.recordings.index_lines import read_index
from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.domain.recordings.verdicts import Verdict, judge
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.found_recordings import found_recordings
from gateway.drivers.recordings.open_part import OpenPart
from gateway.drivers.recordings.recording_directory import (
    PartFile,
)
from gateway.drivers.recordings.recording_index import INDEX_DIRECTORY, index_lines
from tests.support.killed import dies_before
from tests.support.recordings import KEY, OTHER_KEY, RecordingScene, a_recording

DAY_S = 86_400.0
FRAMES = [b"%d" % i * 700 for i in range(4)]
END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})
Report = Callable[[bytes], None]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a directory in memory: a killed process does not need a real `fsync`."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def begin(root: Path) -> RecordingScene:
    return RecordingScene(root, clock=SystemClock(), keep_s=DAY_S)


def opened(scene: RecordingScene, number: int = 1, *, age_s: float = 0.0) -> OpenPart:
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    began_at = scene.clock.now() - age_s
    return open_recording_part(files, a_recording(number, started_at=began_at), began_at)


def each_death(
    tmp_path: Path, before: Path | None, work: Callable[[Path, Report], None]
) -> Iterator[tuple[Path, bytes]]:
    """Yield what each death leaves of a copy of the directory `before`, and what was reported."""
    for call in range(1, 200):
        root = tmp_path / str(call)
        if before is None:
            root.mkdir()
        else:
            shutil.copytree(before, root)
        was_killed, reported = dies_before(call, lambda report: work(root, report))  # noqa: B023
        yield root, reported
        shutil.rmtree(root)
        if not was_killed:
            assert call > 5, "the scenario makes no system calls"
            return
    pytest.fail("the scenario has more system calls than expected")


def verdicts(root: Path) -> dict[tuple[str, int], Verdict]:
    if not (root / INDEX_DIRECTORY).is_dir():
        return {}
    scene = begin(root)
    found = found_recordings(scene.directory, scene.keys)
    judged = judge(read_index(index_lines(root)), found)
    return {(one.recording, one.part): one.verdict for one in judged}


NO_RECORDINGS = ("index", "retention.lock", "removals.lock")


def files(root: Path) -> set[str]:
    """Return what the directory has besides the index."""
    return {
        str(one.relative_to(root).as_posix())
        for one in root.rglob("*")
        if one.is_file() and one.relative_to(root).parts[0] not in NO_RECORDINGS
    }


def restart(root: Path) -> RecordingScene:
    """Do what a process of the gateway does at its start, and in the hours after."""
    scene = begin(root)
    scene.closer.recover(scene.directory.recordings())
    for _ in range(3):  # the first pass takes what it finds for a stepped clock
        for path in (*root.glob("[0-9]*/*"), *root.glob("[0-9]*")):
            os.utime(path, (scene.clock.now() - 7_200.0,) * 2)
        scene.retention.apply()
    scene.index.close()
    return scene


def write_and_close(root: Path, report: Report) -> None:
    """Record a session, and report each frame as a browser receives it."""
    scene = begin(root)
    part = opened(scene)
    for at_ms, frame in enumerate(FRAMES):
        part.append([screen_record(at_ms, frame)])
        report(frame)
    part.append([END])
    report(b"END")
    scene.closer.close(PartFile(1, part.file, is_closed=False))
    part.close()


def test_death_while_a_session_is_recorded_loses_nothing(tmp_path: Path) -> None:
    recording, seen = a_recording().id, set()
    for root, reported in each_death(tmp_path, None, write_and_close):
        received, was_ended, _ = reported.partition(b"END")
        before = verdicts(root)
        assert set(before.values()) <= {Verdict.CUT_SHORT, Verdict.INTACT}, before
        scene = restart(root)
        after = verdicts(root)
        assert set(after.values()) <= {Verdict.CUT_SHORT, Verdict.INTACT}, after
        seen |= set(after.values())
        (day,) = root.glob("[0-9]*") if files(root) else (None,)
        if day is None or not after:
            assert received == b""
            assert not any(".new" in one or "part-" in one for one in files(root))
            continue
        assert scene.screen(recording).startswith(received)
        assert b"".join(FRAMES).startswith(scene.screen(recording))
        if was_ended:
            assert after == {(recording, 1): Verdict.INTACT}
            assert scene.screen(recording) == received
        prefix = f"{day.name}/{recording}/"
        expected = {"keys.json", "part-0001.part", "recording.json"}
        assert {one.removeprefix(prefix) for one in files(root)} == expected
    assert seen == {Verdict.CUT_SHORT, Verdict.INTACT}


def resume(root: Path, report: Report) -> None:
    scene = begin(root)
    part = opened(scene)
    part.append([screen_record(0, b"second")])
    report(b"second")
    part.close()


def test_death_while_a_session_is_resumed_keeps_both_parts(tmp_path: Path) -> None:
    before = tmp_path / "before"
    scene = begin(before)
    part = opened(scene)
    part.append([screen_record(0, b"first")])
    part.close()
    scene.index.close()
    for root, reported in each_death(tmp_path, before, resume):
        restarted = restart(root)
        assert set(verdicts(root).values()) == {Verdict.CUT_SHORT}
        assert restarted.screen(a_recording().id).startswith(b"first" + reported)


def test_death_while_a_part_is_recovered_loses_nothing(tmp_path: Path) -> None:
    before = tmp_path / "before"
    scene = begin(before)
    for number in (1, 2):
        part = opened(scene, number)
        part.append([screen_record(0, FRAMES[number])])
        part.close()
    scene.index.close()

    def recover(root: Path, _: Report) -> None:
        scene = begin(root)
        scene.closer.recover(scene.directory.recordings())

    for root, _ in each_death(tmp_path, before, recover):
        assert set(verdicts(root).values()) == {Verdict.CUT_SHORT}
        restarted = restart(root)
        assert set(verdicts(root).values()) == {Verdict.CUT_SHORT}
        for number in (1, 2):
            assert restarted.screen(a_recording(number).id) == FRAMES[number]
        assert not [one for one in files(root) if one.endswith((".open", ".new"))]


def test_death_during_retention_removes_the_rest_later(tmp_path: Path) -> None:
    before = tmp_path / "before"
    scene = begin(before)
    for number, age_s in ((1, 3 * DAY_S), (2, 2 * DAY_S), (3, 0.0)):
        part = opened(scene, number, age_s=age_s)
        part.append([screen_record(0, FRAMES[number]), END])
        part.close()
    scene.closer.recover(scene.directory.recordings())
    scene.index.close()
    expired, young = {a_recording(1).id, a_recording(2).id}, a_recording(3).id

    def retain(root: Path, _: Report) -> None:
        scene = begin(root)
        for _ in range(2):
            scene.retention.apply()

    for root, _ in each_death(tmp_path, before, retain):
        assert not any(one.is_problem for one in verdicts(root).values())
        restart(root)
        assert verdicts(root) == {
            **{(one, 0): Verdict.REMOVED for one in expired},
            (young, 1): Verdict.INTACT,
        }
        assert len(files(root)) == 3
        assert all(young in one for one in files(root))
        assert len([*root.glob("[0-9]*")]) == 1


def test_death_during_rewrap_leaves_usable_keys(tmp_path: Path) -> None:
    before = tmp_path / "before"
    scene = begin(before)
    part = opened(scene)
    part.append([screen_record(0, b"still readable")])
    part.close()
    scene.closer.recover(scene.directory.recordings())
    scene.index.close()

    def rewrap(root: Path, _: Report) -> None:
        scene = RecordingScene(root, clock=SystemClock(), keys=[OTHER_KEY, KEY])
        for path in scene.directory.recordings():
            assert rewrap_recording(path, scene.keys, scene.index, scene.clock.now())

    for root, _ in each_death(tmp_path, before, rewrap):
        both = RecordingScene(root, clock=SystemClock(), keys=[OTHER_KEY, KEY])
        assert both.screen(a_recording().id) == b"still readable"
        found = verdicts(root)
        assert found.pop((a_recording().id, 1)) is Verdict.CUT_SHORT
        assert {*found.values()} <= {Verdict.KEY_MISSING}
