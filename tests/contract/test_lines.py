"""Log lines to a pipe: the writer never waits for the reader."""

import os
import time

import pytest

from gateway.drivers.telemetry import line_writer
from gateway.drivers.telemetry.line_writer import LineWriter
from tests.contract.test_stdout_audit_log import Pipe


def read_lines(pipe: Pipe, count: int) -> list[bytes]:
    """Read lines that are not empty: the pipe may be filled with empty ones."""
    found, lines, until = b"", [], time.monotonic() + 60
    while len(lines) < count and time.monotonic() < until:
        found += pipe.read()
        lines = [line for line in found[: found.rfind(b"\n") + 1].split(b"\n") if line]
        time.sleep(0.01)
    return lines


def test_lines_arrive_in_order() -> None:
    pipe = Pipe()
    writer = LineWriter(pipe.writing)
    for i in range(3_000):
        writer.write(b"%d\n" % i)
    assert read_lines(pipe, 3_000) == [b"%d" % i for i in range(3_000)]
    writer.close()
    assert writer.dropped == 0
    pipe.close()


def test_close_writes_all_pending_lines() -> None:
    pipe = Pipe()
    writer = LineWriter(pipe.writing)
    writer.write_all([b"one\n", b"two\n"])
    writer.close()
    writer.write(b"three\n")
    assert pipe.read() == b"one\ntwo\nthree\n"
    pipe.close()


def test_stalled_reader_drops_and_counts_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_writer, "_FLUSH_TIMEOUT_S", 0.2)
    pipe = Pipe()
    pipe.fill()
    writer = LineWriter(pipe.writing)
    began = time.monotonic()
    for i in range(50_000):
        writer.write(b"%d\n" % i)
    writer.close()
    assert time.monotonic() - began < 30
    assert 30_000 < writer.dropped < 45_000
    written = 50_000 - writer.dropped
    found = [int(line) for line in read_lines(pipe, written)]
    # Which lines are dropped depends on when the thread first runs.
    assert (len(found), found[0]) == (written, 0)
    assert found == sorted(set(found))
    pipe.close()


def test_failed_lines_are_counted() -> None:
    pipe, other = Pipe(), Pipe()
    os.close(pipe.reading)
    writer = LineWriter(pipe.writing)
    writer.write(b"lost\n")
    until = time.monotonic() + 60
    while not writer.dropped and time.monotonic() < until:
        time.sleep(0.01)
    os.dup2(other.writing, pipe.writing)
    writer.write(b"next\n")
    writer.close()
    assert other.read() == b"next\n"
    assert writer.dropped == 1
    os.close(pipe.writing)
    other.close()
