"""How a command ends after SIGINT, without a reader, and with a full disk."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.domain.audit.record import AuditRecord, encode_record
from gateway.drivers.audit.file_store import ChainFiles
from tests.support.clock import FakeClock
from tests.support.programs import Program
from tests.support.stack import Stack

INTERRUPTED, READER_LEFT, NOT_WRITTEN = 130, 141, 1


def start(*words: str, **options: int | dict[str, str]) -> "subprocess.Popen[bytes]":
    with_defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return Program("gateway", *words, **with_defaults)


def finish(command: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Return the exit code and the output."""
    out, err = command.communicate(timeout=60)
    return command.returncode, ((out or b"") + err).decode()


@pytest.fixture
def commands(stack: Stack, tmp_path: Path) -> list[list[str]]:
    """Return commands that print something, each from another module."""
    chain = ChainFiles(tmp_path / "audit", clock=FakeClock(), segment_bytes_max=100_000, keep_s=0)
    record = AuditRecord(event="refused", at=1_800_000_000.0, subject="ann")
    chain.commit([encode_record(record)])
    chain.close()
    config = ["--config", str(stack.gateway.config_file)]
    token = tmp_path / "token"
    token.write_text(stack.cloud.token())
    return [
        ["--help"],
        ["check", *config],
        ["explain", *config, "--user", "olga", stack.cloud.project],
        ["audit", "verify", "--json", str(tmp_path / "audit")],
        ["audit", "search", str(tmp_path / "audit")],
        ["servers", "--gateway", stack.gateway.url, "--token-file", str(token)],
    ]


def start_without_reader(*words: str, **options: dict[str, str]) -> "subprocess.Popen[bytes]":
    reads, writes = os.pipe()
    os.close(reads)
    command = start(*words, stdout=writes, **options)
    os.close(writes)
    return command


def test_closed_reader_ends_a_command_silently(commands: Sequence[Sequence[str]]) -> None:
    for words in commands:
        assert finish(start_without_reader(*words)) == (READER_LEFT, ""), words


def test_closed_reader_ends_an_unbuffered_command_silently(
    commands: Sequence[Sequence[str]],
) -> None:
    """One that argparse prints and one that a command prints: all share the stream."""
    for words in commands[:2]:
        command = start_without_reader(*words, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert finish(command) == (READER_LEFT, ""), words


def test_full_disk_is_reported_in_one_sentence(commands: Sequence[Sequence[str]]) -> None:
    for words in commands:
        with Path("/dev/full").open("wb") as full:
            command = start(*words, stdout=full.fileno())
        output = "The output cannot be written: No space left on device.\n"
        assert finish(command) == (NOT_WRITTEN, output), words


def test_closed_stdout_is_accepted(commands: Sequence[Sequence[str]]) -> None:
    for words in commands:
        ran = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "gateway", *words],
            stderr=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
        assert b"Traceback" not in ran.stderr, words


def test_sigint_during_imports_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise KeyboardInterrupt")
    words = ("check", "--config", "gateway.yaml")
    command = start(*words, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert finish(command) == (INTERRUPTED, "")


def test_sigint_ends_a_command_that_waits(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        store = {**stack.gateway.config["store"], "redis": {"url": f"redis://{address}"}}
        store["timeout_s"] = 10
        gateway = stack.replica(change={"store": store}, start=False)
        config = ("--config", str(gateway.config_file))
        for words in (
            ("check", *config, "--online"),
            ("audit", "export", *config, str(tmp_path / "out")),
            ("servers", "--gateway", f"http://{address}", "--token-env", "PATH"),
        ):
            command = start(*words)
            connection, _ = silent.accept()
            with connection:
                command.send_signal(signal.SIGINT)
                code, output = finish(command)
            assert code == INTERRUPTED, output
            assert "Traceback" not in output
