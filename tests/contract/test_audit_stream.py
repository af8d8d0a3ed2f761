"""The audit log in a real Valkey stream: as the only store, and as a copy of the files."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.audit.chain import parse_line
from gateway.domain.audit.record import AuditRecord, encode_record
from gateway.domain.audit.report import Report, Segment
from gateway.domain.audit.verify import verify
from gateway.domain.errors import AuditLogUnavailable, StoreUnavailable
from gateway.drivers.audit.directory import lines_after, segment_files
from gateway.drivers.audit.file_store import ChainFiles, FileStore
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.audit.stream_store import AuditStream, StreamFollower, StreamStore
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey.connection import Valkey
from tests.contract.test_shared_store import a_valkey
from tests.support.audit import SigningKey, lines_in
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey

KEY = SigningKey()
BYTES_MAX = 2**30


class Flaky(AuditStream):
    """Loses requests or responses."""

    def __init__(self, valkey: Valkey) -> None:
        super().__init__(valkey, keep_s=0, bytes_max=BYTES_MAX)
        self.loses = ""

    async def append(
        self, chain: str, after_seq: int, lines: Sequence[bytes], *, allow_gap: bool = False
    ) -> None:
        if self.loses == "request":
            raise StoreUnavailable("lost")
        await super().append(chain, after_seq, lines, allow_gap=allow_gap)
        if self.loses == "answer":
            raise StoreUnavailable("lost")


def an_audit_log(store: Any, **options: Any) -> GroupCommitAuditLog:
    return GroupCommitAuditLog(
        store,
        clock=SystemClock(),
        telemetry=RecordingTelemetry(),
        checkpoint_s=60.0,
        **options,
    )


async def record(audit_log: GroupCommitAuditLog, name: str) -> None:
    await audit_log.record(AuditRecord(event="refused", at=1.0, subject=name))


def lines_of(server: RealValkey, stream: AuditStream) -> list[bytes]:
    entries = server.command("XRANGE", stream.name, "-", "+")
    return [fields[b"line"] for _, fields in entries]


def verified(lines: list[bytes]) -> list[Report]:
    chains: dict[str, list[bytes]] = {}
    for line in lines:
        chains.setdefault(parse_line(line).chain, []).append(line)
    return [
        verify(chain, [Segment(1, "stream", of_it)], KEY.verifiers)
        for chain, of_it in chains.items()
    ]


def subjects(lines: list[bytes]) -> list[str]:
    return [name for line in lines if (name := parse_line(line).fields.get("subject"))]


async def test_stream_has_record_when_it_returns(valkey: Valkey, shared_valkey: RealValkey) -> None:
    stream = AuditStream(valkey, keep_s=86_400, bytes_max=BYTES_MAX)
    audit_logs = [
        an_audit_log(StreamStore(stream, clock=SystemClock(), signer=KEY.signer)) for _ in range(2)
    ]
    for i, audit_log in enumerate(audit_logs):
        await record(audit_log, f"first {i}")
        assert subjects(lines_of(shared_valkey, stream))[-1] == f"first {i}"
    await asyncio.gather(*(record(audit_logs[i % 2], f"p{i}") for i in range(100)))
    for audit_log in audit_logs:
        await audit_log.close()
    lines = lines_of(shared_valkey, stream)
    assert len(subjects(lines)) == 102
    reports = verified(lines)
    assert len(reports) == 2
    assert all(report.intact for report in reports), [report.finding for report in reports]


async def test_stream_keeps_the_checkpoint_promise(
    valkey: Valkey, shared_valkey: RealValkey
) -> None:
    stream, clock = AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX), FakeClock(now=1.0)
    store = StreamStore(stream, clock=clock, signer=KEY.signer, checkpoint_s=10.0)
    for pause_s in (5.0, 25.0, 3_600.0, 90_000.0):
        at = clock.now()
        body = encode_record(AuditRecord(event="refused", at=at, subject=f"{at}"))
        await store.commit([body], with_checkpoint=False, confirm=lambda: True)
        clock.step_wall(pause_s)  # then the process dies
        lines = lines_of(shared_valkey, stream)
        assert len(subjects(lines)) > 0
        (report,) = verified(lines)
        assert report.intact, report.finding
    assert parse_line(lines[1]).fields["next_within_s"] == 30.0


@pytest.mark.parametrize("loses", ["request", "answer"])
async def test_rejected_record_is_removed_from_stream(
    valkey: Valkey, shared_valkey: RealValkey, loses: str
) -> None:
    stream = Flaky(valkey)
    audit_log = an_audit_log(StreamStore(stream, clock=SystemClock(), signer=KEY.signer))
    await record(audit_log, "before")
    stream.loses = loses
    for name in ("refused", "refused again"):
        with pytest.raises(AuditLogUnavailable):
            await record(audit_log, name)
    assert not audit_log.durable
    stream.loses = ""
    await record(audit_log, "after")
    await audit_log.close()
    lines = lines_of(shared_valkey, stream)
    assert subjects(lines) == ["before", "after"]
    assert all(report.intact for report in verified(lines))


async def test_late_attempt_changes_nothing(valkey: Valkey, shared_valkey: RealValkey) -> None:
    stream = AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX)
    await stream.append("c", 0, [b"one\n"])
    await stream.append("c", 1, [b"two\n"])
    stream._attempts = 0
    with pytest.raises(StoreUnavailable):
        await stream.append("c", 0, [b"late\n"])
    assert lines_of(shared_valkey, stream) == [b"one\n", b"two\n"]


@pytest.mark.parametrize("lost", ["all", "the stream", "the last lines"])
async def test_lost_lines_are_detected_at_next_record(
    own_valkey: RealValkey, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    valkey = a_valkey(own_valkey)
    assert await valkey.probe()
    stream = AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX)
    audit_log = an_audit_log(StreamStore(stream, clock=SystemClock(), signer=KEY.signer))
    await record(audit_log, "first")
    chain = parse_line(lines_of(own_valkey, stream)[0]).chain
    state = own_valkey.command("HGETALL", valkey.key("chain", chain, tag="audit"))
    await record(audit_log, "second")
    head = parse_line(lines_of(own_valkey, stream)[-1]).head
    match lost:
        case "all":
            own_valkey.command("FLUSHALL")
        case "the stream":
            own_valkey.command("DEL", stream.name)
        case _:  # as after a failover to a replica that lacks them
            ((last, _),) = own_valkey.command("XREVRANGE", stream.name, "+", "-", "COUNT", "1")
            own_valkey.command("XDEL", stream.name, last.decode())
            own_valkey.command(
                "HSET", valkey.key("chain", chain, tag="audit"), "seq", state[b"seq"].decode()
            )
    with pytest.raises(AuditLogUnavailable, match="the stream has the chain's lines up to"):
        await record(audit_log, "refused")
    assert not audit_log.durable
    (logged,) = [one for one in caplog.records if one.message == "audit_stream_lines_lost"]
    assert (logged.__dict__["chain"], logged.__dict__["through"]) == (head.chain, head.seq)
    assert logged.__dict__["missing"] == head.seq - logged.__dict__["after"] > 0
    await record(audit_log, "after")
    assert audit_log.durable
    await audit_log.close()
    lines = lines_of(own_valkey, stream)
    assert subjects(lines) == [*(["first"] if lost == "the last lines" else []), "after"]
    assert str(head) in parse_line(lines[-3]).fields["detail"]
    assert all(report.intact for report in verified(lines))
    await valkey.close()


async def test_records_fail_while_redis_is_unavailable(
    own_valkey: RealValkey,
) -> None:
    valkey = a_valkey(own_valkey, timeout_s=2.5)
    assert await valkey.probe()
    stream = AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX)
    audit_log = an_audit_log(StreamStore(stream, clock=SystemClock(), signer=KEY.signer))
    await record(audit_log, "before")
    own_valkey.hang()
    for _ in range(2):
        with pytest.raises(AuditLogUnavailable):
            await record(audit_log, "refused")
    own_valkey.resume()
    while not await valkey.probe():
        pass
    await record(audit_log, "after")
    await audit_log.close()
    lines = lines_of(own_valkey, stream)
    assert subjects(lines) == ["before", "after"]
    assert all(report.intact for report in verified(lines))
    await valkey.close()


class TrimDone(Exception):
    pass


class OneTrimClock(FakeClock):
    """Ends the trim loop at its first sleep."""

    async def sleep(self, seconds: float) -> None:
        raise TrimDone


async def trimmed(stream: AuditStream) -> None:
    with suppress(TrimDone):
        await stream.keep_trimmed(OneTrimClock())


def fill(server: RealValkey, stream: AuditStream, count: int, *, first_ms: int = 1) -> None:
    server.command(
        "EVAL",
        "for i = 0, ARGV[1] - 1 do"
        " redis.call('XADD', KEYS[1], (ARGV[2] + i) .. '-0', 'line', ARGV[3]) end",
        "1",
        stream.name,
        str(count),
        str(first_ms),
        "x" * 1_000,
    )


async def test_expired_lines_are_trimmed(valkey: Valkey, shared_valkey: RealValkey) -> None:
    stream = AuditStream(valkey, keep_s=3600, bytes_max=BYTES_MAX)
    fill(shared_valkey, stream, 25_000)  # more than one call of the script trims
    await stream.append("c", 0, [b"new\n"])
    await trimmed(stream)
    left = lines_of(shared_valkey, stream)
    assert len(left) < 200  # the stream trims whole nodes of about 100 lines
    assert left[-1] == b"new\n"


async def test_oldest_lines_are_trimmed_beyond_size_limit(
    valkey: Valkey, shared_valkey: RealValkey, caplog: pytest.LogCaptureFixture
) -> None:
    stream = AuditStream(valkey, keep_s=0, bytes_max=2_000_000)
    fill(shared_valkey, stream, 1_000)
    await trimmed(stream)
    assert 900_000 < stream.bytes < 2_000_000
    assert len(lines_of(shared_valkey, stream)) == 1_000
    assert "audit_stream_full" not in caplog.messages
    fill(shared_valkey, stream, 4_000, first_ms=2_000)
    for _ in range(2):
        await stream.append("c", 0, [b"new\n"])
        await trimmed(stream)
        left = lines_of(shared_valkey, stream)
        assert 1_500 < len(left) < 2_200
        assert left[-1] == b"new\n"
    assert 1_500_000 < stream.bytes < 2_200_000
    assert caplog.messages.count("audit_stream_full") == 1


async def test_trim_works_on_a_full_server(
    own_valkey: RealValkey,
) -> None:
    valkey = a_valkey(own_valkey)
    assert await valkey.probe()
    stream = AuditStream(valkey, keep_s=3600, bytes_max=BYTES_MAX)
    fill(own_valkey, stream, 2_000)
    used = int(own_valkey.command("INFO", "memory")["used_memory"])
    own_valkey.command("CONFIG", "SET", "maxmemory", str(used - 500_000))
    own_valkey.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    with pytest.raises(StoreUnavailable):
        await stream.append("c", 0, [b"refused\n"])
    assert not await valkey.probe()
    await trimmed(stream)
    assert await valkey.probe()
    await stream.append("c", 0, [b"new\n"])
    assert lines_of(own_valkey, stream)[-1] == b"new\n"
    await valkey.close()


class CopiedFiles:
    """An audit log in files, and its copy in the stream."""

    def __init__(self, stream: AuditStream, directory: Path, **options: Any) -> None:
        self.files = ChainFiles(
            directory,
            clock=SystemClock(),
            signer=KEY.signer,
            segment_bytes_max=20_000,
            keep_s=0,
        )
        self.follower = StreamFollower(
            stream, SystemClock(), partial(lines_after, directory), **options
        )
        self.audit_log = an_audit_log(FileStore(self.files), follow=[self.follower.follow])
        self._running = asyncio.create_task(self.follower.run())

    async def stop_sending(self) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])

    async def close(self) -> None:
        await self.stop_sending()
        await self.audit_log.close()
        await self.follower.close()


async def test_follower_catches_up_after_failures(
    valkey: Valkey, shared_valkey: RealValkey, tmp_path: Path
) -> None:
    stream = Flaky(valkey)
    copied = CopiedFiles(stream, tmp_path)
    await record(copied.audit_log, "first")
    for loses in ("request", "answer"):
        stream.loses = loses
        for i in range(20):
            await record(copied.audit_log, f"while the {loses} is lost {i}")
        await asyncio.sleep(0.6)
    stream.loses = ""
    await record(copied.audit_log, "last")
    await copied.close()
    assert lines_of(shared_valkey, stream) == lines_in(copied.files.chain_directory)


async def test_follower_reads_overflow_from_files(
    valkey: Valkey,
    shared_valkey: RealValkey,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = Flaky(valkey)
    copied = CopiedFiles(stream, tmp_path, backlog_max=10)
    stream.loses = "request"
    for i in range(100):
        await record(copied.audit_log, f"p{i}")
    assert caplog.messages.count("audit_stream_lagging") == 1
    stream.loses = ""
    await copied.close()
    assert lines_of(shared_valkey, stream) == lines_in(copied.files.chain_directory)
    assert "audit_stream_incomplete" not in caplog.messages


async def test_next_process_sends_unsent_lines(
    valkey: Valkey, shared_valkey: RealValkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Flaky(valkey)
    for life in range(3):
        copied = CopiedFiles(stream, tmp_path)
        await record(copied.audit_log, f"life {life}")
        await wait_for(shared_valkey, stream, f"life {life}")
        stream.loses = "request"
        await record(copied.audit_log, f"unsent in life {life}")
        await copied.close()
        assert caplog.messages.count("audit_stream_incomplete") == life + 1
        stream.loses = ""
    last = CopiedFiles(stream, tmp_path)
    await record(last.audit_log, "last")
    await last.close()
    lines = lines_of(shared_valkey, stream)
    assert len(subjects(lines)) == 7
    assert lines == lines_in(last.files.chain_directory)


@pytest.mark.parametrize("left_in_files", ["all", "the later ones"])
async def test_lost_stream_is_refilled_from_files(
    own_valkey: RealValkey,
    tmp_path: Path,
    left_in_files: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    valkey = a_valkey(own_valkey)
    assert await valkey.probe()
    stream = AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX)
    copied = CopiedFiles(stream, tmp_path)
    for i in range(200):
        await record(copied.audit_log, f"p{i}")
    await wait_for(own_valkey, stream, "p199")
    own_valkey.command("FLUSHALL")
    (_, first), *_ = segment_files(copied.files.chain_directory)
    if left_in_files != "all":
        first.unlink()
    await record(copied.audit_log, "after")
    await copied.close()
    assert lines_of(own_valkey, stream) == lines_in(copied.files.chain_directory)
    assert ("audit_stream_lines_lost" in caplog.messages) == (left_in_files != "all")
    await valkey.close()


async def wait_for(server: RealValkey, stream: AuditStream, subject: str) -> None:
    """Wait until the last record of the stream has this subject."""
    for _ in range(1_000):
        if subjects(lines_of(server, stream))[-1:] == [subject]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(subject)
