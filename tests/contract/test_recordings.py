"""Recordings on a real disk: what is written is read back; all other data is rejected."""

import asyncio
import errno
import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.recordings.index_lines import RemovalReason, read_index
from gateway.domain.recordings.model import PartState, RecordingDetails, RecordingQuery
from gateway.domain.recordings.part_format import CHUNK_BYTES
from gateway.domain.recordings.records import (
    RecordKind,
    decode_records,
    json_record,
    key_record,
    screen_record,
)
from gateway.domain.recordings.verdicts import Judgement, Verdict, judge
from gateway.domain.recordings.view_messages import opened_fields
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings import (
    closed_part,
    file_recordings,
    open_part,
    part_closer,
    recording_directory,
    retention,
    stored_recordings,
)
from gateway.drivers.recordings.file_recordings import (
    FileRecordings,
    RecordingFiles,
    open_recording_part,
)
from gateway.drivers.recordings.found_recordings import found_recordings
from gateway.drivers.recordings.open_part import OpenPart
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    lift_hold,
    lock_part,
    part_files,
    set_hold,
)
from gateway.drivers.recordings.recording_index import index_lines
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.flow.recordings.recording_store import RecordingUnreadable, Unreadable
from gateway.flow.recordings.recording_telemetry import RecordingFailure, RewriteOutcome
from gateway.flow.recordings.recording_writer import RecordingFailed
from tests.support.clock import FakeClock
from tests.support.recordings import (
    KEY,
    OTHER_KEY,
    STARTED_AT,
    RecordingScene,
    a_recording,
)

END = json_record(9_000, RecordKind.END, {"end": "person", "detail": ""})
DAY_S = 86_400.0


@pytest.fixture
def scene(tmp_path: Path) -> RecordingScene:
    return RecordingScene(tmp_path, clock=SystemClock())


def ignore(_: str) -> None:
    pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads report through files too
            await asyncio.sleep(0.01)


async def record(
    recordings: FileRecordings, scene: RecordingScene, *payloads: bytes, number: int = 1
) -> None:
    """Record one part, and wait until it is closed."""
    closed = scene.telemetry.rewrites[RewriteOutcome.CLOSED]
    part = await recordings.open_part(a_recording(number), ignore)
    for i, payload in enumerate(payloads):
        await part.append([screen_record(i, payload)])
    part.close([END])
    await until(lambda: scene.telemetry.rewrites[RewriteOutcome.CLOSED] > closed)


def leave_open(scene: RecordingScene, *payloads: bytes, number: int = 1) -> Path:
    """Write a part as a process does that is killed then; return its file."""
    part = opened(scene, number)
    for i, payload in enumerate(payloads):
        part.append([screen_record(i, payload)])
    part.close()
    return part.file


def opened(scene: RecordingScene, number: int = 1, **changes: Any) -> OpenPart:
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    return open_recording_part(files, a_recording(number, **changes), scene.clock.now())


def verdicts(scene: RecordingScene, *, with_keys: bool = True) -> list[Judgement]:
    root = scene.directory.root
    found = found_recordings(scene.directory, scene.keys if with_keys else None)
    return [*judge(read_index(index_lines(root)), found)]


def only_verdict(scene: RecordingScene) -> Verdict:
    (judgement,) = verdicts(scene)
    return judgement.verdict


async def test_recording_is_read_back_by_chunk(scene: RecordingScene) -> None:
    payloads = [os.urandom(CHUNK_BYTES // 2) for _ in range(5)]
    async with scene.running() as recordings:
        await record(recordings, scene, *payloads)
    store = StoredRecordings(scene.directory, scene.keys)
    (info,) = (await store.list(RecordingQuery(subject="ann"), 10)).recordings
    assert (info.end, info.is_open, info.parts[0].state) == ("person", False, PartState.CLOSED)
    assert info.details == a_recording()
    reader = await store.open(info.details.id, with_keystrokes=False)
    (part,) = reader.parts
    chunks = [await reader.chunk(1, i) for i in range(len(part.chunks))]
    reader.close()
    assert len(chunks) > 1
    assert [len(one) for one in chunks] == [one.plain_bytes for one in part.chunks]
    records = [one for chunk in chunks for one in decode_records(chunk)]
    assert [one.payload for one in records if one.kind is RecordKind.SCREEN] == payloads
    assert (records[-1], part.duration_ms, part.marks) == (END, 9_000, (END,))
    assert only_verdict(scene) is Verdict.INTACT


async def test_resumed_session_is_one_recording_of_parts(scene: RecordingScene) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"first")
        await record(recordings, scene, b"second")
    store = StoredRecordings(scene.directory, scene.keys)
    info = await store.find(a_recording().id)
    assert info is not None
    assert [one.number for one in info.parts] == [1, 2]
    assert scene.screen(a_recording().id) == b"firstsecond"
    assert [one.verdict for one in verdicts(scene)] == [Verdict.INTACT] * 2


async def test_list_selects_by_person_server_and_time(scene: RecordingScene) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"x")
    store = StoredRecordings(scene.directory, scene.keys)
    for query, count in (
        (RecordingQuery(server="s-1", since=STARTED_AT), 1),
        (RecordingQuery(server="s-2"), 0),
        (RecordingQuery(subject="bob"), 0),
        (RecordingQuery(until=STARTED_AT), 0),
        (RecordingQuery(project="q"), 0),
    ):
        assert len((await store.list(query, 10)).recordings) == count


