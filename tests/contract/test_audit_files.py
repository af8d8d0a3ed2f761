"""The audit log on a real disk: it has all acknowledged records and no rejected one."""

import asyncio
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from gateway.domain.audit.chain import (
    CHECKPOINT,
    SEGMENT_OPENED,
    Head,
    Signer,
    checkpoint_body,
    empty_head,
    encode_body,
    link_lines,
    parse_line,
    segment_removed_body,
)
from gateway.domain.audit.record import AuditRecord
from gateway.domain.audit.report import Problem
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit import file_store, group_commit
from gateway.drivers.audit.directory import chain_directories
from gateway.drivers.audit.file_store import ChainFiles, FileStore
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from tests.support.audit import SigningKey, all_verified, lines_in, verified
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry
from tests.support.waiting import until

KEY = SigningKey()
DAY_S = 86_400.0


class Subject:
    def __init__(self, directory: Path, clock: FakeClock, **options: Any) -> None:
        self.directory = directory
        self.telemetry = RecordingTelemetry()
        self.followed: list[bytes] = []
        self.files = ChainFiles(
            directory,
            clock=clock,
            signer=options.get("signer", KEY.signer),
            segment_bytes_max=options.get("segment_bytes_max", 1_000_000),
            keep_s=options.get("keep_s", 0.0),
        )
        self.audit_log = GroupCommitAuditLog(
            FileStore(self.files),
            clock=clock,
            telemetry=self.telemetry,
            checkpoint_s=60.0,
            follow=[self.followed.extend],
        )
        self._clock = clock

    async def record(self, name: str, event: str = "console_link_issued") -> None:
        await self.audit_log.record(AuditRecord(event=event, at=self._clock.now(), subject=name))

    async def outcomes(self, *names: str) -> list[BaseException | None]:
        return await asyncio.gather(*map(self.record, names), return_exceptions=True)

    @property
    def chain_directory(self) -> Path:
        return self.files.chain_directory

    def subjects(self) -> list[str]:
        lines = map(parse_line, lines_in(self.chain_directory))
        return [line.fields["subject"] for line in lines if line.fields.get("subject")]

    def events(self) -> list[str]:
        return [parse_line(line).event for line in lines_in(self.chain_directory)]


@asynccontextmanager
async def opened(directory: Path, clock: FakeClock, **options: Any) -> AsyncIterator[Subject]:
    subject = Subject(directory, clock, **options)
    await subject.audit_log.open()
    try:
        yield subject
    finally:
        await subject.audit_log.close()


@pytest.fixture
async def subject(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Subject]:
    async with opened(tmp_path / "audit", clock) as made:
        yield made


def segments_of(chain_directory: Path) -> list[Path]:
    return sorted(chain_directory.glob("segment-*"))


