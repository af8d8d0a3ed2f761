"""`gateway audit verify` and `search` on audit logs of several processes."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from gateway.commands import times
from gateway.commands.parser import main
from gateway.domain.audit.chain import parse_line
from gateway.domain.audit.record import AuditRecord, ConsoleSessionFields, encode_record
from gateway.drivers.audit.file_store import ChainFiles
from tests.support.audit import SigningKey, lines_in
from tests.support.clock import FakeClock

KEY = SigningKey()
OTHER = SigningKey()


@pytest.fixture
def audit_log(tmp_path: Path) -> Path:
    """Return an audit log of two processes, with a record every minute."""
    clock = FakeClock(now=1_800_000_000.0)
    directory = tmp_path / "audit"
    options: Any = {"clock": clock, "signer": KEY.signer, "segment_bytes_max": 2_500, "keep_s": 0}
    chains = [ChainFiles(directory, **options) for _ in range(2)]
    for i in range(12):
        record = AuditRecord(
            event="console_link_issued" if i % 3 else "refused",
            at=clock.now(),
            request_id=f"request-{i}",
            issuer="corp" if i < 10 else "lab",
            subject=("ann", "bob")[i % 2],
            operation="ShowRemoteConsole",
            project="p1",
            servers=(f"server-{i % 4}",),
            decision="allowed" if i % 3 else "denied",
            rule="policy.yaml:7",
            detail="two\nlines" if i == 5 else "",
        )
        chains[i % 2].commit([encode_record(record)], with_checkpoint=i > 9)
        asyncio.run(clock.advance(60.0))
    for chain in chains:
        chain.close()
    (tmp_path / "key.pub").write_bytes(KEY.public)
    (tmp_path / "other.pub").write_bytes(OTHER.public)
    return directory


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    try:
        code = main(["audit", *map(str, arguments)])
    except SystemExit as usage:
        code = int(usage.code or 0)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_verify_reports_what_is_proved(audit_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(capsys, "verify", audit_log, "--public-key", audit_log.parent / "key.pub")
    assert code == 0, output
    assert output.count(": intact, chain ") == 2
    assert output.count("last signed checkpoint: line ") == 2
    assert "NOT CHECKED" not in output
    assert "only a head saved later proves" in output
    code, output = run(capsys, "verify", audit_log)
    assert code == 0
    assert output.count("NOT CHECKED: pass --public-key") == 2


def test_verify_runs_as_a_program(audit_log: Path) -> None:
    arguments = [sys.executable, "-m", "gateway", "audit", "verify", str(audit_log), "--json"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=60)
    printed = json.loads(done.stdout)
    assert printed["intact"] is True
    assert [chain["records"] for chain in printed["chains"]] == [
        7,
        7,
    ]  # including the opening of each chain


def test_verify_reports_file_and_line_of_problem(
    audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sorted((audit_log / "chain-2").glob("segment-*"))[1]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], lines[2].replace(b"bob", b"ann"), *lines[3:]]))
    code, output = run(capsys, "verify", audit_log)
    assert code == 1
    assert f"BROKEN: {file}:4: changed: " in output
    assert f"{audit_log / 'chain-1'}: intact, " in output
    assert "intact before that" in output
    code, output = run(capsys, "verify", audit_log, "--json")
    assert code == 1
    (finding,) = [chain["finding"] for chain in json.loads(output)["chains"] if chain["finding"]]
    assert (finding["line"], finding["problem"]) == (4, "changed")


def test_verify_rejects_an_unknown_key(audit_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = run(capsys, "verify", audit_log, "--public-key", audit_log.parent / "other.pub")
    assert code == 1
    assert "unknown key" in output


def test_verify_with_saved_heads_detects_missing_lines(
    audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = [parse_line(lines_in(audit_log / f"chain-{i}")[-1]).head for i in (1, 2)]
    stored = [part for head in heads for part in ("--head", head)]
    assert run(capsys, "verify", audit_log, *stored)[0] == 0
    last = max((audit_log / "chain-1").glob("segment-*"))
    last.write_bytes(b"".join(last.read_bytes().splitlines(keepends=True)[:-1]))
    assert run(capsys, "verify", audit_log)[0] == 0
    code, output = run(capsys, "verify", audit_log, *stored)
    assert code == 1
    assert "of a saved head is missing; the last line is" in output
    for file in (audit_log / "chain-2").iterdir():
        file.unlink()
    code, output = run(capsys, "verify", audit_log, *stored)
    assert code == 1
    assert f"the chain {heads[1].chain} is missing" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "nowhere"),
        ("verify", ".", "--public-key", "nowhere"),
        ("verify", ".", "--head", "a:b:c"),
        ("search", "nowhere"),
        ("search", ".", "--since", "2026-01-01T00:00:00"),
        ("verify",),
        (),
    ],
)
def test_invalid_arguments_are_wrong_usage(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run(capsys, *arguments)
    assert code == 2
    assert output


def test_verify_without_any_chain_is_not_intact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--json",)):
        code, output = run(capsys, "verify", tmp_path, *options)
        assert code == 2, "neither intact nor proved to be broken"
        assert output.startswith(f"No chain in {tmp_path}: nothing was verified.")
        assert "If so, the whole audit log was removed" in output
    code, output = run(capsys, "verify", tmp_path, "--head", f"a:7:{'0' * 64}")
    assert (code, output) == (1, "BROKEN: the chain a is missing; a saved head is its line 7\n")


def test_unusable_public_key_is_reported(
    audit_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    (tmp_path / "private").write_bytes(private)
    (tmp_path / "junk").write_bytes(b"junk")
    for name, reason in (
        ("nowhere", "cannot be read: No such file or directory"),
        ("", "cannot be read: Is a directory"),
        ("private", "must be a public key, not the private key"),
        ("junk", "must be an Ed25519 public key in PEM"),
    ):
        code, output = run(capsys, "verify", audit_log, "--public-key", tmp_path / name)
        assert (code, output.partition(": ")[0]) == (2, str(tmp_path / name))
        assert reason in output


@pytest.mark.parametrize("command", ["verify", "search"])
def test_read_error_is_reported(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "segment-00000001.jsonl").symlink_to("/proc/self/mem")  # opens, but cannot be read
    assert run(capsys, command, tmp_path) == (2, "audit log: Input/output error\n")


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--subject", "ann", "--server", "SERVER-2"), [2, 6, 10]),
        (("--subject", "bob", "--event", "refused"), [3, 9]),
        (("--issuer", "lab"), [10, 11]),
        (("--project", "p1", "--since", "2027-01-15T08:09:00+00:00"), [9, 10, 11]),
        (
            (
                *("--subject", "ann", "--since", "2027-01-15T09:02:00+01:00"),
                *("--until", "2027-01-15T08:06:00+00:00"),
            ),
            [2, 4],
        ),
        (("--request-id", "request-7"), [7]),
        (("--subject", "nobody"), []),
    ],
)
def test_search_filters_records_of_all_chains(
    audit_log: Path,
    options: tuple[str, ...],
    numbers: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, output = run(capsys, "search", audit_log, *options, "--json")
    assert code == (0 if numbers else 1)
    found = [json.loads(line)["request_id"] for line in output.splitlines()]
    assert found == [f"request-{i}" for i in numbers]


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--since", "5m"), [7, 8, 9, 10, 11]),
        (("--since", "10m", "--until", "480s"), [2, 3]),
        (("--since", "1h"), [*range(12)]),
        (("--until", "1d"), []),
        (("--since", "2m", "--until", "2027-01-15T08:11:00Z"), [10]),
    ],
)
def test_search_accepts_spans_before_now(
    audit_log: Path,
    options: tuple[str, ...],
    numbers: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(times, "now", lambda: 1_800_000_720.0)
    _, output = run(capsys, "search", audit_log, "--project", "p1", *options, "--json")
    found = [json.loads(line)["request_id"] for line in output.splitlines()]
    assert found == [f"request-{i}" for i in numbers]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--since", "yesterday"),
            "must be an ISO 8601 time, or a time before now such as 30m",
        ),
        (("--until", "1w"), "must be an ISO 8601 time, or a time before now such as 30m"),
        (("--since", "-1h"), "expected one argument"),
        (("--since", "2026-01-01"), "needs a time zone"),
        (("--since", "1h", "--until", "2h"), "--since must be earlier than --until"),
    ],
)
def test_search_reports_an_invalid_time(
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, output = run(capsys, "search", tmp_path, *options)
    assert code == 2
    assert message in output


def test_search_prints_one_line_per_record(
    audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run(capsys, "search", audit_log, "--subject", "bob")
    assert code == 0
    lines = output.splitlines()
    assert len(lines) == 6
    assert lines[0] == (
        "2027-01-15T08:01:00.000+00:00  console_link_issued  allowed  corp/bob  ShowRemoteConsole"
        "  p1/server-1  rule policy.yaml:7  request request-1"
    )
    assert lines[2].endswith("two\\nlines")


def test_several_hosts_are_searched_and_verified_together(
    audit_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other-host"
    files = ChainFiles(other, clock=FakeClock(), segment_bytes_max=10_000, keep_s=0)
    files.commit([encode_record(AuditRecord(event="refused", at=1_800_000_090.0, subject="zoe"))])
    files.close()
    code, output = run(capsys, "search", audit_log, other, "--until", "2027-01-15T08:02:30+00:00")
    assert code == 0
    people = [line.split("  ")[3] for line in output.splitlines() if "corp/" in line]
    assert people == ["corp/ann", "corp/bob", "corp/ann"]
    assert output.index("zoe") < output.index("request-2")
    code, output = run(capsys, "verify", audit_log, other)
    assert code == 0
    assert output.count(": intact, chain ") == 3


@pytest.mark.parametrize(
    ("options", "is_found"),
    [
        (("--subject", "mallory"), "found"),
        (("--subject", "mallory", "--issuer", "corp"), "found"),
        (("--subject", "mallory", "--issuer", "partner"), ""),
        (("--subject", "ada", "--issuer", "corp"), "found"),
        (("--subject", "olga"), ""),
    ],
)
def test_search_finds_target_and_administrator_of_revocation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], is_found: str
) -> None:
    files = ChainFiles(tmp_path, clock=FakeClock(), segment_bytes_max=10_000, keep_s=0)
    record = AuditRecord(
        event="revoked", at=1.0, issuer="corp", subject="ada", target="corp:mallory"
    )
    files.commit([encode_record(record)])
    files.close()
    code, output = run(capsys, "search", tmp_path, "--event", "revoked", *options)
    assert (code, "target corp:mallory" in output) == ((0, True) if is_found else (1, False))


def test_search_names_session_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The session's ID is also that of its recording."""
    files = ChainFiles(tmp_path, clock=FakeClock(), segment_bytes_max=10_000, keep_s=0)
    session = ConsoleSessionFields(session="5c1d2f90", end="time_limit")
    record = AuditRecord(event="console_session_ended", at=1.0, subject="ada", extra=session)
    files.commit([encode_record(record)])
    files.close()
    code, output = run(capsys, "search", tmp_path)
    assert (code, "  session 5c1d2f90  end time_limit" in output) == (0, True), output


