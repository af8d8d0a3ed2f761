"""List and player compare recordings with the index, and name each difference.

They read only the ends of a part: the index has a hash of them, and each block of a part
authenticates the block before.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.recordings_rewrap import rewrap_recording
from gateway.domain.recordings.index_lines import read_index
from gateway.domain.recordings.model import PartState, RecordingQuery
from gateway.domain.recordings.part_format import PartFooter
from gateway.domain.recordings.records import RecordKind, json_record, screen_record
from gateway.domain.recordings.verdicts import Judgement, Verdict, judge
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import recording_index
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from gateway.drivers.recordings.found_recordings import find_problems, found_recordings
from gateway.drivers.recordings.recording_directory import read_footer, set_hold
from gateway.drivers.recordings.recording_index import find_lines, index_lines
from gateway.drivers.recordings.recording_keys import RecordingKeys
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.flow.recordings.recording_store import RecordingUnreadable, Unreadable
from tests.support.recordings import KEY, OTHER_KEY, RecordingScene, a_recording

END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})
ONE, TWO = a_recording(1).id, a_recording(2).id


@pytest.fixture
def scene(tmp_path: Path) -> RecordingScene:
    """Return a scene with a recording of two parts."""
    scene = RecordingScene(tmp_path, clock=SystemClock())
    for payload in (b"first", b"second"):
        record(scene, payload)
    return scene


def record(scene: RecordingScene, payload: bytes, **details: Any) -> None:
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, a_recording(**details), scene.clock.now())
    part.append([screen_record(0, payload), END])
    part.close()
    scene.closer.recover(scene.directory.recordings())


def path_of(scene: RecordingScene, recording: str = ONE) -> Path:
    path = scene.directory.find(recording)
    assert path is not None
    return path


def verdicts(scene: RecordingScene, *wanted: str) -> list[Judgement]:
    index = read_index(index_lines(scene.directory.root))
    found = found_recordings(scene.directory, scene.keys, wanted)
    return [*judge(index, found, wanted)]


def whole(scene: RecordingScene) -> Verdict:
    """Return the verdict on the recording as a whole."""
    (verdict,) = (one.verdict for one in verdicts(scene) if not one.part)
    return verdict


def store(scene: RecordingScene) -> StoredRecordings:
    return StoredRecordings(scene.directory, scene.keys)


async def listed(scene: RecordingScene) -> tuple[str, ...]:
    """Return the problems of the first recording as the list has them."""
    page = await store(scene).list(RecordingQuery(), 10)
    (info, *_) = await store(scene).check(page.recordings)
    return info.problems


async def played(scene: RecordingScene) -> tuple[tuple[str, ...], list[int]]:
    """Return the problems, and the numbers of the parts that have a picture."""
    reader = await store(scene).open(ONE, with_keystrokes=False)
    numbers = [one.info.number for one in reader.parts if one.chunks]
    for number in numbers:
        assert await reader.chunk(number, 0)
    reader.close()
    return reader.info.problems, numbers


async def test_intact_recording_has_no_problems(scene: RecordingScene) -> None:
    assert await listed(scene) == ()
    assert await played(scene) == ((), [1, 2])


def change_byte(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def replace_footer(file: Path) -> None:
    """Say in the clear footer that another thing ended the session."""
    content, footer = file.read_bytes(), read_footer(file)
    forged = PartFooter(footer.ended_at, "operator", footer.cut, footer.index, footer.blocks)
    file.write_bytes(content[: -len(footer.encode())] + forged.encode())


@pytest.mark.parametrize(
    ("damage", "problem", "readable"),
    [
        (lambda file: file.unlink(), "part 1: missing: its file", [2]),
        (replace_footer, "part 1: changed: the file differs", [1, 2]),
        (lambda file: change_byte(file, 3), "part 1: changed: the file differs", [2]),
        (lambda file: change_byte(file, -3), "part 1: changed: the file differs", [2]),
        (lambda file: file.write_bytes(b""), "part 1: changed: the file differs", [2]),
        (lambda file: os.truncate(file, 200), "part 1: changed: the file differs", [2]),
        (
            lambda file: shutil.copy(file.with_name("part-0002.part"), file),
            "part 1: changed: the file differs",
            [2],
        ),
    ],
    ids=["removed", "footer", "header", "end", "empty", "truncated", "swapped"],
)
async def test_part_that_differs_is_named_and_the_others_play(
    scene: RecordingScene, damage: Callable[[Path], Any], problem: str, readable: list[int]
) -> None:
    file = path_of(scene) / "part-0001.part"
    damage(file)
    (found,) = await listed(scene)
    assert found.startswith(problem)
    problems, numbers = await played(scene)
    assert (problems, numbers) == ((found,), readable)
    assert {one.verdict.is_problem for one in verdicts(scene)} == {True, False}


async def test_damaged_part_is_listed_with_its_recording(scene: RecordingScene) -> None:
    (path_of(scene) / "part-0002.part").write_bytes(b"no recording")
    (info,) = (await store(scene).list(RecordingQuery(), 10)).recordings
    assert [one.state for one in info.parts] == [PartState.CLOSED, PartState.DAMAGED]
    assert (info.hosts, info.is_open) == (["host-1"], False)


async def test_foreign_part_is_named(scene: RecordingScene) -> None:
    shutil.copy(path_of(scene) / "part-0002.part", path_of(scene) / "part-0003.part")
    problem = "part 3: unknown: no line of the index is about it"
    assert await listed(scene) == (problem,)
    assert await played(scene) == ((problem,), [1, 2])


async def test_older_file_of_the_same_part_is_named(scene: RecordingScene) -> None:
    """Both are authentic, with the keys of the recording; the index knows the newer one."""
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, a_recording(), scene.clock.now())
    part.append([screen_record(0, b"third"), END])
    part.close()
    opened = part.file.read_bytes()
    scene.closer.recover(scene.directory.recordings())
    file = part.file.with_suffix(".part")
    older = file.read_bytes()
    file.unlink()
    part.file.write_bytes(opened)  # as from a backup: it is closed again
    scene.closer.recover(scene.directory.recordings())
    assert await listed(scene) == ()
    file.write_bytes(older)
    (found,) = await listed(scene)
    assert found.startswith("part 3: changed")
    assert await played(scene) == ((found,), [1, 2, 3])


def test_cut_part_cannot_be_shortened(scene: RecordingScene) -> None:
    """An older copy of an open part takes the place of the part that recovery has closed."""
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, a_recording(), scene.clock.now())
    part.append([screen_record(0, b"third")])
    older = part.file.read_bytes()
    part.append([screen_record(1, b"the crime")])
    whole = part.file.read_bytes()
    part.close()

    def restore(content: bytes, *, is_closed: bool) -> Judgement:
        part.file.with_suffix(".part").unlink(missing_ok=True)
        part.file.write_bytes(content)
        if is_closed:
            scene.closer.recover(scene.directory.recordings())
        return verdicts(scene)[2]

    assert restore(whole, is_closed=True).verdict is Verdict.CUT_SHORT
    detail = "the index has more of it than the file"
    for is_closed in (False, True):
        found = restore(older, is_closed=is_closed)
        assert (found.verdict, found.detail) == (Verdict.CHANGED, detail)
    assert find_problems(scene.directory, [ONE])[ONE] == [found]
    assert restore(whole, is_closed=True).verdict is Verdict.CUT_SHORT


def test_lines_are_found_across_reads(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is read in blocks, and not mapped: a failed commit may truncate its file."""
    expected = [*find_lines(scene.directory.root, [ONE])]
    for size in (1, 100, 700):
        monkeypatch.setattr(recording_index, "_READ_BYTES", size)
        assert [*find_lines(scene.directory.root, [ONE])] == expected
    assert len(expected) == 5
    assert not hasattr(recording_index, "mmap")