async def test_list_reads_only_the_days_of_the_query(scene: RecordingScene) -> None:
    midnight = STARTED_AT // DAY_S * DAY_S
    for number, at in enumerate((midnight - DAY_S, midnight - 1, midnight, midnight + DAY_S), 1):
        opened(scene, number, started_at=at).close()
    store = StoredRecordings(scene.directory, scene.keys)

    async def listed(**times: float) -> list[int]:
        page = await store.list(RecordingQuery(**times), 10)
        assert page.until is None
        return sorted(int(one.details.id, 16) for one in page.recordings)

    assert await listed() == [1, 2, 3, 4]
    assert await listed(since=midnight) == [3, 4]
    assert await listed(since=midnight - 1, until=midnight) == [2]
    assert await listed(until=midnight + 1) == [1, 2, 3]
    assert await listed(since=-1e12, until=1e12) == [1, 2, 3, 4]
    read = [one.name for one in scene.directory.begun(midnight, midnight + 1)]
    assert read == [a_recording(3).id]


async def test_list_is_read_in_pages(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page reads whole days; pages from `until` to `until` have each recording once."""
    midnight = STARTED_AT // DAY_S * DAY_S
    for number in range(1, 10):
        opened(scene, number, started_at=midnight - 40_000.0 * number).close()
    read = list[str]()

    def counted(path: Path) -> RecordingDetails:
        read.append(path.name)
        return recording_directory.read_details(path)

    monkeypatch.setattr(stored_recordings, "read_details", counted)
    store = StoredRecordings(scene.directory, scene.keys)
    page = await store.list(RecordingQuery(), 3)
    assert [int(one.details.id, 16) for one in page.recordings] == [1, 2, 3]
    assert (page.until, len(read)) == (midnight - 120_000.0, 4)
    listed, query = list[int](), RecordingQuery()
    for _ in range(9):
        page = await store.list(query, 2)
        listed += [int(one.details.id, 16) for one in page.recordings]
        if page.until is None:
            break
        query = RecordingQuery(until=page.until)
    assert listed == [*range(1, 10)]
    monkeypatch.setattr(stored_recordings, "_READ_MAX", 3)
    read.clear()
    page = await store.list(RecordingQuery(subject="bob"), 2)
    assert (page.recordings, page.until, len(read)) == ([], midnight - 160_000.0, 4)
    last = await store.list(RecordingQuery(until=midnight - 320_000.0), 1)
    assert ([int(one.details.id, 16) for one in last.recordings], last.until) == ([9], None)


async def test_marks_that_do_not_fit_the_index_are_counted(scene: RecordingScene) -> None:
    """The part stays readable, and its end is among its marks."""
    people = [{"subject": f"{i:0512}", "issuer": "corp", "since": 1.0} for i in range(50)]
    part = opened(scene)
    for number in range(400):
        watchers = json_record(1_000 * number, RecordKind.WATCHERS, people)
        part.append([watchers, screen_record(1_000 * number, b"x")])
    part.append([END])
    part.close()
    scene.closer.recover(scene.directory.recordings())
    reader = await StoredRecordings(scene.directory, scene.keys).open(
        a_recording().id, with_keystrokes=False
    )
    (times,) = reader.parts
    assert times.marks[-1].kind is RecordKind.END
    assert 0 < times.omitted_marks < 400
    assert len(times.marks) + times.omitted_marks == 401
    assert opened_fields(reader.info, reader.parts)["parts"][0]["omitted_marks"] > 0
    reader.close()
    kinds = [one.kind for one in scene.records(a_recording().id)]
    assert kinds.count(RecordKind.WATCHERS) == 400
    (judgement,) = verdicts(scene)
    assert judgement.verdict is Verdict.INTACT
    assert str(judgement).endswith(
        f"intact: the list of its marks leaves out {times.omitted_marks}, which its chunks have"
    )


async def test_keystrokes_need_their_own_key(scene: RecordingScene) -> None:
    part = opened(scene, has_keystrokes=True)
    part.append([key_record(5, ord("p"), is_down=True), screen_record(6, b"*")])
    part.append([END])
    part.close()
    scene.closer.recover(scene.directory.recordings())
    store = StoredRecordings(scene.directory, scene.keys)
    for with_keystrokes, keys in ((True, [key_record(5, ord("p"), is_down=True)]), (False, [])):
        reader = await store.open(a_recording().id, with_keystrokes=with_keystrokes)
        assert [*decode_records(await reader.keystrokes(1, 0))] == keys
        assert all(
            one.kind is not RecordKind.KEY for one in decode_records(await reader.chunk(1, 0))
        )
        assert reader.parts[0].keystroke_chunks == 1
        reader.close()


async def test_keystrokes_are_read_by_chunk(scene: RecordingScene) -> None:
    """No message to a player is longer than a chunk, however much a person has typed."""
    part = opened(scene, has_keystrokes=True)
    for minute in range(3):
        part.append([key_record(60_000 * minute + i, i, is_down=True) for i in range(500)])
    part.append([END])
    part.close()
    scene.closer.recover(scene.directory.recordings())
    reader = await StoredRecordings(scene.directory, scene.keys).open(
        a_recording().id, with_keystrokes=True
    )
    assert reader.parts[0].keystroke_chunks == 3
    chunks = [[*decode_records(await reader.keystrokes(1, index))] for index in range(3)]
    assert [(len(one), one[0].at_ms) for one in chunks] == [(500, 0), (500, 60_000), (500, 120_000)]
    with pytest.raises(IndexError):
        await reader.keystrokes(1, 3)
    reader.close()


async def test_keys_are_dropped_without_record_keys(scene: RecordingScene) -> None:
    part = opened(scene)
    part.append([key_record(5, ord("p"), is_down=True), screen_record(6, b"*")])
    part.close()
    assert [one.kind for one in scene.records(a_recording().id)] == [RecordKind.SCREEN]


async def test_files_are_private_and_encrypted(scene: RecordingScene) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"a secret on the screen" * 100)
    leave_open(scene, b"a secret on the screen" * 100, number=2)
    for file in scene.directory.root.rglob("*"):
        forbidden = stat.S_IRWXG | stat.S_IRWXO
        assert not file.stat().st_mode & forbidden
        assert file.is_dir() or b"a secret on the screen" not in file.read_bytes()


# Faults of the disk


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_failed_write_ends_the_recording_at_once(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    failed: list[str] = []
    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), failed.append)
        await part.append([screen_record(1, b"seen")])
        monkeypatch.setattr(open_part, "_write", fail_with(error))
        with pytest.raises(RecordingFailed, match=os.strerror(error)):
            await part.append([screen_record(2, b"not seen")])
        assert failed == [f"write: {os.strerror(error)}"]
        monkeypatch.undo()  # the disk works again, but this part has a hole
        with pytest.raises(RecordingFailed):
            await part.append([screen_record(3, b"not seen")])
        part.close([END])
        await until(lambda: scene.telemetry.rewrites.total() > 0)
    assert scene.telemetry.failures == {RecordingFailure.WRITE: 1}
    assert scene.screen(a_recording().id) == b"seen"
    assert only_verdict(scene) is Verdict.CUT_SHORT


async def test_torn_write_is_a_cut_and_not_a_change(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the queue behind it, here the end of the session, is not written after it."""
    is_entered, goes_on = threading.Event(), threading.Event()
    write = open_part._write

    def tear(fd: int, data: bytes) -> None:
        monkeypatch.setattr(open_part, "_write", write)  # the disk works again
        is_entered.set()
        goes_on.wait(10)
        write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), ignore)
        await part.append([screen_record(1, b"seen")])
        monkeypatch.setattr(open_part, "_write", tear)
        torn = asyncio.ensure_future(part.append([screen_record(2, b"not seen")]))
        await until(is_entered.is_set)
        later = asyncio.ensure_future(part.append([screen_record(3, b"queued")]))
        part.close([END])
        await asyncio.sleep(0)
        goes_on.set()
        outcomes = await asyncio.gather(torn, later, return_exceptions=True)
        await until(lambda: scene.telemetry.rewrites.total() > 0)
    assert [type(one) for one in outcomes] == [RecordingFailed] * 2
    assert scene.telemetry.rewrites == {RewriteOutcome.CLOSED: 1}
    assert scene.screen(a_recording().id) == b"seen"
    assert only_verdict(scene) is Verdict.CUT_SHORT


