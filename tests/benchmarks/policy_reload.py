"""A changed policy file: when it is in force in every worker, and the hit path's latency meanwhile.

The load is open-loop: a request is due at its time, whether or not earlier ones were answered, and
its latency counts from then.
"""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field

from tests.benchmarks.hit_path import NO_LIMIT, hit_request
from tests.support.stack import RunningGateway, Stack

_GRANTS = (10_000, 100_000)
_WORKERS = 2
_PER_S = 1_000
_CONNECTIONS = 32
_BEFORE_S = 4.0
_WITHIN_S = 60.0


def main() -> None:
    stack = Stack(change={"caller_limits": NO_LIMIT, "audit": {"stdout": True}}, workers=_WORKERS)
    try:
        request = hit_request(stack, stack.cloud.token(groups=["operators"]))
        for count in _GRANTS:
            text = policy_text(stack, count)
            before, during, in_force_s = asyncio.run(_reload(stack.gateway, request, text, count))
            print(
                f"a policy of {count:,} grants ({len(text) / 1e6:.1f} MB), {_WORKERS} workers:"
                f" in force everywhere after {in_force_s:.2f} s"
            )
            for name, found in (("before", before), ("meanwhile", during)):
                p50, p99, worst = (found.quantile(one) * 1e3 for one in (0.5, 0.99, 1.0))
                print(
                    f"  hits at {_PER_S}/s {name:9} p50 {p50:6.2f}  p99 {p99:6.2f}"
                    f"  worst {worst:6.2f} ms"
                )
    finally:
        stack.close()


def policy_text(stack: Stack, count: int) -> str:
    """Return a policy with `count` grants to as many people, and those of the stack."""
    lines = ["roles: {op: [console:open, server:read]}", "grants:"]
    project = stack.cloud.project
    lines.append(f"  - {{role: op, to: {{groups: [operators]}}, on: {{projects: [{project}]}}}}")
    lines += [
        f"  - role: op\n    to: {{users: [person-{i}]}}\n"
        f"    on: {{servers: [4fd9b0c4-55d6-4e3c-9bb6-{i:012x}]}}"
        for i in range(count - 1)
    ]
    return "\n".join(lines) + "\n"


@dataclass
class Latencies:
    seconds: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        found = sorted(self.seconds)
        return found[min(len(found) - 1, int(len(found) * share))]


class _Connection(asyncio.Protocol):
    """Sends each request when it is due; responses come in order."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._due: list[float] = []
        self._buffer = b""
        self.found = Latencies()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, due: float) -> None:
        self._due.append(due)
        if len(self._due) == 1:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        low = head.lower()
        length = int(low[low.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        assert head[9:12] == b"200", head
        self._buffer = body[length:]
        self.found.seconds.append(time.perf_counter() - self._due.pop(0))
        if self._due:
            self._transport.write(self._request)


async def _reload(
    gateway: RunningGateway, request: bytes, text: str, count: int
) -> tuple[Latencies, Latencies, float]:
    """Return the latencies before and during the reload, and its duration."""
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Connection(request), "127.0.0.1", gateway.port)
        for _ in range(_CONNECTIONS)
    ]
    connections = [connection for _, connection in made]
    sending = asyncio.create_task(_send(connections))
    try:
        await asyncio.sleep(1.0)
        _take(connections)
        await asyncio.sleep(_BEFORE_S)
        before = _take(connections)
        new = gateway.policy_file.with_suffix(".new")
        await asyncio.to_thread(new.write_text, text)
        began = time.perf_counter()
        new.replace(gateway.policy_file)
        await asyncio.to_thread(_wait, gateway, count)
        spent = time.perf_counter() - began
        await asyncio.sleep(0.5)
        return before, _take(connections), spent
    finally:
        sending.cancel()
        for transport, _ in made:
            transport.abort()


async def _send(connections: list[_Connection]) -> None:
    began, sent = time.perf_counter(), 0
    while True:
        while (due := began + sent / _PER_S) <= time.perf_counter():
            connections[sent % len(connections)].send(due)
            sent += 1
        await asyncio.sleep(0.0005)


def _take(connections: list[_Connection]) -> Latencies:
    found = Latencies([one for connection in connections for one in connection.found.seconds])
    for connection in connections:
        connection.found = Latencies()
    return found


def _wait(gateway: RunningGateway, count: int) -> None:
    """Wait until each worker has logged that the policy is in force: a scrape would cost more."""
    loaded, deadline = 0, time.monotonic() + _WITHIN_S
    with (gateway.directory / "log").open("rb") as log:
        log.seek(0, os.SEEK_END)
        while loaded < _WORKERS:
            assert time.monotonic() < deadline, "the policy is not in force"
            lines = [line for line in log if b'"policy_loaded"' in line and b'"rules":' in line]
            loaded += sum(json.loads(line)["rules"] == count for line in lines)
            time.sleep(0.01)


if __name__ == "__main__":
    main()
