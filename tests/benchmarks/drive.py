"""A load client on raw sockets that is faster than what it measures: one thread, no event loop.

`closed` keeps each connection busy and measures throughput. `opened` sends at set times, whatever
the server does, and measures each response from the time at which its request was due: a server
that stalls is charged for every request that had to wait (no coordinated omission).
"""

import random
import re
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_RECEIVED_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Throughput:
    requests: int
    seconds: float
    server_cpu_s: float

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU of the server per request, user and system, in microseconds."""
        return self.server_cpu_s / self.requests * 1e6


class _Connection:
    __slots__ = ("buffer", "due_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.buffer = b""
        self.due_at = 0.0

    def status(self) -> int:
        """Receive; return the status of a complete response, or 0."""
        received = self.socket.recv(_RECEIVED_MAX)
        assert received, "the server closed the connection"
        self.buffer = self.buffer + received if self.buffer else received
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return 0
        length = _LENGTH.search(self.buffer)
        if length is None or len(self.buffer) < end + 4 + int(length[1]):
            return 0
        status = int(self.buffer[9:12])
        self.buffer = b""
        return status


class Driver:
    """Connections to one server, which send the given requests in turn."""

    def __init__(
        self, port: int, requests: Sequence[bytes], *, connections: int, pids: Sequence[int]
    ) -> None:
        """`pids` are the processes of the server."""
        self._requests = requests
        self._pids = pids
        self._sent = 0
        self._statuses: Counter[int] = Counter()
        self._connections = [_Connection(port) for _ in range(connections)]
        self._by_descriptor = {one.socket.fileno(): one for one in self._connections}
        self._epoll = select.epoll()
        for descriptor in self._by_descriptor:
            self._epoll.register(descriptor, select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()
        for one in self._connections:
            one.socket.close()

    def serve_all(self, passes: int) -> None:
        """Send each request so many times, and expect a link for each."""
        for _ in range(passes * len(self._requests)):
            one = self._connections[self._sent % len(self._connections)]
            self._send(one)
            self._finish(1)

    def closed(self, *, warm_up_s: float, seconds: float) -> Throughput:
        """Load the server with as many requests at once as there are connections."""
        for one in self._connections:
            self._send(one)
        self._run_closed(warm_up_s)
        cpu_s, began = cpu_seconds(self._pids), time.perf_counter()
        before = self._statuses.total()
        self._run_closed(seconds)
        requests, span = self._statuses.total() - before, time.perf_counter() - began
        measured = Throughput(requests, span, cpu_seconds(self._pids) - cpu_s)
        self._finish(len(self._connections))
        return measured

    def _run_closed(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        poll, by_descriptor, statuses = self._epoll.poll, self._by_descriptor, self._statuses
        while time.perf_counter() < until:
            for descriptor, _ in poll(1.0):
                one = by_descriptor[descriptor]
                status = one.status()
                if status:
                    statuses[status] += 1
                    self._send(one)

    def opened(self, *, per_s: float, seconds: float, spins: bool, seed: int = 1) -> list[float]:
        """Send at random times (Poisson), `per_s` on average; return the latencies, sorted.

        `spins`: wait actively, for exact times; the client then has its core for itself.
        """
        rng = random.Random(seed)
        began = due_at = time.perf_counter()
        waiting: deque[float] = deque()
        idle = list(self._connections)
        latencies: list[float] = []
        due_at += rng.expovariate(per_s)
        while due_at < began + seconds or waiting or len(idle) < len(self._connections):
            now = time.perf_counter()
            while due_at <= now and due_at < began + seconds:
                waiting.append(due_at)
                due_at += rng.expovariate(per_s)
            while waiting and idle:
                one = idle.pop()
                one.due_at = waiting.popleft()
                self._send(one)
            for one in self._ready(0.0 if spins else max(0.0, min(0.1, due_at - now))):
                status = one.status()
                if status:
                    latencies.append(time.perf_counter() - one.due_at)
                    self._statuses[status] += 1
                    idle.append(one)
        self._assert_served()
        return sorted(latencies)

    def _ready(self, timeout_s: float) -> list[_Connection]:
        if not timeout_s:
            return [self._by_descriptor[descriptor] for descriptor, _ in self._epoll.poll(0)]
        # epoll waits for whole milliseconds.
        found = select.select(list(self._by_descriptor), [], [], timeout_s)[0]
        return [self._by_descriptor[descriptor] for descriptor in found]

    def _send(self, one: _Connection) -> None:
        request = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        sent = one.socket.send(request)
        assert sent == len(request)

    def _finish(self, outstanding: int) -> None:
        until = time.perf_counter() + 20
        while outstanding and time.perf_counter() < until:
            for one in self._ready(1.0):
                status = one.status()
                if status:
                    self._statuses[status] += 1
                    outstanding -= 1
        assert not outstanding
        self._assert_served()

    def _assert_served(self) -> None:
        assert set(self._statuses) == {200}, self._statuses


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of all threads of the processes, to the nanosecond."""
    return (
        sum(
            int(thread.read_text().split()[0])
            for pid in pids
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat")
        )
        / 1e9
    )