def test_close_does_not_free_the_file_of_a_hung_write(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_entered, goes_on = threading.Event(), threading.Event()
    fds: list[int] = []

    def hang(fd: int, _: bytes) -> None:
        fds.append(fd)
        is_entered.set()
        goes_on.wait(10)

    part = opened(scene)
    monkeypatch.setattr(open_part, "_write", hang)
    writer = threading.Thread(target=part.append, args=([screen_record(1, b"x")],))
    writer.start()
    assert is_entered.wait(10)
    part.close()
    try:
        assert os.fstat(fds[0]).st_ino == part.file.stat().st_ino
        assert lock_part(part.file) is None
    finally:
        goes_on.set()
        writer.join()
    lock = lock_part(part.file)
    assert lock is not None
    os.close(lock)
    with pytest.raises(OSError, match="the part is closed"):
        part.append([END])


def fail_with(error: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


async def test_full_disk_refuses_to_begin(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene.running() as recordings:
        monkeypatch.setattr(open_part, "_write", fail_with(errno.ENOSPC))
        with pytest.raises(RecordingFailed, match="No space left"):
            await recordings.open_part(a_recording(), ignore)
        monkeypatch.undo()
        await record(recordings, scene, b"later")
    assert scene.telemetry.failures == {RecordingFailure.START: 1}
    assert scene.screen(a_recording().id) == b"later"


@pytest.mark.parametrize("is_open", [False, True], ids=["while it opens", "once it is open"])
async def test_cancelled_open_leaves_no_part_behind(
    scene: RecordingScene,
    monkeypatch: pytest.MonkeyPatch,
    is_open: bool,  # noqa: FBT001
) -> None:
    """The session may end at any time, also between the end of the thread's work and its report."""
    is_entered, goes_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> OpenPart:
        if is_open:
            part = open_recording_part(*arguments)
        is_entered.set()
        goes_on.wait(10)
        return part if is_open else open_recording_part(*arguments)

    async with scene.running() as recordings:
        monkeypatch.setattr(file_recordings, "open_recording_part", slowly)
        opening = asyncio.ensure_future(recordings.open_part(a_recording(), ignore))
        await until(is_entered.is_set)
        if is_open:
            goes_on.set()
            time.sleep(0.05)  # noqa: ASYNC251 - the thread ends while the loop is busy
        opening.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: scene.telemetry.rewrites.total() > 0)
    assert scene.telemetry.rewrites == {RewriteOutcome.CLOSED: 1}
    path = scene.directory.find(a_recording().id)
    assert path is not None
    assert [one.is_closed for one in part_files(path)] == [True]


async def test_slow_disk_delays_but_loses_nothing(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = open_part._write

    def slowly(fd: int, data: bytes) -> None:
        time.sleep(0.1)
        write(fd, data)

    failed: list[str] = []
    async with scene.running() as recordings:
        parts = [await recordings.open_part(a_recording(i), failed.append) for i in range(1, 4)]
        monkeypatch.setattr(open_part, "_write", slowly)
        for i in range(5):
            await asyncio.gather(*(one.append([screen_record(i, b"%d" % i)]) for one in parts))
        monkeypatch.undo()
    assert failed == []
    assert {scene.screen(a_recording(i).id) for i in range(1, 4)} == {b"01234"}


async def test_disk_that_hangs_fails_within_a_second_and_a_half(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, failed = threading.Event(), list[str]()
    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), failed.append)
        monkeypatch.setattr(open_part, "_write", lambda *_: release.wait(30))
        try:
            with pytest.raises(RecordingFailed, match="stalled"):
                await part.append([screen_record(1, b"x")])
        finally:
            release.set()
    assert failed == ["stalled: the disk accepts no data"]


async def test_removed_file_is_found(scene: RecordingScene) -> None:
    failed: list[str] = []
    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), failed.append)
        await part.append([screen_record(1, b"x")])
        path = scene.directory.find(a_recording().id)
        assert path is not None
        shutil.rmtree(path)
        await until(lambda: bool(failed))
        with pytest.raises(RecordingFailed):
            await part.append([screen_record(2, b"y")])
    assert failed == ["removed: the file was removed or replaced"]
    assert only_verdict(scene) is Verdict.MISSING


