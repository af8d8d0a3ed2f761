"""Handover: entries that one worker stores and another reads."""

import os
import signal
import subprocess
import sys

from gateway.drivers.host.handover import Handover, HandoverEntry


def test_get_returns_the_latest_entry() -> None:
    handover = Handover()
    assert handover.get("a") is None
    handover.put("a", b"long, " * 100, at=1.0)
    handover.put("b", b"beside", at=1.0)
    handover.put("a", b"later", at=2.0)
    handover.put("a", b"older, stored late", at=1.5)
    assert handover.get("a") == HandoverEntry(2.0, b"later")
    assert handover.get("b") == HandoverEntry(1.0, b"beside")


_CONCURRENT_PUTS = """
import os
from gateway.drivers.host.handover import Handover
handover = Handover()
workers = []
for worker in range(4):
    pid = os.fork()
    if pid == 0:
        for i in range(200):
            handover.put(f"{worker} {i % 10}", b"x" * i, at=float(i))
        os._exit(0)
    workers.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 4
assert all(len(handover.get(f"{w} {i}").text) == 190 + i for w in range(4) for i in range(10))
"""


def test_turn_ends_with_its_process() -> None:
    handover = Handover()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"1" if handover.try_turn() else b"0")
        signal.pause()
    assert os.read(read, 1) == b"1"
    assert not handover.try_turn()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert handover.try_turn()
    handover.end_turn()


def test_concurrent_workers_keep_each_other_s_entries() -> None:
    assert (
        subprocess.run([sys.executable, "-c", _CONCURRENT_PUTS], timeout=60, check=False).returncode
        == 0
    )


_KILLED_WRITER = """
import os, signal
from gateway.drivers.host import handover
entries = handover.Handover()
entries.put("a", b"text", at=1.0)
pid = os.fork()
if pid == 0:
    def killed(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    handover.os.pwrite = killed
    entries.put("a", b"other", at=2.0)
os.waitpid(pid, 0)
assert entries.get("a") is None
entries.put("a", b"again", at=3.0)
assert entries.get("a").text == b"again"
"""


def test_killed_writer_leaves_no_entry_and_no_lock() -> None:
    assert (
        subprocess.run([sys.executable, "-c", _KILLED_WRITER], timeout=60, check=False).returncode
        == 0
    )
