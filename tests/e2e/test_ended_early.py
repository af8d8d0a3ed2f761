"""How a command ends at Ctrl-C, when its reader leaves, and when its output is on a full disk."""

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
from tests.support.stack import Stack

INTERRUPTED, READER_LEFT, NOT_WRITTEN = 130, 141, 1


def started(*words: str, **options: int | dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a command. A test run that is a background job ignores SIGINT; the command does not."""
    with_defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", *words],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        **with_defaults,
    )


def ended(command: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Return the exit code, and all that is said."""
    out, err = command.communicate(timeout=60)
    return command.returncode, ((out or b"") + err).decode()


@pytest.fixture
def commands(stack: Stack, tmp_path: Path) -> list[list[str]]:
    """Commands that have something to print, each by a module of its own."""
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


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_mistake(
    commands: Sequence[Sequence[str]], unbuffered: str
) -> None:
    for words in commands:
        reads, writes = os.pipe()
        os.close(reads)
        command = started(*words, stdout=writes, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
        os.close(writes)
        assert ended(command) == (READER_LEFT, ""), words


def test_a_full_disk_is_told_in_one_sentence(commands: Sequence[Sequence[str]]) -> None:
    for words in commands:
        with Path("/dev/full").open("wb") as full:
            command = started(*words, stdout=full.fileno())
        said = "The output cannot be written: No space left on device.\n"
        assert ended(command) == (NOT_WRITTEN, said), words


def test_an_output_that_was_closed_before_is_none(commands: Sequence[Sequence[str]]) -> None:
    for words in commands:
        ran = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&-', "sh", sys.executable, "-m", "gateway", *words],
            stderr=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
        assert b"Traceback" not in ran.stderr, words


def test_ctrl_c_among_the_imports_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise KeyboardInterrupt")
    words = ("check", "--config", "gateway.yaml")
    command = started(*words, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert ended(command) == (INTERRUPTED, "")


def test_ctrl_c_ends_whatever_waits_for_others(stack: Stack, tmp_path: Path) -> None:
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
            command = started(*words)
            connection, _ = silent.accept()
            with connection:
                command.send_signal(signal.SIGINT)
                code, said = ended(command)
            assert code == INTERRUPTED, said
            assert "Traceback" not in said