async def test_failed_sync_fails_the_recording(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    async with scene.running() as recordings:
        part = await recordings.open_part(a_recording(), failed.append)
        monkeypatch.setattr(open_part, "sync", fail_with(errno.EIO))
        await part.append([screen_record(1, b"x")])
        assert recordings.lag_s > 0
        await until(lambda: bool(failed))
    assert failed == [f"sync: {os.strerror(errno.EIO)}"]


# A process that dies in each phase


async def test_killed_writer_loses_nothing(scene: RecordingScene) -> None:
    leave_open(scene, b"all", b" of it")
    assert only_verdict(scene) is Verdict.CUT_SHORT
    scene.closer.recover(scene.directory.recordings())
    assert scene.screen(a_recording().id) == b"all of it"
    (judgement,) = verdicts(scene)
    assert (judgement.verdict, judgement.part) == (Verdict.CUT_SHORT, 1)
    assert scene.telemetry.rewrites == {RewriteOutcome.RECOVERED: 1}
    info = await StoredRecordings(scene.directory, scene.keys).find(a_recording().id)
    assert info is not None
    assert info.parts[0].state is PartState.CUT


def test_torn_block_at_the_end_is_cut_short(scene: RecordingScene) -> None:
    file = leave_open(scene, b"whole", b"torn" * 100)
    with file.open("r+b") as opened_file:
        opened_file.truncate(file.stat().st_size - 7)
    assert only_verdict(scene) is Verdict.CUT_SHORT
    scene.closer.recover(scene.directory.recordings())
    assert scene.screen(a_recording().id) == b"whole"


@pytest.mark.parametrize("zeros", [3, 5_000])
def test_zeros_of_a_power_failure_are_cut_short(scene: RecordingScene, zeros: int) -> None:
    file = leave_open(scene, b"whole")
    with file.open("ab") as opened_file:
        opened_file.write(bytes(zeros))
    assert only_verdict(scene) is Verdict.CUT_SHORT
    scene.closer.recover(scene.directory.recordings())
    assert scene.screen(a_recording().id) == b"whole"


class Killed(BaseException):
    """Stands for kill -9: no handler of the code runs for it but `finally`."""


def kill(*_: object, **__: object) -> None:
    raise Killed


def release_files(root: Path) -> None:
    """Close what a killed process leaves open, its locks included."""
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = fd.readlink()
            if target.is_relative_to(root) and target.name.startswith("part-"):
                os.close(int(fd.name))


@pytest.mark.parametrize("moment", ["before the lock", "at the lock", "while another looks"])
def test_recovery_takes_no_part_that_is_being_opened(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A recovery that finds the new file before its lock removes it: another file is opened."""
    flock, threads = fcntl.flock, list[threading.Thread]()
    taken = list[Path]()

    def recover() -> None:
        scene.closer.recover(scene.directory.recordings())

    def look(file: Path) -> None:
        lock = lock_part(file)
        assert lock is not None
        threads.append(threading.Timer(0.1, os.close, [lock]))
        threads[0].start()

    def raced(fd: int, operation: int) -> None:
        if not taken:
            taken.append(Path(f"/proc/self/fd/{fd}").readlink())
            if moment == "before the lock":
                recover()
            elif moment == "while another looks":
                look(taken[0])
        flock(fd, operation)
        if moment == "at the lock" and len(taken) == 1:
            taken.append(taken[0])
            recover()

    with monkeypatch.context() as patched:
        patched.setattr(open_part.fcntl, "flock", raced)
        part = opened(scene)
    part.check()
    part.append([screen_record(0, b"seen")])
    recover()
    part.check()
    part.append([END])
    part.close()
    for one in threads:
        one.join()
    recover()
    assert scene.screen(a_recording().id) == b"seen"
    assert [one.verdict for one in verdicts(scene)] == [Verdict.INTACT]


@pytest.mark.parametrize("phase", ["create", "header", "index"])
def test_death_while_a_part_is_opened_is_harmless(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    match phase:
        case "create":
            monkeypatch.setattr(scene.directory, "create", kill)
        case "header":
            monkeypatch.setattr(open_part, "_write", kill)
        case _:
            monkeypatch.setattr(open_part, "sync_directory", kill)
    with pytest.raises(Killed):
        opened(scene)
    monkeypatch.undo()
    release_files(scene.directory.root)
    assert not any(one.verdict.is_problem for one in verdicts(scene))
    leave_open(scene, b"next")
    assert not any(one.verdict.is_problem for one in verdicts(scene))
    scene.closer.recover(scene.directory.recordings())
    assert scene.screen(a_recording().id) == b"next"
    assert not any(one.verdict.is_problem for one in verdicts(scene))


@pytest.mark.parametrize(
    ("phase", "target"),
    [
        ("writing", (closed_part, "TimeIndex")),
        ("synced", (closed_part, "sync")),
        ("indexed", (Path, "rename")),
        ("renamed", (Path, "unlink")),
        ("unlinked", (part_closer, "sync_directory")),
    ],
)
def test_death_while_a_part_is_closed_loses_nothing(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch, phase: str, target: tuple[Any, str]
) -> None:
    leave_open(scene, b"all", b" of it")
    with monkeypatch.context() as patched:
        patched.setattr(*target, kill)
        if phase in ("writing", "synced"):
            # What a killed process cannot do either: remove the file that it has begun.
            patched.setattr(Path, "unlink", kill)
        with pytest.raises(Killed):
            scene.closer.recover(scene.directory.recordings())
    assert only_verdict(scene) is Verdict.CUT_SHORT
    assert scene.screen(a_recording().id) == b"all of it"
    scene.closer.recover(scene.directory.recordings())
    assert scene.screen(a_recording().id) == b"all of it"
    assert only_verdict(scene) is Verdict.CUT_SHORT
    path = scene.directory.find(a_recording().id)
    assert path is not None
    assert sorted(one.name for one in path.iterdir()) == [
        "keys.json",
        "part-0001.part",
        "recording.json",
    ]


@pytest.mark.parametrize("phase", ["indexed", "renamed", "deleting"])
def test_death_during_retention_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    scene = RecordingScene(tmp_path, clock=SystemClock(), keep_s=DAY_S)
    expired(scene)
    target, name = {
        "indexed": (retention, "mark_removed"),
        "renamed": (retention, "delete_removed"),
        "deleting": (Path, "rmdir"),
    }[phase]
    with monkeypatch.context() as patched:
        patched.setattr(target, name, kill)
        with pytest.raises(Killed):
            scene.retention.apply()
    assert not any(one.verdict.is_problem for one in verdicts(scene))
    scene.retention.apply()
    assert not any(one.verdict.is_problem for one in verdicts(scene))
    assert scene.directory.find(a_recording().id) is None
    assert not [*scene.directory.root.glob("*/*.removed")]


def expired(scene: RecordingScene, number: int = 1) -> None:
    """Record a session that ended two days ago."""
    scene.retention.apply()  # it has seen a right clock
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    began_at = scene.clock.now() - 2 * DAY_S - number
    part = open_recording_part(files, a_recording(number, started_at=began_at), began_at)
    part.append([screen_record(1, os.urandom(2_000)), END])
    part.close()
    scene.closer.recover(scene.directory.recordings())


# Retention


async def test_retention_by_age_is_recorded(tmp_path: Path) -> None:
    scene = RecordingScene(tmp_path, clock=SystemClock(), keep_s=DAY_S)
    expired(scene)
    leave_open(scene, b"young", number=2)
    usage = scene.retention.apply()
    assert scene.telemetry.removals == {RemovalReason.KEEP_DAYS: 1}
    assert {one.verdict for one in verdicts(scene)} == {Verdict.REMOVED, Verdict.CUT_SHORT}
    assert usage.total > 0
    with pytest.raises(RecordingUnreadable) as found:
        await StoredRecordings(scene.directory, scene.keys).open(
            a_recording().id, with_keystrokes=False
        )
    assert found.value.reason is Unreadable.GONE


def test_retention_by_size_removes_the_oldest(tmp_path: Path) -> None:
    scene = RecordingScene(tmp_path, clock=SystemClock(), bytes_max=6_000)
    for number in (1, 2, 3):
        expired(scene, number)
    scene.retention.apply()
    assert scene.telemetry.removals == {RemovalReason.BYTES_MAX: 1}
    assert scene.directory.find(a_recording(3).id) is None  # it ended first
    assert scene.directory.find(a_recording(1).id) is not None


def test_holds_above_the_size_remove_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`bytes_max` counts only what retention may remove; what is on hold is reported."""
    scene = RecordingScene(tmp_path, clock=SystemClock(), bytes_max=6_000)
    for number in range(1, 6):
        expired(scene, number)
        if number > 2:
            set_hold(tmp_path, a_recording(number).id, b"")
    usage = scene.retention.apply()
    assert scene.telemetry.removals == {}
    assert 6_000 < usage.on_hold < usage.total
    found = [one.__dict__ for one in caplog.records if one.msg == "recording_holds_large"]
    assert [(one["on_hold_bytes"], one["bytes_max"]) for one in found] == [(usage.on_hold, 6_000)]
    lift_hold(tmp_path, a_recording(4).id)
    usage = scene.retention.apply()
    assert scene.telemetry.removals == {RemovalReason.BYTES_MAX: 1}
    assert scene.directory.find(a_recording(4).id) is None
    assert usage.on_hold < 6_000
    assert len(found) == 1


async def test_hold_keeps_a_recording(tmp_path: Path) -> None:
    scene = RecordingScene(tmp_path, clock=SystemClock(), keep_s=DAY_S)
    expired(scene)
    path = scene.directory.find(a_recording().id)
    assert path is not None
    set_hold(scene.directory.root, path.name, b"{}")
    scene.retention.apply()
    info = await StoredRecordings(scene.directory, scene.keys).find(a_recording().id)
    assert info is not None
    assert info.on_hold
    lift_hold(scene.directory.root, path.name)
    scene.retention.apply()
    assert scene.directory.find(a_recording().id) is None


@pytest.mark.parametrize("change", ["hold", "part in use"])
def test_retention_looks_again_before_it_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The pass reads all recordings before it removes the first."""
    scene = RecordingScene(tmp_path, clock=SystemClock(), keep_s=DAY_S)
    expired(scene)
    read, locks = retention._stored, list[OpenPart]()

    def changed_later(directory: RecordingDirectory) -> Iterator[Any]:
        yield from read(directory)
        if change == "hold":
            set_hold(directory.root, a_recording().id, b"{}")
        else:
            locks.append(opened(scene, started_at=scene.clock.now() - 2 * DAY_S - 1))

    monkeypatch.setattr(retention, "_stored", changed_later)
    scene.retention.apply()
    assert scene.telemetry.removals == {}
    assert scene.directory.find(a_recording().id) is not None
    assert not any(one.verdict is Verdict.REMOVED for one in verdicts(scene))
    for one in locks:
        one.close()


@pytest.mark.parametrize("failing", ["delete", "rename", "read"])
def test_recording_that_cannot_be_removed_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A network file system keeps a file that another host has open, as .nfsXXXX."""
    scene = RecordingScene(tmp_path, clock=SystemClock(), keep_s=DAY_S)
    expired(scene, 3)
    bad = a_recording(3).id
    target, name = {
        "delete": (recording_directory, "_delete"),
        "rename": (retention, "mark_removed"),
        "read": (retention, "_read_stored"),
    }[failing]
    call = getattr(target, name)

    def fail(path: Path) -> Any:
        if path.name.startswith(bad):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        return call(path)

    with monkeypatch.context() as patched:
        patched.setattr(target, name, fail)
        scene.retention.apply()
        expired(scene, 1)  # it ended later
        scene.retention.apply()
        left = [one.name for one in scene.directory.root.glob("[0-9]*/*")]
        assert [one.partition(".")[0] for one in left] == [bad]
        assert scene.telemetry.removals.total() == (2 if failing == "delete" else 1)
    scene.retention.apply()
    assert not [*scene.directory.root.glob("[0-9]*/*")]
    assert not any(one.verdict.is_problem for one in verdicts(scene))


def test_directory_that_cannot_be_read_stops_no_recovery(
    scene: RecordingScene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 3):
        leave_open(scene, b"x", number=number)
    read = part_closer.open_part_files

    def fail(path: Path) -> Any:
        if path.name == a_recording(2).id:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(part_closer, "open_part_files", fail)
    for _ in range(2):
        scene.closer.recover(scene.directory.recordings())
    assert scene.telemetry.rewrites == {RewriteOutcome.RECOVERED: 2}
    assert [one.msg for one in caplog.records].count("recording_inaccessible") == 1


async def test_retention_keeps_what_is_being_recorded(tmp_path: Path) -> None:
    scene = RecordingScene(tmp_path, clock=SystemClock(), keep_s=DAY_S)
    part = opened(scene)
    old = scene.clock.now() - 3 * DAY_S
    os.utime(part.file, (old, old))
    scene.retention.apply()
    assert scene.directory.find(a_recording().id) is not None
    assert only_verdict(scene) is Verdict.IN_PROGRESS
    with pytest.raises(RecordingUnreadable) as found:
        await StoredRecordings(scene.directory, scene.keys).open(
            a_recording().id, with_keystrokes=False
        )
    assert found.value.reason is Unreadable.IN_PROGRESS
    part.close()


def test_clocks_of_hosts_may_differ(scene: RecordingScene) -> None:
    """The host that closes a dead host's part may have the slower clock."""
    leave_open(scene, b"x")
    scene.clock = scene.closer._clock = FakeClock(scene.clock.now() - 120.0)
    scene.closer.recover(scene.directory.recordings())
    assert only_verdict(scene) is Verdict.CUT_SHORT


# Tampering


async def test_changed_byte_of_a_closed_part_is_found(scene: RecordingScene) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"x" * 5_000)
    file = only_file(scene, "*.part")
    content = bytearray(file.read_bytes())
    for offset in range(0, len(content), max(1, len(content) // 50)):
        changed = bytearray(content)
        changed[offset] ^= 1
        file.write_bytes(changed)
        assert only_verdict(scene) is Verdict.CHANGED
    file.write_bytes(content)
    assert only_verdict(scene) is Verdict.INTACT


def only_file(scene: RecordingScene, pattern: str) -> Path:
    (file,) = scene.directory.root.rglob(pattern)
    return file


def test_changed_byte_of_an_open_part_is_found(scene: RecordingScene) -> None:
    file = leave_open(scene, b"x" * 500, b"y" * 500, b"z" * 500)
    content = file.read_bytes()
    begin = content.index(b"\n") + 1
    for offset in (10, begin + 5, begin + 300, len(content) - 700, len(content) - 1):
        changed = bytearray(content)
        changed[offset] ^= 1
        file.write_bytes(changed)
        assert only_verdict(scene) is Verdict.CHANGED
    scene.closer.recover(scene.directory.recordings())
    assert scene.telemetry.rewrites == {RewriteOutcome.FAILED: 1}
    assert file.exists()


async def test_part_that_cannot_be_closed_hides_no_other(scene: RecordingScene) -> None:
    stored = StoredRecordings(scene.directory, scene.keys)
    changed = leave_open(scene, b"first")
    raw = bytearray(changed.read_bytes())
    raw[-1] ^= 1
    changed.write_bytes(raw + b"x")
    scene.closer.recover(scene.directory.recordings())
    info = await stored.find(a_recording().id)
    assert info is not None
    assert (info.state, info.ended_at) == ("not_closed", None)
    with pytest.raises(RecordingUnreadable, match="could not be closed yet") as alone:
        await stored.open(a_recording().id, with_keystrokes=False)
    assert alone.value.reason is Unreadable.UNAVAILABLE
    part = opened(scene)
    part.append([screen_record(1, b"second"), END])
    with pytest.raises(RecordingUnreadable) as recorded:
        await stored.open(a_recording().id, with_keystrokes=False)
    assert recorded.value.reason is Unreadable.IN_PROGRESS
    info = await stored.find(a_recording().id)
    assert (info is not None, info and info.state) == (True, "in_progress")
    part.close()
    scene.closer.recover(scene.directory.recordings())
    reader = await stored.open(a_recording().id, with_keystrokes=False)
    assert reader.info.problems == ("part 1: it could not be closed yet, and cannot be played",)
    found = [*decode_records(await reader.chunk(2, 0))]
    assert found[0].payload == b"second"
    with pytest.raises(IndexError):
        await reader.chunk(1, 0)
    reader.close()


async def test_swapped_and_removed_parts_are_found(scene: RecordingScene) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"first")
        await record(recordings, scene, b"second")
    path = scene.directory.find(a_recording().id)
    assert path is not None
    one, two, other = path / "part-0001.part", path / "part-0002.part", path / "swap"
    one.rename(other)
    two.rename(one)
    other.rename(two)
    assert [found.verdict for found in verdicts(scene)] == [Verdict.CHANGED] * 2
    with pytest.raises(RecordingUnreadable) as found:
        await StoredRecordings(scene.directory, scene.keys).open(
            a_recording().id, with_keystrokes=False
        )
    assert found.value.reason is Unreadable.CHANGED
    two.unlink()
    assert {found.verdict for found in verdicts(scene)} == {Verdict.CHANGED, Verdict.MISSING}
    shutil.rmtree(path)
    (judgement,) = verdicts(scene)
    assert (judgement.verdict, judgement.part) == (Verdict.MISSING, 0)


async def test_changed_details_and_foreign_recordings_are_found(scene: RecordingScene) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"x")
    path = scene.directory.find(a_recording().id)
    assert path is not None
    details = path / "recording.json"
    details.write_bytes(details.read_bytes().replace(b'"ann"', b'"bob"'))
    assert (verdicts(scene)[0].verdict, verdicts(scene)[0].part) == (Verdict.CHANGED, 0)
    shutil.copytree(path, path.with_name(a_recording(2).id))
    unknown = [one.recording for one in verdicts(scene) if one.verdict is Verdict.UNKNOWN]
    assert unknown == [a_recording(2).id]


async def test_copy_of_a_directory_in_use_verifies_and_is_restored(
    tmp_path: Path, scene: RecordingScene
) -> None:
    """A backup copies the index last; a part that ended meanwhile is reported without its end."""
    root, copy = scene.directory.root, tmp_path / "copy"
    async with scene.running() as recordings:
        await record(recordings, scene, b"closed")
        part = await recordings.open_part(a_recording(2), ignore)
        await part.append([screen_record(0, b"in progress")])
        shutil.copytree(root, copy, ignore=lambda _, names: {"index", "copy"} & {*names})
        part.close([END])
        await until(lambda: scene.telemetry.rewrites[RewriteOutcome.CLOSED] == 2)
        await record(recordings, scene, b"begun during the copy", number=3)
        shutil.copytree(root / "index", copy / "index")
    restored = RecordingScene(copy, clock=SystemClock())
    found = {one.recording: one.verdict for one in verdicts(restored)}
    closed, open_then, begun = (a_recording(i).id for i in (1, 2, 3))
    assert found == {
        closed: Verdict.INTACT,
        open_then: Verdict.CHANGED,
        begun: Verdict.MISSING,
    }
    restored.closer.recover(restored.directory.recordings())
    assert restored.screen(open_then) == b"in progress"
    assert {one.recording: one.verdict for one in verdicts(restored)} == found


# Keys


async def test_missing_key_is_reported_and_rotation_works(
    tmp_path: Path, scene: RecordingScene, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene.running() as recordings:
        await record(recordings, scene, b"x")
    leave_open(scene, b"y", number=2)
    wrong = RecordingScene(tmp_path, clock=SystemClock(), keys=[OTHER_KEY])
    wrong.closer.recover(wrong.directory.recordings())
    assert caplog.messages.count("recording_key_missing") == 1
    with pytest.raises(RecordingUnreadable) as found:
        await StoredRecordings(wrong.directory, wrong.keys).open(
            a_recording().id, with_keystrokes=False
        )
    assert found.value.reason is Unreadable.KEY_MISSING
    rotated = RecordingScene(tmp_path, clock=SystemClock(), keys=[OTHER_KEY, KEY])
    rotated.closer.recover(rotated.directory.recordings())
    assert rotated.screen(a_recording(2).id) == b"y"


def test_resume_without_the_key_cannot_begin(tmp_path: Path, scene: RecordingScene) -> None:
    leave_open(scene, b"x")
    wrong = RecordingScene(tmp_path, clock=SystemClock(), keys=[OTHER_KEY])
    with pytest.raises(RecordingKeyMissing):
        opened(wrong)


def test_wrapped_keys_are_bound_to_their_recording() -> None:
    keys = RecordingKeys([KEY])
    data_keys, wrapped = keys.create("a" * 32, with_keystrokes=True)
    assert keys.unwrap("a" * 32, wrapped) == data_keys
    assert KEY.reveal() not in repr(data_keys)
    with pytest.raises(RecordingKeyMissing):
        keys.unwrap("b" * 32, wrapped)
    swapped = wrapped.replace(b'"screen"', b'"x"').replace(b'"keystrokes"', b'"screen"')
    with pytest.raises(RecordingKeyMissing):
        keys.unwrap("a" * 32, swapped.replace(b'"x"', b'"keystrokes"'))