@pytest.mark.parametrize("name", ["recording.json", "keys.json"])
async def test_recording_without_proof_is_not_played(scene: RecordingScene, name: str) -> None:
    file = path_of(scene) / name
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"s-1"', b'"s-2"').replace(b'"screen"', b'"screem"'))
    (found, *_) = await listed(scene)
    assert found == f"changed: {name} differs from the hash in the index"
    with pytest.raises(RecordingUnreadable) as refused:
        await played(scene)
    assert refused.value.reason is Unreadable.CHANGED
    assert whole(scene) is Verdict.CHANGED
    file.unlink()
    assert whole(scene) is Verdict.MISSING
    with pytest.raises(RecordingUnreadable) as refused:
        await played(scene)
    assert refused.value.reason is Unreadable.CHANGED
    file.write_bytes(content)
    assert await played(scene) == ((), [1, 2])


async def test_recording_that_no_line_is_about_is_not_played(scene: RecordingScene) -> None:
    shutil.rmtree(scene.directory.root / "index")
    assert await listed(scene) == ("unknown: no line of the index is about it",)
    with pytest.raises(RecordingUnreadable) as refused:
        await played(scene)
    assert refused.value.reason is Unreadable.CHANGED


async def test_recording_without_details_is_not_listed(scene: RecordingScene) -> None:
    """Its details decide on the permission to view it; `verify` reports it."""
    (path_of(scene) / "recording.json").write_bytes(b"{}")
    assert (await store(scene).list(RecordingQuery(), 10)).recordings == []
    assert await store(scene).find(ONE) is None


