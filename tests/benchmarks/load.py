"""HTTP load on raw sockets, and the CPU time of the server.

CPU per request is compared. It does not depend on the speed of this client, and little on the
other load of the machine.
"""

import asyncio
import math
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    requests: int
    seconds: float
    server_cpu_s: float
    statuses: dict[int, int]

    @property
    def cpu_us(self) -> float:
        """Server CPU per request, in microseconds."""
        return self.server_cpu_s / self.requests * 1e6

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


class _Client(asyncio.Protocol):
    def __init__(self, request: bytes, statuses: dict[int, int], every_s: float) -> None:
        """`every_s`: interval between requests; 0: a closed loop."""
        self._request = request
        self._statuses = statuses
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + random.random() * every_s
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        low = head.lower()
        at = low.index(b"content-length:") + 15
        length = int(low[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        status = int(head[9:12])
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._due = max(self._due + self._every_s, self._loop.time() - self._every_s)
        self._send()

    def _send(self) -> None:
        if self._due > self._loop.time():
            self._loop.call_at(self._due, self._send)
        elif not self.stopped and self._transport is not None:
            self._transport.write(self._request)


async def measure(
    host: str,
    port: int,
    pids: list[int],
    request: bytes,
    *,
    seconds: float,
    connections: int = 16,
    per_s: float = math.inf,
) -> Measured:
    """Load a server after a warm-up and measure the CPU time of its processes.

    The load is `per_s` requests per second, or a closed loop.
    """
    loop = asyncio.get_running_loop()
    statuses: dict[int, int] = {}
    made = [
        await loop.create_connection(
            lambda: _Client(request, statuses, connections / per_s), host, port
        )
        for _ in range(connections)
    ]
    await asyncio.sleep(min(1.0, seconds / 3))
    statuses.clear()
    cpu, began = cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(seconds)
    spent, span = cpu_seconds(pids) - cpu, time.perf_counter() - began
    seen = dict(statuses)
    for transport, client in made:
        client.stopped = True
        transport.close()
    return Measured(sum(seen.values()), span, spent, seen)


def cpu_seconds(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
