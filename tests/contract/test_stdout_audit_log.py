"""The audit log on stdout: a line is written before `record` returns, or the record fails."""

import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

import pytest

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit import group_commit
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.audit.stdout_store import StdoutStore
from gateway.drivers.host.clock import SystemClock
from tests.support.telemetry import RecordingTelemetry
from tests.support.waiting import until


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def fill(self) -> None:
        """Fill the pipe: the next write blocks."""
        os.set_blocking(self.writing, False)
        try:
            while True:
                os.write(self.writing, b"\n" * 4_096)
        except BlockingIOError:
            os.set_blocking(self.writing, True)

    def read(self) -> bytes:
        """Read all bytes in the pipe."""
        os.set_blocking(self.reading, False)
        found = b""
        try:
            while piece := os.read(self.reading, 65_536):
                found += piece
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        os.close(self.writing)
        os.close(self.reading)


def an_audit_log(descriptor: int) -> GroupCommitAuditLog:
    clock = SystemClock()
    return GroupCommitAuditLog(
        StdoutStore(descriptor, clock),
        clock=clock,
        telemetry=RecordingTelemetry(),
        checkpoint_s=60.0,
    )


async def record(audit_log: GroupCommitAuditLog, subject: str, detail: str = "") -> None:
    await audit_log.record(
        AuditRecord(event="console_link_issued", at=1.0, subject=subject, detail=detail)
    )


def subjects(data: bytes) -> list[str]:
    """Return the subjects of the readable records."""
    found = []
    for line in data.splitlines():
        try:
            found.append(json.loads(line)["subject"])
        except ValueError:
            continue
    return [one for one in found if one]


async def test_lines_are_complete_and_in_order() -> None:
    pipe = Pipe()
    audit_log = an_audit_log(pipe.writing)
    await audit_log.open()
    await asyncio.gather(*(record(audit_log, f"p{i}") for i in range(20)))
    await audit_log.close()
    lines = pipe.read().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        "audit_chain_opened",
        *["console_link_issued"] * 20,
    ]
    assert [json.loads(line)["subject"] for line in lines[1:]] == [f"p{i}" for i in range(20)]
    pipe.close()


async def test_records_fail_until_pipe_is_writable() -> None:
    pipe, other = Pipe(), Pipe()
    audit_log = an_audit_log(pipe.writing)
    os.close(pipe.reading)
    outcomes = await asyncio.gather(
        *(record(audit_log, f"p{i}") for i in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [AuditLogUnavailable] * 3
    assert not audit_log.durable
    os.dup2(other.writing, pipe.writing)
    await record(audit_log, "ann")
    assert audit_log.durable
    assert subjects(other.read()) == ["ann"]
    os.close(pipe.writing)
    other.close()


async def test_record_after_a_partial_line_is_readable() -> None:
    pipe = Pipe()
    audit_log = an_audit_log(pipe.writing)
    await record(audit_log, "before")
    os.set_blocking(pipe.writing, False)  # a long line is then written in part
    with pytest.raises(AuditLogUnavailable):
        await record(audit_log, "torn", detail="x" * 200_000)
    found = pipe.read()
    await record(audit_log, "after")
    found += pipe.read()
    assert subjects(found) == ["before", "after"]
    assert b'"subject":"torn"' in found
    pipe.close()


async def test_stalled_reader_rejects_records_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = Pipe()
    audit_log = an_audit_log(pipe.writing)
    await record(audit_log, "before")
    pipe.fill()
    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 0.2)
    for name in ("waited", "refused at once"):
        async with asyncio.timeout(60):
            with pytest.raises(AuditLogUnavailable):
                await record(audit_log, name)
    assert not audit_log.durable
    found = pipe.read()
    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 60.0)
    await until(lambda: not audit_log._stalled)
    await record(audit_log, "after")
    assert audit_log.durable
    found += pipe.read()
    assert [one for one in subjects(found) if one != "waited"] == ["before", "after"]
    await audit_log.close()
    pipe.close()


async def test_cancelled_caller_does_not_affect_others() -> None:
    pipe = Pipe()
    audit_log = an_audit_log(pipe.writing)
    cancelled = asyncio.ensure_future(record(audit_log, "gone"))
    other = asyncio.ensure_future(record(audit_log, "stays"))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait_for(other, 60)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert subjects(pipe.read()) == ["gone", "stays"]
    pipe.close()


def test_processes_sharing_a_pipe_write_whole_lines() -> None:
    pipe = Pipe()

    def work(name: str) -> None:
        async def turns() -> None:
            audit_log = an_audit_log(pipe.writing)
            for turn in range(40):
                await asyncio.gather(*(record(audit_log, f"{name}{turn}-{i}") for i in range(50)))
            await audit_log.close()

        asyncio.run(turns())

    workers = [Thread(target=work, args=(name,)) for name in "ab"]
    for worker in workers:
        worker.start()
    found = slowly_read(pipe, workers)
    lines = found.splitlines()
    assert len(subjects(found)) == len(lines) - 2 == 4_000
    pipe.close()


def slowly_read(pipe: Pipe, writers: Sequence[Thread]) -> bytes:
    found = b""
    os.set_blocking(pipe.reading, False)
    while any(writer.is_alive() for writer in writers):
        with suppress(BlockingIOError):
            found += os.read(pipe.reading, 5_000)
        writers[0].join(0.0005)
    return found + pipe.read()