async def test_what_changes_during_a_comparison_is_no_problem(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is closed after the index was read, and before the files are."""
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, a_recording(), scene.clock.now())
    part.append([screen_record(0, b"third"), END])
    part.close()
    find = scene.directory.find_each

    def find_later(recordings: Iterable[str]) -> Iterator[Path]:
        scene.closer.recover(scene.directory.recordings())
        return find(recordings)

    monkeypatch.setattr(scene.directory, "find_each", find_later)
    assert find_problems(scene.directory, [ONE]) == {}
    assert (path_of(scene) / "part-0003.part").exists()


# keys.json


def test_rewrapped_keys_are_in_the_index(scene: RecordingScene) -> None:
    path = path_of(scene)
    before = (path / "keys.json").read_bytes()
    keys = RecordingKeys([OTHER_KEY, KEY])
    assert rewrap_recording(path, keys, scene.index, scene.clock.now())
    assert not rewrap_recording(path, keys, scene.index, scene.clock.now())
    scene.keys = keys
    assert {one.verdict for one in verdicts(scene)} == {Verdict.INTACT}
    # A restored file is one that the gateway wrote.
    (path / "keys.json").write_bytes(before)
    assert {one.verdict for one in verdicts(scene)} == {Verdict.INTACT}


def test_keys_of_another_recording_are_found(scene: RecordingScene) -> None:
    record(scene, b"other", number=2)
    shutil.copy(path_of(scene, TWO) / "keys.json", path_of(scene) / "keys.json")
    (judgement, *_) = verdicts(scene, ONE)
    assert (judgement.verdict, judgement.part) == (Verdict.CHANGED, 0)
    assert judgement.detail == "keys.json differs from the hash in the index"


async def test_missing_key_is_no_change(scene: RecordingScene) -> None:
    scene.keys = RecordingKeys([OTHER_KEY])
    (judgement, *parts) = verdicts(scene)
    assert (judgement.verdict, judgement.part) == (Verdict.KEY_MISSING, 0)
    assert {one.verdict for one in parts} == {Verdict.INTACT}
    assert await listed(scene) == ()
    with pytest.raises(RecordingUnreadable) as refused:
        await played(scene)
    assert refused.value.reason is Unreadable.KEY_MISSING


# Only some recordings; a recording that is brought back


def test_only_the_named_recordings_are_compared(scene: RecordingScene) -> None:
    record(scene, b"other", number=2)
    (path_of(scene, TWO) / "part-0001.part").unlink()
    assert {one.verdict for one in verdicts(scene, ONE)} == {Verdict.INTACT}
    assert {one.recording for one in verdicts(scene, TWO)} == {TWO}
    (judgement,) = verdicts(scene, "f" * 32)
    assert (judgement.verdict, judgement.verdict.is_problem) == (Verdict.UNKNOWN, True)


def test_lines_of_one_recording_are_found_in_all_chains(scene: RecordingScene) -> None:
    record(scene, b"other", number=2)
    second = RecordingScene(scene.directory.root, clock=SystemClock())
    record(second, b"third", number=1)
    events = [line.event for line in find_lines(scene.directory.root, [ONE])]
    assert events.count("part_closed") == 3
    assert events.count("recording_opened") == 1
    assert [*find_lines(scene.directory.root, [])] == []


def test_hold_comes_before_the_files_that_it_keeps(tmp_path: Path) -> None:
    """A recording that retention has removed is brought back, and stays."""
    (tmp_path / "recordings").mkdir()
    scene = RecordingScene(tmp_path / "recordings", clock=SystemClock(), keep_s=86_400.0)
    scene.retention.apply()  # it has seen a right clock
    at = scene.clock.now() - 2 * 86_400.0
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, a_recording(started_at=at), at)
    part.append([screen_record(0, b"x"), END])
    part.close()
    scene.closer.recover(scene.directory.recordings())
    path, bucket = path_of(scene), tmp_path / "bucket"
    shutil.copytree(path, bucket)
    scene.retention.apply()
    assert not path.exists()
    set_hold(scene.directory.root, ONE, b"{}")
    shutil.copytree(bucket, path)
    scene.retention.apply()
    assert path.exists()
    assert {one.verdict for one in verdicts(scene)} == {Verdict.INTACT}