def archive_segments(audit_log: Path, *names: str) -> Path:
    """Move segments of the first chain to an archive directory; return it."""
    archive = audit_log.parent / "archive"
    (archive / "one").mkdir(parents=True)
    for name in names:
        (audit_log / "chain-1" / name).rename(archive / "one" / name)
    return archive


def test_archived_segments_are_verified_and_searched(
    audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = run(capsys, "search", audit_log, "--json")
    archive = archive_segments(audit_log, "segment-00000001.jsonl")
    keyed = ("--public-key", audit_log.parent / "key.pub")
    code, output = run(capsys, "verify", audit_log, *keyed)
    assert code == 1
    assert "segment 1 is missing" in output
    for directories in ((archive / "one", audit_log), (audit_log, archive / "one")):
        code, output = run(capsys, "verify", *directories, *keyed)
        assert code == 0, output
        assert output.count(": intact, chain ") == 2
        assert f"{audit_log / 'chain-1'}" in output
        assert f"{archive / 'one'}" in output
    assert run(capsys, "search", archive / "one", audit_log, "--json") == everything
    (archive / "one").rename(archive / "chain-9")
    assert run(capsys, "verify", archive, audit_log, *keyed)[0] == 0


def test_verify_detects_a_copied_chain(audit_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = audit_log / "chain-7"
    shutil.copytree(audit_log / "chain-1", copy)
    code, output = run(capsys, "verify", audit_log)
    assert code == 1
    assert f"BROKEN: {copy / max(copy.glob('segment-*')).name}: forked: " in output
    max(copy.glob("segment-*")).unlink()
    assert run(capsys, "verify", audit_log)[0] == 0
    everything = run(capsys, "search", audit_log, "--json")
    shutil.rmtree(copy)
    assert run(capsys, "search", audit_log, "--json") == everything


def test_verify_detects_a_missing_chain(
    audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (audit_log / "chain-1").rename(audit_log.parent / "moved")
    code, output = run(capsys, "verify", audit_log)
    assert code == 1
    assert "which is missing" in output
    assert run(capsys, "verify", audit_log, audit_log.parent / "moved")[0] == 0


def test_verify_reports_heads_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()
    files = ChainFiles(tmp_path, clock=clock, segment_bytes_max=10_000, keep_s=86_400.0)
    for _ in range(4):
        files.commit([encode_record(AuditRecord(event="refused", at=clock.now()))])
        asyncio.run(clock.advance(86_400.0))
    early = parse_line(lines_in(files.chain_directory)[1]).head
    files.remove_expired()
    files.close()
    code, output = run(capsys, "verify", tmp_path, "--head", early)
    assert code == 0
    assert f"not compared: retention removed line 2 of the chain {early.chain}" in output
    code, output = run(capsys, "verify", tmp_path, "--head", early, "--json")
    assert json.loads(output)["not_compared"] == [str(early)]


def test_search_reports_unreadable_lines(
    audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = max((audit_log / "chain-1").glob("segment-*"))
    last.write_bytes(b"\xff junk\n[]\n" + last.read_bytes())
    code, output = run(capsys, "search", audit_log)
    assert code == 0
    assert output.count("request request-") == 12
    assert f"2 unreadable lines, the first is {last}:1" in output


@pytest.mark.parametrize(
    "members",
    [
        b'"servers":[1]',
        b'"servers":5',
        b'"at":1e300',
        b'"at":null',
        b'"x":' + b"[" * 400 + b"]" * 400,
    ],
)
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_search_survives_malformed_lines(
    audit_log: Path, members: bytes, as_json: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    last = max((audit_log / "chain-1").glob("segment-*"))
    last.write_bytes(last.read_bytes() + b'{"event":"refused","at":1,%b}\n' % members)
    code, output = run(capsys, "search", audit_log, "--server", "server-1", *as_json)
    assert code == 0
    assert output.count("request-") == 3
    code, output = run(capsys, "search", audit_log, "--event", "refused", *as_json)
    assert code == 0
    assert output.count("request-") == 4


def test_search_ignores_case_of_server_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ChainFiles(tmp_path, clock=FakeClock(), segment_bytes_max=10_000, keep_s=0)
    for server in ("A-1", "a-1", "A-2"):
        record = AuditRecord(event="links_dropped", at=1_800_000_000.0, servers=(server,))
        files.commit([encode_record(record)])
    files.close()
    for server in ("a-1", "A-1"):
        code, output = run(capsys, "search", tmp_path, "--server", server)
        assert (code, len(output.splitlines())) == (0, 2)
