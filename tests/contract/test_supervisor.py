"""What the parent does about workers that stand still, are paused, or do not come up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PARENT = """
import ctypes, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from gateway.process import supervisor

def work(plan):
    print(os.getpid(), flush=True)
    if sys.argv[2] == "does not come up":
        time.sleep(60)
    os.write(plan.ready_fd, b"1")
    for _ in range(6):  # for longer than the time that is given from one to the next
        plan.watchdog.beat()
        time.sleep(0.3)
    while sys.argv[2] == "goes on":
        plan.watchdog.beat()
        time.sleep(0.1)
    if sys.argv[2] == "waits":
        time.sleep(60)
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock: no thread of Python goes on
    time.sleep(60)

supervisor._HUNG_AFTER_S = 1.5
supervisor._CHECK_INTERVAL_S = 0.3
here = SimpleNamespace(host="127.0.0.1", port=0)
request = SimpleNamespace(drain_delay_s=0.0, drain_s=0.0)
any_port = lambda workers: range(0)
config = SimpleNamespace(listen=here, admin=here, admin_ports=any_port, request=request)
file = Path(sys.argv[1])
parent = supervisor.Supervisor(file, lambda: config, work, workers=1, config=config)
sys.exit(parent.run())
"""


class Parent:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.began_at = time.monotonic()

    def next_worker(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self) -> str:
        """Return what was said on stderr."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[1]


@contextmanager
def parent(tmp_path: Path, what: str) -> Iterator[Parent]:
    config = tmp_path / "gateway.yaml"
    config.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(config), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Parent(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("what", ["waits", "holds the lock"])
def test_one_that_stands_still_tells_where_and_ends_and_another_is_started(
    tmp_path: Path, what: str
) -> None:
    with parent(tmp_path, what) as one:
        first, second = one.next_worker(), one.next_worker()
        assert time.monotonic() - one.began_at > 3
        said = one.end()
    assert first != second
    assert "most recent call first" in said
    assert "in work" in said
    assert "worker_hung" in said


def test_one_that_goes_on_is_left_alone_and_so_is_one_that_was_paused_from_outside(
    tmp_path: Path,
) -> None:
    with parent(tmp_path, "goes on") as one:
        worker = one.next_worker()
        for paused in ([worker], [worker, one.process.pid]):  # as a container is, as a whole
            for pid in paused:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(2.5)
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.5)
        os.kill(worker, 0)
        said = one.end()
    assert "worker_hung" not in said


def test_the_end_is_heard_while_a_worker_comes_up(tmp_path: Path) -> None:
    with parent(tmp_path, "does not come up") as one:
        one.next_worker()
        began_at = time.monotonic()
        one.end()
        assert time.monotonic() - began_at < 5
        assert one.process.returncode == 0