def failing(times: int, error: int, first: Callable[..., Any] | None = None) -> Any:
    """Return a system call that fails this many times, and then calls `first`."""
    left = [times]

    def call(*arguments: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            raise OSError(error, os.strerror(error))
        return None if first is None else first(*arguments)

    return call


def break_writes(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the write succeed and the sync fail."""
    left, real = [times], file_store.write_durably

    def call(fd: int, data: bytes) -> None:
        real(fd, data)
        if left[0] > 0:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(file_store, "write_durably", call)


async def test_record_is_on_disk_when_it_returns(subject: Subject) -> None:
    for name in ("ann", "bob"):
        await subject.record(name)
        assert subject.subjects()[-1] == name
    assert subject.telemetry.audit_events == {"audit_chain_opened": 1, "console_link_issued": 2}
    assert len(subject.telemetry.audit_commits) == 2
    assert (subject.audit_log.durable, subject.audit_log.lag_s) == (True, 0.0)
    assert verified(subject.chain_directory).intact


async def test_line_is_synced_before_record_returns(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    real = file_store.write_durably

    def look(fd: int, data: bytes) -> None:
        real(fd, data)
        seen.append(lines_in(subject.chain_directory)[-1])

    monkeypatch.setattr(file_store, "write_durably", look)
    await subject.record("ann")
    assert b'"ann"' in seen[-1]


async def test_files_are_private(subject: Subject) -> None:
    await subject.record("ann")
    assert stat.S_IMODE(subject.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(subject.chain_directory.stat().st_mode) == 0o700
    for file in subject.chain_directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_simultaneous_records_share_a_commit(subject: Subject) -> None:
    await asyncio.gather(*(subject.record(f"p{i}") for i in range(200)))
    assert len(subject.telemetry.audit_commits) == 1
    assert subject.subjects() == [f"p{i}" for i in range(200)]


async def test_next_batch_gathers_during_commit(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    go_on, in_progress = threading.Event(), threading.Event()
    real = file_store.write_durably

    def slow(fd: int, data: bytes) -> None:
        in_progress.set()
        go_on.wait(10)
        real(fd, data)

    monkeypatch.setattr(file_store, "write_durably", slow)
    first = asyncio.create_task(subject.record("first"))
    await asyncio.to_thread(in_progress.wait, 10)
    rest = [asyncio.create_task(subject.record(f"p{i}")) for i in range(50)]
    await asyncio.sleep(0.05)
    await clock.advance(2.0)
    assert subject.audit_log.lag_s == 2.0
    assert not first.done()
    go_on.set()
    await asyncio.gather(first, *rest)
    assert len(subject.telemetry.audit_commits) == 2


async def test_concurrent_callers_share_commits(subject: Subject) -> None:
    async def keep_recording(name: str) -> None:
        for i in range(60):
            await subject.record(f"{name} {i}")
            await asyncio.sleep(0)

    await asyncio.gather(*(keep_recording(f"p{i}") for i in range(10)))
    assert len(subject.telemetry.audit_commits) < 90
    assert len(subject.subjects()) == 600


async def test_single_caller_does_not_wait_for_others(subject: Subject) -> None:
    """A record is committed at once if no commit is in progress, also after larger batches."""
    await subject.outcomes(*(f"p{i}" for i in range(8)))
    for i in range(20):
        alone = asyncio.create_task(subject.record(f"alone {i}"))
        for _ in range(4):  # no timer runs
            await asyncio.sleep(0)
        assert subject.audit_log._committing is not None
        await alone


async def test_event_loop_is_never_blocked(tmp_path: Path, clock: FakeClock) -> None:
    with blockbuster_ctx():
        async with opened(tmp_path, clock, segment_bytes_max=3_000, keep_s=DAY_S) as subject:
            running = asyncio.create_task(subject.audit_log.run())
            for _ in range(5):
                await asyncio.gather(*(subject.record(f"p{i}") for i in range(5)))
                await clock.advance(DAY_S)
            running.cancel()
            await asyncio.wait([running])
    assert subject.telemetry.audit_failures == 0


async def test_cancelled_caller_keeps_its_record(subject: Subject) -> None:
    removed = asyncio.create_task(subject.record("gone"))
    stored = asyncio.create_task(subject.record("kept"))
    await asyncio.sleep(0)
    removed.cancel()
    await stored
    assert subject.subjects() == ["gone", "kept"]


async def test_restart_continues_the_chain(tmp_path: Path, clock: FakeClock) -> None:
    for name in ("ann", "bob", "cid"):
        async with opened(tmp_path, clock) as subject:
            await subject.record(name)
    assert subject.subjects() == ["ann", "bob", "cid"]
    (report,) = all_verified(tmp_path, KEY.verifiers)
    assert report.intact
    assert report.unsigned_lines == 0
    assert subject.events().count("audit_chain_opened") == 3
    assert subject.events()[-1] == CHECKPOINT


async def test_partial_last_line_is_removed_and_recorded(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as subject:
        await subject.record("ann")
    (file,) = segments_of(subject.chain_directory)
    partial = b'{"chain":"torn in the mid'
    with file.open("ab") as segment:
        segment.write(partial)
    report = verified(subject.chain_directory)
    assert report.finding is not None
    assert report.finding.problem is Problem.TRUNCATED
    async with opened(tmp_path, clock) as subject:
        await subject.record("bob")
    assert verified(subject.chain_directory, KEY.verifiers).intact
    assert subject.subjects() == ["ann", "bob"]
    found = [
        line
        for line in map(parse_line, lines_in(subject.chain_directory))
        if line.event == "audit_chain_opened"
    ]
    assert f"removed {len(partial)} bytes" in found[1].fields["detail"]
    assert partial.decode() in found[1].fields["detail"]


@pytest.mark.parametrize("stored", [0, 30])
async def test_interrupted_segment_start_is_repeated(
    tmp_path: Path, clock: FakeClock, stored: int
) -> None:
    async with opened(tmp_path, clock, segment_bytes_max=500) as subject:
        await subject.record("ann")
        last = segments_of(subject.chain_directory)[-1]
        begun = last.with_name(f"segment-{int(last.stem[-8:]) + 1:08}.new")
        begun.write_bytes(lines_in(subject.chain_directory)[0][:stored])
    async with opened(tmp_path, clock, segment_bytes_max=500) as subject:
        await subject.record("bob")
    assert verified(subject.chain_directory, KEY.verifiers).intact
    assert subject.subjects() == ["ann", "bob"]
    assert not begun.exists()


def forged(chain_directory: Path, *, key: Signer | None) -> None:
    """Rewrite the whole chain with another person in it, without its key."""
    (file,) = segments_of(chain_directory)
    head, made = empty_head(parse_line(lines_in(chain_directory)[0]).chain), []
    for line in map(parse_line, lines_in(chain_directory)):
        if line.event == CHECKPOINT:
            text = checkpoint_body(head, line.at, key)
        else:
            own = {k: v for k, v in line.fields.items() if k not in {"chain", "seq", "prev"}}
            text = encode_body(own).replace(b"mallory", b"somebody")
        lines, head = link_lines(head, [text])
        made += lines
    file.write_bytes(b"".join(made))


@pytest.mark.parametrize("key", [None, SigningKey().signer, Signer(KEY.signer.key_id, bytes)])
async def test_rewritten_chain_is_not_continued(
    tmp_path: Path, clock: FakeClock, key: Signer | None
) -> None:
    async with opened(tmp_path, clock) as subject:
        await subject.record("mallory")
    forged(subject.chain_directory, key=key)
    before = lines_in(subject.chain_directory)
    for name in ("ann", "bob"):
        async with opened(tmp_path, clock) as other:
            await other.record(name)
    assert lines_in(subject.chain_directory) == before
    assert other.subjects() == ["ann", "bob"]  # one new chain, continued by both
    assert not verified(subject.chain_directory, KEY.verifiers).intact
    assert verified(other.chain_directory, KEY.verifiers).intact


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:-2], lines[-1]],
        lambda lines: [*lines[:-2], lines[-2].replace(b"ann", b"bob"), lines[-1]],
        lambda lines: [*lines[:-1], b"\0" * len(lines[-1][1:]) + b"\n"],
        lambda lines: [*lines[:-2], b"\0" * len(lines[-2]) + lines[-1]],
    ],
)
async def test_chain_with_broken_end_is_not_continued(
    tmp_path: Path,
    clock: FakeClock,
    damage: Callable[[list[bytes]], list[bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    subject = Subject(tmp_path, clock)
    await subject.audit_log.open()
    for name in ("ann", "ann", "cid"):
        await subject.record(name)
    subject.files.close()  # as after SIGKILL
    (file,) = segments_of(subject.chain_directory)
    file.write_bytes(b"".join(damage(lines_in(subject.chain_directory))))
    before = file.read_bytes()
    async with opened(tmp_path, clock) as other:
        await other.record("bob")
    assert other.chain_directory != subject.chain_directory
    assert file.read_bytes() == before
    assert "audit_chain_unreadable" in caplog.messages


async def test_restart_syncs_lines_of_killed_process(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, clock) as subject:
        await subject.record("ann")
    synced: list[list[bytes]] = []
    monkeypatch.setattr(
        file_store, "sync", lambda _: synced.append(lines_in(subject.chain_directory))
    )
    before = lines_in(subject.chain_directory)
    async with opened(tmp_path, clock):
        assert synced[0] == before


async def test_restart_continues_far_from_last_checkpoint(tmp_path: Path, clock: FakeClock) -> None:
    subject = Subject(tmp_path, clock)
    await subject.audit_log.open()
    for i in range(3_000):  # more than the first step of the search reads
        await subject.audit_log.record(AuditRecord(event="refused", at=1.0, subject=f"p{i}"))
    subject.files.close()  # as after SIGKILL
    async with opened(tmp_path, clock) as other:
        await other.record("bob")
    assert other.chain_directory == subject.chain_directory
    assert verified(other.chain_directory, KEY.verifiers).intact


@pytest.mark.parametrize("keys", [(None, KEY), (KEY, None), (KEY, SigningKey())])
async def test_new_key_begins_new_chain(
    tmp_path: Path,
    clock: FakeClock,
    keys: tuple[SigningKey | None, SigningKey | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    signers = [None if key is None else key.signer for key in keys]
    for signer in (signers[0], signers[1], signers[1]):
        async with opened(tmp_path, clock, signer=signer) as subject:
            await subject.record("ann")
    assert subject.chain_directory.name == "chain-2"
    assert subject.subjects() == ["ann", "ann"]
    assert "audit_chain_key_mismatch" in caplog.messages
    assert "audit_chain_unreadable" not in caplog.messages
    for chain_directory, key in zip(chain_directories(tmp_path), keys, strict=True):
        assert verified(chain_directory, None if key is None else key.verifiers).intact


async def test_chain_with_modified_end_is_left_unchanged(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, clock) as subject:
        await subject.record("ann")
    (file,) = segments_of(subject.chain_directory)
    before = file.read_bytes() + b"what is this?\n"
    file.write_bytes(before)
    async with opened(tmp_path, clock) as other:
        await other.record("bob")
    assert other.chain_directory != subject.chain_directory
    assert file.read_bytes() == before
    assert "audit_chain_unreadable" in caplog.messages
    assert sorted(report.intact for report in all_verified(tmp_path)) == [False, True]


async def test_processes_never_share_a_chain(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock) as one, opened(tmp_path, clock) as two:
        await asyncio.gather(one.record("ann"), two.record("bob"))
        assert [one.chain_directory.name, two.chain_directory.name] == ["chain-1", "chain-2"]
    async with opened(tmp_path, clock) as three:
        assert three.chain_directory == one.chain_directory
    reports = all_verified(tmp_path, KEY.verifiers)
    assert all(report.intact for report in reports)
    assert len({report.head.chain for report in reports if report.head is not None}) == 2


async def test_full_disk_rejects_the_whole_batch(subject: Subject) -> None:
    await subject.record("before")
    (file,) = segments_of(subject.chain_directory)
    size = file.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 700, hard))  # a part of the batch fits
    try:
        for _ in range(2):
            outcomes = await subject.outcomes("x", "y", "z")
            assert [type(one) for one in outcomes] == [AuditLogUnavailable] * 3
            assert file.stat().st_size == size
            assert not subject.audit_log.durable
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await subject.record("after")
    assert subject.audit_log.durable
    assert subject.subjects() == ["before", "after"]
    assert subject.telemetry.audit_failures == 2
    assert segments_of(subject.chain_directory) == [file]
    assert verified(subject.chain_directory).intact


async def test_failed_sync_begins_a_new_segment(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subject.record("before")
    break_writes(monkeypatch, 1)
    (outcome,) = await subject.outcomes("refused")
    assert isinstance(outcome, AuditLogUnavailable)
    assert "refused" not in subject.subjects()
    await subject.record("after")
    assert subject.subjects() == ["before", "after"]
    first, second = segments_of(subject.chain_directory)
    assert parse_line(second.read_bytes().splitlines(keepends=True)[0]).event == SEGMENT_OPENED
    assert b'"after"' not in first.read_bytes()
    assert verified(subject.chain_directory, KEY.verifiers).intact


async def test_failing_disk_leaves_no_rejected_line(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subject.record("before")
    break_writes(monkeypatch, 3)
    monkeypatch.setattr(file_store, "sync", failing(2, errno.EIO, file_store.sync))
    monkeypatch.setattr(os, "ftruncate", failing(2, errno.EIO, os.ftruncate))
    refused = 0
    for i in range(20):
        (outcome,) = await subject.outcomes(f"p{i}")
        if outcome is None:
            break
        refused += 1
    assert 2 <= refused <= 8
    assert subject.subjects() == ["before", f"p{refused}"]
    assert verified(subject.chain_directory).intact


@pytest.mark.parametrize("broken", ["write_durably", "sync", "sync_directory"])
async def test_failed_segment_start_loses_no_record(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    async with opened(tmp_path, clock, segment_bytes_max=2_000) as subject:
        acknowledged = []
        for i in range(30):
            if i % 3 == 0:
                real = getattr(file_store, broken)
                call = failing(1, errno.ENOSPC, real)
                monkeypatch.setattr(file_store, broken, call)
            (outcome,) = await subject.outcomes(f"p{i}")
            monkeypatch.setattr(file_store, broken, real)
            if outcome is None:
                acknowledged.append(f"p{i}")
        assert len(acknowledged) >= 20
        assert subject.subjects() == acknowledged
        assert verified(subject.chain_directory).intact


async def test_hanging_disk_rejects_records_in_time(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subject.record("before")
    go_on = threading.Event()
    real = file_store.write_durably

    def hang(fd: int, data: bytes) -> None:
        go_on.wait(60)
        real(fd, data)

    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(file_store, "write_durably", hang)
    outcomes = await subject.outcomes("x", "y")
    assert [type(one) for one in outcomes] == [AuditLogUnavailable] * 2
    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 50.0)
    began = time.monotonic()
    (outcome,) = await subject.outcomes("at once")
    assert isinstance(outcome, AuditLogUnavailable)
    assert time.monotonic() - began < 25.0
    assert not subject.audit_log.durable
    go_on.set()
    while (await subject.outcomes("after"))[0] is not None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert subject.subjects() == ["before", "after"]
    assert verified(subject.chain_directory).intact


async def test_hanging_disk_does_not_block_start(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = threading.Event()
    real = file_store.write_durably

    def hang(fd: int, data: bytes) -> None:
        go_on.wait(60)
        real(fd, data)

    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(file_store, "write_durably", hang)
    subject = Subject(tmp_path, clock)
    began = time.monotonic()
    await subject.audit_log.open()
    assert "audit_stalled" in caplog.messages
    assert not subject.audit_log.durable
    (outcome,) = await subject.outcomes("refused")
    assert isinstance(outcome, AuditLogUnavailable)
    assert time.monotonic() - began < 25.0
    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 50.0)
    go_on.set()
    await until(lambda: subject.audit_log.durable)
    await subject.record("ann")
    assert subject.subjects() == ["ann"]
    assert subject.telemetry.audit_events["audit_chain_opened"] == 1
    await subject.audit_log.close()
    assert verified(subject.chain_directory, KEY.verifiers).intact


async def test_hanging_disk_does_not_block_shutdown(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(tmp_path, clock)
    await subject.audit_log.open()
    go_on = threading.Event()
    real = file_store.write_durably

    def hang(fd: int, data: bytes) -> None:
        go_on.wait(60)
        real(fd, data)

    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(file_store, "write_durably", hang)
    waiting = asyncio.create_task(subject.record("refused"))
    await asyncio.sleep(0)
    began = time.monotonic()
    await subject.audit_log.close()
    assert time.monotonic() - began < 25.0
    with pytest.raises(AuditLogUnavailable):
        await waiting
    go_on.set()
    await until(lambda: "refused" not in subject.subjects() and subject.audit_log.durable)
    assert subject.subjects() == []


async def test_failed_open_is_retried_by_next_record(tmp_path: Path, clock: FakeClock) -> None:
    directory = tmp_path / "audit"
    directory.write_text("a file is in the way")
    async with opened(directory, clock) as subject:
        (outcome,) = await subject.outcomes("refused")
        assert isinstance(outcome, AuditLogUnavailable)
        directory.unlink()
        await subject.record("ann")
        assert subject.subjects() == ["ann"]


async def test_failed_open_is_retried_without_records(tmp_path: Path, clock: FakeClock) -> None:
    directory = tmp_path / "audit"
    directory.write_text("a file is in the way")
    async with opened(directory, clock) as subject:
        trying = asyncio.create_task(subject.audit_log.run())
        await clock.advance(5.0)
        assert not subject.audit_log.durable
        directory.unlink()
        async with asyncio.timeout(60):
            while not subject.audit_log.durable:
                await clock.advance(5.0)
                await asyncio.sleep(0.01)  # a thread accesses the disk
        assert "audit_chain_resumed" in subject.events()
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)


async def test_free_disk_space_is_measured(
    subject: Subject, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimpleNamespace(f_bavail=8, f_blocks=100)
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    await clock.advance(1.0)
    await subject.record("ann")
    assert subject.files.disk_free == pytest.approx(0.08)


async def test_deleted_segment_is_not_written_to(subject: Subject, clock: FakeClock) -> None:
    await subject.record("ann")
    for file in segments_of(subject.chain_directory):
        file.unlink()
    await clock.advance(1.0)
    await subject.record("bob")
    assert subject.subjects() == ["bob"]
    assert verified(subject.chain_directory).intact


async def test_renamed_segment_is_not_written_to(
    subject: Subject, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await subject.record("ann")
    (file,) = segments_of(subject.chain_directory)
    file.rename(file.with_suffix(".1"))  # as logrotate does
    await clock.advance(1.0)
    await subject.record("bob")
    assert subject.subjects() == ["bob"]
    assert "audit_segment_missing" in caplog.messages


async def test_renamed_directory_is_not_written_to(
    subject: Subject, clock: FakeClock, tmp_path: Path
) -> None:
    await subject.record("ann")
    subject.chain_directory.rename(tmp_path / "backup")
    await clock.advance(1.0)
    await subject.record("bob")
    assert subject.subjects() == ["bob"]
    assert not all(report.intact for report in all_verified(subject.directory))
    (tmp_path / "backup").rename(subject.directory / "chain-7")
    reports = all_verified(subject.directory)
    assert [report.finding for report in reports] == [None, None]


@pytest.mark.parametrize("which", [0, 1])
async def test_missing_chain_is_reported_by_its_neighbours(
    tmp_path: Path, clock: FakeClock, which: int
) -> None:
    async with opened(tmp_path, clock) as one, opened(tmp_path, clock) as two:
        await one.record("ann")
        await two.record("bob")
    assert all(report.intact for report in all_verified(tmp_path, KEY.verifiers))
    async with opened(tmp_path, clock) as one:
        await clock.advance(DAY_S)
        await one.record("cid")  # now each chain records the other
        reports = all_verified(tmp_path, KEY.verifiers)
        assert [report.finding for report in reports] == [None, None]
    removed = chain_directories(tmp_path)[which]
    removed.rename(tmp_path / "elsewhere")
    (report,) = all_verified(tmp_path, KEY.verifiers)
    assert report.finding is not None
    assert report.finding.problem is Problem.REMOVED


async def test_chain_without_its_last_segment_is_not_continued(
    subject: Subject, clock: FakeClock
) -> None:
    await subject.record("ann")
    await clock.advance(DAY_S)
    await subject.record("bob")
    before, (_, last) = subject.chain_directory, segments_of(subject.chain_directory)
    last.unlink()
    await clock.advance(1.0)
    await subject.record("cid")
    assert subject.chain_directory != before
    assert subject.subjects() == ["cid"]
    assert not all(report.intact for report in all_verified(subject.directory, KEY.verifiers))
    async with opened(subject.directory, clock) as other:  # another process, without this knowledge
        assert other.chain_directory == before
        await other.record("dan")
    first, second = all_verified(subject.directory, KEY.verifiers)
    assert first.finding is not None
    assert (first.finding.problem, second.finding) == (Problem.HEAD_DIFFERS, None)


async def test_line_of_another_writer_is_detected(subject: Subject) -> None:
    await subject.record("ann")
    (file,) = segments_of(subject.chain_directory)
    with file.open("ab") as other:
        other.write(lines_in(subject.chain_directory)[-1])
    await subject.record("bob")
    finding = verified(subject.chain_directory).finding
    assert finding is not None
    assert finding.problem is Problem.INSERTED


async def test_segments_are_rolled_by_size_and_age(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock, segment_bytes_max=4_000) as subject:
        for i in range(30):
            await subject.record(f"p{i}")
        by_size = len(segments_of(subject.chain_directory))
        assert by_size > 3
        assert max(file.stat().st_size for file in segments_of(subject.chain_directory)) < 6_000
        await clock.advance(DAY_S + 1)
        await subject.record("tomorrow")
        assert len(segments_of(subject.chain_directory)) == by_size + 1
    report = verified(subject.chain_directory, KEY.verifiers)
    assert report.intact
    assert report.segments == by_size + 1
    assert subject.subjects() == [f"p{i}" for i in range(30)] + ["tomorrow"]


async def test_checkpoints_are_signed_and_heads_logged(
    subject: Subject, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gateway.audit")

    def head() -> Head:
        return parse_line(lines_in(subject.chain_directory)[-1]).head

    def logged() -> Head | None:
        found = [record for record in caplog.records if record.message == "audit_checkpoint"]
        return Head(found[-1].chain, found[-1].seq, found[-1].hash) if found else None

    running = asyncio.create_task(subject.audit_log.run())
    await subject.record("ann")
    async with asyncio.timeout(60):
        while subject.events().count(CHECKPOINT) < 2:  # the first is at the opening
            await clock.advance(5.0)
            await asyncio.sleep(0.01)  # the thread that writes takes real time
    await until(lambda: logged() == head())
    for _ in range(3):  # without new records there is no checkpoint
        await clock.advance(60.0)
        await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait([running])
    assert subject.events().count(CHECKPOINT) == 2
    assert verified(subject.chain_directory, KEY.verifiers, [head()]).intact


async def test_records_never_exceed_the_checkpoint_promise(
    tmp_path: Path, clock: FakeClock
) -> None:
    subject = Subject(tmp_path, clock)
    await subject.audit_log.open()
    for pause_s in (
        1.0,
        100.0,
        130.0,
        5_000.0,
        3 * DAY_S,
    ):  # without `run`, which requests checkpoints
        await clock.advance(pause_s)
        await subject.record("ann")
        report = verified(subject.chain_directory, KEY.verifiers)
        assert report.intact, report.finding
    subject.files.close()
    async with opened(tmp_path, clock) as other:
        assert other.chain_directory == subject.chain_directory
        assert verified(other.chain_directory, KEY.verifiers).intact


async def test_record_after_pause_follows_a_checkpoint(subject: Subject, clock: FakeClock) -> None:
    await subject.record("ann")
    await clock.advance(200.0)
    await subject.outcomes("bob", "cid")
    *_, before, bob, _ = map(parse_line, lines_in(subject.chain_directory))
    assert (before.event, before.at) == (CHECKPOINT, bob.at)
    partial = b"".join(lines_in(subject.chain_directory)[:-1])
    segments_of(subject.chain_directory)[0].write_bytes(partial)
    assert verified(subject.chain_directory, KEY.verifiers).intact


async def test_many_bytes_cause_a_checkpoint(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "_BYTES_WITHOUT_CHECKPOINT_MAX", 5_000)
    for i in range(60):
        await subject.record(f"p{i}")
    assert 4 <= subject.events().count(CHECKPOINT) <= 12


async def test_chain_with_overdue_checkpoint_is_not_continued(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with opened(tmp_path, clock) as subject:
        await subject.record("mallory")
    last = parse_line(lines_in(subject.chain_directory)[-1])
    made, _ = link_lines(last.head, [encode_body({"event": "refused", "at": last.at + 181.0})])
    with segments_of(subject.chain_directory)[-1].open("ab") as segment:
        segment.writelines(made)
    async with opened(tmp_path, clock) as other:
        assert other.chain_directory != subject.chain_directory
    finding = verified(subject.chain_directory, KEY.verifiers).finding
    assert finding is not None
    assert finding.problem is Problem.NOT_SIGNED


async def test_retention_leaves_a_verifiable_chain(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock, keep_s=3 * DAY_S) as subject:
        running = asyncio.create_task(subject.audit_log.run())
        for day in range(12):
            await subject.record(f"day {day}")
            for _ in range(6):
                await clock.advance(DAY_S / 6)
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])
    assert 3 <= len(segments_of(subject.chain_directory)) <= 6
    report = verified(subject.chain_directory, KEY.verifiers)
    assert report.intact, report.finding
    assert report.removed_through > 5
    segments_of(subject.chain_directory)[0].unlink()
    finding = verified(subject.chain_directory, KEY.verifiers).finding
    assert finding is not None
    assert finding.problem is Problem.REMOVED


async def test_retention_skips_a_stepped_clock(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path, clock, keep_s=400 * DAY_S) as subject:
        for day in range(5):
            await subject.record(f"day {day}")
            await clock.advance(DAY_S)
        before = len(segments_of(subject.chain_directory))
        for step_s in (500 * DAY_S, -500 * DAY_S):
            clock.step_wall(step_s)
            await subject.record("ann")
            await asyncio.to_thread(subject.files.remove_expired)
        assert len(segments_of(subject.chain_directory)) >= before
        assert caplog.messages.count("audit_clock_stepped") == 2
        await clock.advance(500 * DAY_S)
        await asyncio.to_thread(subject.files.remove_expired)
        assert len(segments_of(subject.chain_directory)) <= 2


@pytest.mark.parametrize("is_new", [True, False])
async def test_retention_skips_a_wrong_clock_at_start(
    tmp_path: Path, clock: FakeClock, *, is_new: bool
) -> None:
    async with opened(tmp_path, clock) as subject:
        await subject.record("ann")
        await clock.advance(DAY_S)
        await subject.record("bob")
    clock.step_wall(500 * DAY_S)
    signer = SigningKey().signer if is_new else KEY.signer
    async with opened(tmp_path, clock, keep_s=400 * DAY_S, signer=signer) as other:
        assert (other.chain_directory != subject.chain_directory) == is_new
        await asyncio.to_thread(other.files.remove_expired)
        assert "ann" in subject.subjects()
        await clock.advance(3_600.0)
        await asyncio.to_thread(other.files.remove_expired)  # the clock is still wrong
        assert not subject.chain_directory.exists() or "ann" not in subject.subjects()


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> list[Path]:
    """Let this many segments be removed, then fail; return the removed ones."""
    removed: list[Path] = []
    real = Path.unlink

    def unlink(file: Path, **options: bool) -> None:
        if file.name.startswith("segment-"):
            if len(removed) == after:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            removed.append(file)
        real(file, **options)

    monkeypatch.setattr(Path, "unlink", unlink)
    return removed


@pytest.mark.parametrize("after", range(4))
async def test_interrupted_removal_leaves_a_verifiable_chain(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    subject = Subject(tmp_path, clock, keep_s=3 * DAY_S)
    for day in range(8):
        await subject.record(f"day {day}")
        await clock.advance(DAY_S)
    with monkeypatch.context() as patch:
        removed = interrupted(patch, after)
        with pytest.raises(OSError, match="Input/output"):
            subject.files.remove_expired()
    assert [int(file.stem[-8:]) for file in removed] == [*range(1, after + 1)]
    subject.files.close()
    async with opened(tmp_path, clock) as other:  # without retention
        await other.record("ann")
        assert other.chain_directory == subject.chain_directory
    report = verified(subject.chain_directory, KEY.verifiers)
    assert report.intact, report.finding
    assert report.removed_through == after


@pytest.mark.parametrize("after", range(3))
async def test_partly_removed_chain_verifies_with_its_neighbour(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    subject, other = Subject(tmp_path, clock, keep_s=DAY_S), Subject(tmp_path, clock)
    await subject.record("ann")
    for name in ("bob", "cid", "dan"):
        await other.record(name)
        await clock.advance(DAY_S)
    other.files.close()
    await clock.advance(2 * DAY_S)
    with monkeypatch.context() as patch:
        real = Path.iterdir
        patch.setattr(
            Path, "iterdir", lambda chain_directory: sorted(real(chain_directory), reverse=True)
        )
        interrupted(patch, after)
        with pytest.raises(OSError, match="Input/output"):
            subject.files.remove_expired()
    assert [report.intact for report in all_verified(tmp_path, KEY.verifiers)] == [True, True]
    await asyncio.to_thread(subject.files.remove_expired)
    assert not other.chain_directory.exists()
    assert [report.intact for report in all_verified(tmp_path, KEY.verifiers)] == [True]


@pytest.mark.parametrize("days", [0.1, 2.0])
async def test_forged_removal_is_not_confirmed_at_start(
    tmp_path: Path, clock: FakeClock, days: float
) -> None:
    subject = Subject(tmp_path, clock)
    for name in ("mallory", "ann"):
        await subject.record(name)
        await clock.advance(DAY_S)
    await subject.record("bob")
    subject.files.close()
    first, *_, last = segments_of(subject.chain_directory)
    head = parse_line(first.read_bytes().splitlines(keepends=True)[-1]).head
    end = parse_line(lines_in(subject.chain_directory)[-1])
    made, _ = link_lines(
        end.head,
        [
            segment_removed_body(
                end.at, segment=1, head=head, expired_before=end.at, reason="made up"
            )
        ],
    )
    with last.open("ab") as segment:
        segment.writelines(made)
    first.unlink()
    await clock.advance(days * DAY_S)
    async with opened(tmp_path, clock) as other:
        await other.record("cid")
    assert not all(report.intact for report in all_verified(tmp_path, KEY.verifiers))


async def test_retention_removes_abandoned_chains(tmp_path: Path, clock: FakeClock) -> None:
    async with opened(tmp_path, clock, keep_s=DAY_S) as one:
        await one.record("ann")
        async with opened(tmp_path, clock, keep_s=DAY_S) as two:
            await two.record("bob")
        await clock.advance(DAY_S / 2)
        await asyncio.to_thread(one.files.remove_expired)
        assert two.chain_directory.exists()
        await clock.advance(DAY_S)
        async with opened(tmp_path, clock, keep_s=DAY_S) as holder:
            assert holder.chain_directory == two.chain_directory
            await asyncio.to_thread(one.files.remove_expired)
            assert two.chain_directory.exists()
        await clock.advance(2 * DAY_S)
        await asyncio.to_thread(one.files.remove_expired)
        assert not two.chain_directory.exists()
    found = [
        line
        for line in map(parse_line, lines_in(one.chain_directory))
        if line.event == "segments_removed"
    ]
    assert found[-1].fields["detail"] == "chain-2 is older than keep_days"
    assert all(report.intact for report in all_verified(tmp_path, KEY.verifiers))


async def test_followers_receive_durable_lines_only(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subject.record("ann")
    break_writes(monkeypatch, 1)
    await subject.outcomes("refused")
    await subject.record("bob")
    found = [parse_line(line).fields.get("subject") for line in subject.followed]
    assert [name for name in found if name] == ["ann", "bob"]


_WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.drivers.audit.file_store import ChainFiles, FileStore
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.host.clock import SystemClock
from gateway.domain.audit.record import AuditRecord
from tests.support.telemetry import RecordingTelemetry

async def write(audit_log, worker):
    for i in range(1_000_000):
        name = f"{sys.argv[2]}-{worker}-{i}"
        await audit_log.record(AuditRecord(event="refused", at=1.0, subject=name))
        print(name, flush=True)

async def main():
    files = ChainFiles(Path(sys.argv[1]), clock=SystemClock(), segment_bytes_max=65_536, keep_s=0)
    audit_log = GroupCommitAuditLog(
        FileStore(files), clock=SystemClock(), telemetry=RecordingTelemetry(), checkpoint_s=1.0
    )
    await asyncio.gather(*(write(audit_log, worker) for worker in range(8)))

asyncio.run(main())
"""


def test_acknowledged_records_survive_sigkill(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for life in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(tmp_path), f"{life}-{i}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            acknowledged += [writer.stdout.readline().strip() for _ in range(300)]
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout is not None
            rest = writer.stdout.read()
            acknowledged += rest[: rest.rfind("\n") + 1].split()
            writer.stdout.close()
            writer.wait()
    for chain_directory in tmp_path.iterdir():  # the next process removes a partial line
        for file in segments_of(chain_directory)[-1:]:
            whole = file.read_bytes().rpartition(b"\n")
            file.write_bytes(whole[0] + whole[1])
    reports = all_verified(tmp_path)
    assert len(reports) == 2
    assert all(report.intact for report in reports), [report.finding for report in reports]
    found = [
        parse_line(line).fields.get("subject")
        for chain_directory in tmp_path.iterdir()
        for line in lines_in(chain_directory)
    ]
    for name in acknowledged:
        assert found.count(name) == 1


@pytest.mark.skipif(not hasattr(os, "RWF_DSYNC"), reason="the platform has no RWF_DSYNC")
async def test_each_write_is_synced(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A written line survives a killed process without a sync, and a power failure only with it."""
    synced: list[bytes] = []
    real = os.pwritev

    def look(fd: int, buffers: list[bytes], offset: int, flags: int = 0) -> int:
        written = real(fd, buffers, offset, flags)
        if flags & os.RWF_DSYNC:
            synced.append(buffers[0][:written])
        return written

    monkeypatch.setattr(os, "pwritev", look)
    await subject.record("ann")
    assert b'"ann"' in b"".join(synced)


async def test_write_and_sync_work_without_rwf_dsync(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    real = file_store.sync

    def look(fd: int) -> None:
        real(fd)
        synced.append(lines_in(subject.chain_directory)[-1])

    monkeypatch.setattr(file_store, "sync", look)
    monkeypatch.setattr(os, "pwritev", failing(1, errno.EOPNOTSUPP, os.pwritev))
    await subject.record("ann")
    assert b'"ann"' in synced[-1]
    monkeypatch.setattr(file_store, "_DSYNC", 0)
    await subject.record("bob")
    assert b'"bob"' in synced[-1]
    assert subject.subjects() == ["ann", "bob"]


async def test_failed_segment_start_leaves_no_file(
    subject: Subject, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await subject.record("ann")
    before = segments_of(subject.chain_directory)
    await clock.advance(DAY_S)
    real = file_store.sync_directory
    monkeypatch.setattr(file_store, "sync_directory", failing(1, errno.EIO, real))
    (outcome,) = await subject.outcomes("refused")
    assert isinstance(outcome, AuditLogUnavailable)
    assert (
        segments_of(subject.chain_directory) == before
    )  # a kill at this moment leaves the chain intact
    await subject.record("bob")
    assert len(segments_of(subject.chain_directory)) == 2
    assert verified(subject.chain_directory).intact
