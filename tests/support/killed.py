"""Processes that die by a real SIGKILL before one of their system calls: no handler, no `finally`.

What the operating system has accepted until then stays, and the locks of the process are released.
"""

import io
import os
import signal
from collections.abc import Callable
from typing import Any, Final

_CALLS: Final = (
    *("open", "write", "pwritev", "fsync", "ftruncate"),
    *("mkdir", "rename", "unlink", "rmdir"),
)


def fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work` in a process with the writing end of a pipe; return its ID and the reading end."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        try:
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    return process, reader


def dies_before(call: int, work: Callable[[Callable[[bytes], None]], None]) -> tuple[bool, bytes]:
    """Run `work` in a process that is killed before the system call of this number, from 1 on.

    Return whether it was killed, and what `work` has reported until then. If the call is a write,
    half of its bytes are written.
    """

    def run(writer: int) -> None:
        write = os.write
        _count_calls(call)
        work(lambda data: _ignore(write(writer, data)))

    process, reader = fork(run)
    with os.fdopen(reader, "rb") as pipe:
        reported = pipe.read()
    _, status = os.waitpid(process, 0)
    was_killed = os.WIFSIGNALED(status)
    assert not was_killed or os.WTERMSIG(status) == signal.SIGKILL
    return was_killed, reported


def _count_calls(last: int) -> None:
    """Kill this process before its call of the number `last`."""
    count = 0

    def die_if_due(torn: Callable[[], object] = lambda: None) -> None:
        nonlocal count
        count += 1
        if count == last:
            torn()
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def do(*arguments: Any, **options: Any) -> Any:
            if name == "write":
                fd, data = arguments
                die_if_due(lambda: call(fd, data[: len(data) // 2]))
            else:
                die_if_due()
            return call(*arguments, **options)

        return do

    def open_and_die(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        opened = open_file(file, mode, *arguments, **options)
        if mode.strip("rbt"):
            die_if_due()  # a file that is written anew is empty now
        return opened

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name), name))
    open_file, io.open = io.open, open_and_die


def _ignore(_: int) -> None:
    pass
