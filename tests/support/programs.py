"""Processes of the gateway's programs, started in milliseconds.

A Python that imports the gateway needs most of a second of CPU, and the tests start it hundreds of
times. Inside `prepared()` a `Program` is a fork of a process that has imported it already. It has
its own process ID, is a child of the caller, and has the signals, streams, environment and exit
code of `python -m`. Its hash seed is that of the other programs of this test process.

A test of the start itself uses `subprocess`. So does a program with inherited descriptors.
"""

import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, AnyStr

_ROOT = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER = 36
_READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_")
"""Python and the C library read these variables once."""


class Program(subprocess.Popen[AnyStr]):
    """`python -m MODULE ARGUMENTS`, with the options of Popen."""

    def __init__(self, module: str, *arguments: str, **options: Any) -> None:
        super().__init__([sys.executable, "-m", module, *arguments], **options)

    def _execute_child(self, *values: Any) -> None:
        start = super()._execute_child  # type: ignore[misc]
        options = inspect.signature(start).bind(*values).arguments
        environ = dict(os.environ if options["env"] is None else options["env"])
        if _preparation is None or not _preparation.is_suitable(environ):
            start(*values)
            return
        assert not options["pass_fds"], "use subprocess"
        assert options["preexec_fn"] is None, "use subprocess"
        standard = ("p2cread", "c2pwrite", "errwrite")
        streams = [options[name] for name in standard]
        self.pid = _preparation.start(
            {
                "module": options["args"][2],
                "arguments": options["args"][3:],
                "environ": environ,
                "directory": os.fspath(options["cwd"] or Path.cwd()),
                "new_session": options["start_new_session"],
            },
            [number if stream == -1 else stream for number, stream in enumerate(streams)],
        )
        self._child_created = True
        both_ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(options[name] for name in both_ends))  # type: ignore[attr-defined]


def run(
    module: str,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; `environ` extends the environment of this process."""
    with Program[str](
        module,
        *arguments,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            output, errors = program.communicate(timeout=timeout_s)
        except BaseException:
            program.kill()
            raise
    return subprocess.CompletedProcess(program.args, program.returncode, output, errors)


@contextmanager
def prepared() -> Iterator[None]:
    """Start the programs meanwhile from a process that has imported them, where Linux allows it."""
    global _preparation  # noqa: PLW0603 - a fixture of the whole run sets it
    if sys.platform != "linux":
        yield
        return
    _preparation = _Preparation()
    try:
        yield
    finally:
        _preparation.close()
        _preparation = None


class _Preparation:
    """The client of `tests.support.program_server`, which the first program starts."""

    def __init__(self) -> None:
        self._environ = _read_at_start(os.environ)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control, self._of_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def is_suitable(self, environ: Mapping[str, str]) -> bool:
        return _read_at_start(environ) == self._environ

    def start(self, program: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Start a program as a child of this process; return its process ID."""
        message = json.dumps(program).encode()
        with self._lock, _adopting():
            if self._process is None:
                self._process = self._start_server()
            socket.send_fds(self._control, [message], streams)
            pid = self._control.recv(100)
            if not pid or self._control.recv(100) != b"adopted":
                raise RuntimeError("the program server has ended")
            return int(pid)

    def _start_server(self) -> subprocess.Popen[bytes]:
        with self._of_server:
            descriptor = self._of_server.fileno()
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.program_server", str(descriptor)],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[descriptor],
            )

    def close(self) -> None:
        self._control.close()
        self._of_server.close()
        if self._process is not None:
            self._process.wait(60)


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(_READ_AT_START)}


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of a process when its own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


_preparation: _Preparation | None = None
