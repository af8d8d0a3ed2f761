"""`gateway audit export`: a real stream, exported, verified and searched."""

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.audit_export import export_stream
from gateway.commands.parser import main
from gateway.config.store import RedisEmbedded, RedisServer, StoreSettings
from gateway.domain.audit.chain import SEGMENTS_REMOVED, link_lines, parse_line, segment_opened_body
from gateway.drivers.audit import stream_store
from gateway.drivers.audit.store import Committed
from gateway.drivers.audit.stream_store import AuditStream, StreamStore
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey.connection import Valkey
from tests.contract.test_audit_stream import (
    BYTES_MAX,
    KEY,
    CopiedFiles,
    an_audit_log,
    lines_of,
    record,
    trimmed,
)
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.valkey import RealValkey


def a_store(server: RealValkey, **changes: Any) -> StoreSettings:
    redis = RedisServer(url=server.url)
    return StoreSettings(redis=redis, seal_keys=(a_seal_key(),), **changes)


async def opened(server: RealValkey) -> Valkey:
    valkey = a_valkey(server, namespace="gateway")
    assert await valkey.probe()
    return valkey


async def exported(server: RealValkey, directory: Path) -> int:
    return await asyncio.to_thread(export_stream, a_store(server), directory)


def audit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["audit", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key.pub"
    file.write_bytes(KEY.public)
    return file


async def test_exported_chains_are_verified_and_searched(
    own_valkey: RealValkey, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valkey = await opened(own_valkey)
    stream = AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX)
    alone = an_audit_log(StreamStore(stream, clock=SystemClock(), signer=KEY.signer))
    copied = CopiedFiles(stream, tmp_path / "audit")
    for i in range(150):
        await record(alone, f"alone {i}")
        await record(copied.audit_log, f"copied {i}")
    await alone.close()
    await copied.close()
    out = tmp_path / "out"
    assert await exported(own_valkey, out) == 0
    code, output = audit(capsys, "verify", out, "--public-key", key)
    assert code == 0, output
    assert output.count(": intact, chain ") == 2
    written = sorted(file.read_bytes() for file in out.glob("chain-*/segment-*"))
    in_files = [file.read_bytes() for file in copied.files.chain_directory.glob("segment-*")]
    assert len(in_files) > 2
    assert set(in_files) < set(written)
    assert "alone 149" in audit(capsys, "search", out, "--subject", "alone 149")[1]
    assert not (out / "cut-off").exists()
    await valkey.close()


async def test_export_of_expired_stream_verifies(
    own_valkey: RealValkey,
    tmp_path: Path,
    key: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_store, "_SEGMENT_AGE_MAX_S", 0.3)
    monkeypatch.setattr(stream_store, "_TRIM_GRACE_MS", 700)
    valkey = await opened(own_valkey)
    stream = AuditStream(valkey, keep_s=1.0, bytes_max=BYTES_MAX)
    stores = [StreamStore(stream, clock=SystemClock(), signer=KEY.signer) for _ in range(2)]
    ended, lives = map(an_audit_log, stores)
    for i in range(60):
        if i < 20:
            await record(ended, f"ended {i} {'x' * 900}")
        elif i == 20:
            await ended.close()
        await record(lives, f"lives {i} {'x' * 900}")
        if i % 4 == 0:
            await stores[1].apply_retention()
            await trimmed(stream)
        await asyncio.sleep(0.05)
    await lives.close()
    out = tmp_path / "out"
    assert await exported(own_valkey, out) == 0
    assert "the stream has trimmed earlier lines" in capsys.readouterr().out
    code, output = audit(capsys, "verify", out, "--public-key", key)
    assert code == 0, output
    assert "removed by retention, as recorded in the log" in output
    code, output = audit(capsys, "search", out, out / "cut-off", "--event", "refused", "--json")
    left = [parse_line(line).event for line in lines_of(own_valkey, stream)]
    assert output.count('"event": "refused"') == left.count("refused")
    await valkey.close()


async def test_export_of_overfull_stream_is_searchable(
    own_valkey: RealValkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valkey = await opened(own_valkey)
    stream = AuditStream(valkey, keep_s=0, bytes_max=40_000)
    copied = CopiedFiles(stream, tmp_path / "audit")
    for i in range(200):
        await record(copied.audit_log, f"p{i}")
    await copied.close()
    await trimmed(stream)
    out = tmp_path / "out"
    assert await exported(own_valkey, out) == 0
    printed = capsys.readouterr().out
    assert "(search only, unverified)" in printed
    code, output = audit(capsys, "verify", out)
    assert code == 1
    assert "and no line records the removal" in output
    assert "p199" in audit(capsys, "search", out, out / "cut-off", "--subject", "p199")[1]
    await valkey.close()


async def test_retention_trusts_only_signed_checkpoints(
    own_valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_store, "_SEGMENT_AGE_MAX_S", 0.1)
    valkey = await opened(own_valkey)
    stream = AuditStream(valkey, keep_s=0.2, bytes_max=BYTES_MAX)
    store = StreamStore(stream, clock=SystemClock(), signer=KEY.signer)
    audit_log = an_audit_log(store)
    await record(audit_log, "first")
    head = parse_line(lines_of(own_valkey, stream)[-1]).head
    (forged,), _ = link_lines(head, [segment_opened_body(2, 1.0)])
    own_valkey.command("XADD", stream.name, "*", "line", forged.decode())
    await asyncio.sleep(0.4)
    assert removals_in(await store.apply_retention()) == []
    await record(audit_log, "in another segment")
    await asyncio.sleep(0.4)
    assert removals_in(await store.apply_retention())[:1] == [1]
    assert 1 not in removals_in(await store.apply_retention())
    await audit_log.close()
    await valkey.close()


def removals_in(committed: Committed) -> list[int]:
    """Return the segments that these lines record as removed."""
    lines = map(parse_line, committed.lines)
    return [line.fields["removed_through"] for line in lines if line.event == SEGMENTS_REMOVED]


async def test_export_reports_the_failure(
    own_valkey: RealValkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await exported(own_valkey, tmp_path / "out") == 1
    assert "the stream contains no chain" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert await exported(own_valkey, tmp_path / "full") == 2
    own = RedisEmbedded(embedded=True)
    embedded = a_store(own_valkey).model_copy(update={"redis": own})
    assert await asyncio.to_thread(export_stream, embedded, tmp_path / "out") == 2
    own_valkey.kill()
    assert await exported(own_valkey, tmp_path / "out") == 1
    assert "Redis is unavailable" in capsys.readouterr().err


async def test_export_reports_a_full_disk(
    own_valkey: RealValkey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valkey = await opened(own_valkey)
    audit_log = an_audit_log(
        StreamStore(
            AuditStream(valkey, keep_s=0, bytes_max=BYTES_MAX),
            clock=SystemClock(),
            signer=KEY.signer,
        )
    )
    await record(audit_log, "x")
    await audit_log.close()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        code = await exported(own_valkey, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, capsys.readouterr().err) == (2, f"{tmp_path / 'out'}: File too large\n")
    await valkey.close()
