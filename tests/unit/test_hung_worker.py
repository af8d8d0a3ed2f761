"""A worker whose event loop stands still ends, so that its parent starts another."""

import subprocess
import sys

BEATS = "[(end_when_hung(2.0), time.sleep(0.3)) for _ in range(10)]"
"""They go on for longer than the time that is given from one to the next."""


def run(then: str) -> subprocess.CompletedProcess[str]:
    program = f"import time; from gateway.worker import end_when_hung; {BEATS}; {then}"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_loop_that_stands_still_ends_the_process_and_tells_where() -> None:
    ended = run("time.sleep(20)")
    assert ended.returncode == 1
    assert "most recent call first" in ended.stderr


def test_a_loop_that_goes_on_is_left_alone() -> None:
    ended = run("print('done')")
    assert (ended.returncode, ended.stdout) == (0, "done\n")
