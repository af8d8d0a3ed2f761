"""The supervisor and workers that stall, are paused, or do not start."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROGRAM = """
import ctypes, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from gateway.drivers.host.handover import Handovers
from gateway.process import supervisor

def work(plan):
    print(os.getpid(), flush=True)
    if sys.argv[2] == "does not start":
        time.sleep(60)
    os.write(plan.ready_fd, b"1")
    for _ in range(6):  # for longer than a stall may last
        plan.watchdog.beat()
        time.sleep(0.3)
    while sys.argv[2] == "runs":
        plan.watchdog.beat()
        time.sleep(0.1)
    if sys.argv[2] == "waits":
        time.sleep(60)
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter lock: no Python thread runs
    time.sleep(60)

supervisor._HUNG_AFTER_S = 2.5
supervisor._STACK_DUMP_TIMEOUT_S = 3.0  # a busy machine may not run the worker for a while
supervisor._CHECK_INTERVAL_S = 0.3
here = SimpleNamespace(host="127.0.0.1", port=0, unix_socket=None, unix_mode=0o660)
request = SimpleNamespace(drain_delay_s=0.0, drain_s=0.0)
any_port = lambda workers: range(0)
config = SimpleNamespace(
    listen=here,
    admin=here,
    admin_ports=any_port,
    request=request,
    accounts=(),
    issuers=(),
    delivers_proxied=False,
)
file = Path(sys.argv[1])
parent = supervisor.Supervisor(
    file, lambda: config, work, workers=1, config=config, handovers=Handovers()
)
sys.exit(parent.run())
"""


class SupervisorProcess:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.began_at = time.monotonic()

    def next_worker(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self) -> str:
        """Stop it; return its stderr."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[1]


@contextmanager
def supervisor_process(tmp_path: Path, behaviour: str) -> Iterator[SupervisorProcess]:
    config = tmp_path / "gateway.yaml"
    config.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(config), behaviour],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield SupervisorProcess(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("behaviour", ["waits", "holds the lock"])
def test_stalled_worker_dumps_stacks_and_is_replaced(tmp_path: Path, behaviour: str) -> None:
    with supervisor_process(tmp_path, behaviour) as running:
        first, second = running.next_worker(), running.next_worker()
        assert time.monotonic() - running.began_at > 2.5
        stderr = running.end()
    assert first != second
    assert "most recent call first" in stderr
    assert "in work" in stderr
    assert "worker_hung" in stderr


def test_running_or_paused_worker_is_left_alone(
    tmp_path: Path,
) -> None:
    with supervisor_process(tmp_path, "runs") as running:
        worker = running.next_worker()
        for paused in (
            [worker],
            [worker, running.process.pid],
        ):  # both, as when a container is paused
            for pid in paused:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(3.5)
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
            time.sleep(0.5)
        os.kill(worker, 0)
        stderr = running.end()
    assert "worker_hung" not in stderr


def test_sigterm_interrupts_a_worker_start(tmp_path: Path) -> None:
    with supervisor_process(tmp_path, "does not start") as running:
        running.next_worker()
        running.end()  # it waits less than the worker sleeps
        assert running.process.returncode == 0
