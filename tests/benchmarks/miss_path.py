"""The miss path beside a plain aiohttp handler: every request is for a link that is not stored."""

import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from tests.benchmarks.load import children, cpu_seconds
from tests.benchmarks.proxy_path import service_token
from tests.support.stack import CloudProcess, Stack, console_path, eventually, fetch
from tests.support.valkey import free_port

_ROUNDS = 5
_SECONDS = 2.0
_CONNECTIONS = 32
_PER_S = 300
_PEOPLE, _SERVERS = 200, 400
_NO_LIMIT = {"requests": 1e7, "per_s": 1, "burst": 100_000}
_BUDGET = {
    "console": {"requests": 100_000, "per_s": 1, "burst": 1_000},
    "iam": {"requests": 50, "per_s": 1, "burst": 5},
}


@dataclass(slots=True)
class _Run:
    """One round against one server."""

    cpu_us: float = 0.0
    per_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def quantile_ms(self, share: float) -> float:
        return sorted(self.waits_s)[int(share * len(self.waits_s))] * 1e3


class _Client(asyncio.Protocol):
    """One connection: sends a request, reports its response, and is free for the next."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._buffer = b""
        self._sent_for = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes, due: float) -> None:
        self._sent_for = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self._buffer = body[length:]
            self._load.responded(self, int(head[9:12]), self._sent_for)


class _Load:
    """A closed loop, or requests at fixed times whose wait counts from the time they are due."""

    def __init__(self, requests: Iterator[bytes], *, per_s: float | None) -> None:
        self.run = _Run()
        self._requests = requests
        self._per_s = per_s
        self._loop = asyncio.get_running_loop()
        self._free: deque[_Client] = deque()
        self._due: deque[float] = deque()
        self._stopped = False

    async def measure(self, port: int, pids: list[int]) -> _Run:
        clients = []
        for _ in range(_CONNECTIONS):
            _, client = await self._loop.create_connection(lambda: _Client(self), "127.0.0.1", port)
            clients.append(client)
        self._free.extend(clients)
        if self._per_s is None:
            self._due.extend([self._loop.time()] * _CONNECTIONS)
            self._send_due()
        else:
            self._tick(self._loop.time())
        await asyncio.sleep(0.5)
        self.run = run = _Run()
        cpu, began = cpu_seconds(pids), time.perf_counter()
        await asyncio.sleep(_SECONDS)
        spent, span = cpu_seconds(pids) - cpu, time.perf_counter() - began
        count = sum(run.statuses.values())
        run.cpu_us, run.per_s = spent / count * 1e6, count / span
        self._stopped, self.run = True, _Run()
        await asyncio.sleep(0.3)
        for client in clients:
            client.transport.close()
        return run

    def responded(self, client: _Client, status: int, due: float) -> None:
        self.run.statuses[status] += 1
        self.run.waits_s.append(self._loop.time() - due)
        self._free.append(client)
        if self._per_s is None and not self._stopped:
            self._due.append(self._loop.time())
        self._send_due()

    def _tick(self, due: float) -> None:
        if self._stopped or self._per_s is None:
            return
        self._due.append(due)
        self._send_due()
        following = due + random.expovariate(self._per_s)
        self._loop.call_at(following, self._tick, following)

    def _send_due(self) -> None:
        while self._due and self._free:
            self._free.popleft().send(next(self._requests), self._due.popleft())


def main() -> None:
    with ExitStack() as stack:
        cloud_port, plain_port = free_port(), free_port()
        _start(stack, "cloud", cloud_port, {})
        upstream = f"http://127.0.0.1:{cloud_port}"
        account = {"budget": _BUDGET, "endpoint": upstream}
        change = {"caller_limits": _NO_LIMIT}
        if os.environ.get("AUDIT") == "stdout":
            change["audit"] = {"stdout": True}
        running = Stack(CloudProcess(servers=_SERVERS + 1), change=change, account=account)
        stack.callback(running.close)
        environ = {
            "PEER_REDIS": running.valkey.url,
            "PEER_PUBLIC_KEY": _public_key(running.cloud),
            "PEER_TOKEN": service_token(running.cloud),
            "PEER_UPSTREAM": upstream,
        }
        peer = _start(stack, "plain", plain_port, environ)
        servers = {
            "gateway": (running.gateway.port, children(running.gateway.pid)),
            "plain": (plain_port, [peer.pid]),
        }
        requests = dict(zip(servers, itertools.repeat(None), strict=False))
        made = _requests(running.cloud)
        each = {name: _endless(made, seed) for seed, name in enumerate(requests)}
        for port, _ in servers.values():
            _await_answer(port, next(each["gateway"]))
        _print(servers, each)


def _print(servers: dict[str, tuple[int, list[int]]], requests: dict[str, Iterator[bytes]]) -> None:
    busy: dict[str, list[_Run]] = {name: [] for name in servers}
    calm: dict[str, list[_Run]] = {name: [] for name in servers}
    for _ in range(_ROUNDS):
        for found, per_s in ((busy, None), (calm, float(_PER_S))):
            for name, (port, pids) in servers.items():
                run = asyncio.run(_measure(requests[name], per_s, port, pids))
                assert set(run.statuses) == {200}, (name, run.statuses)
                found[name].append(run)
    print(f"miss path, one process each, {_CONNECTIONS} connections (medians of {_ROUNDS} rounds)")
    for name in servers:
        rate = statistics.median(one.per_s for one in busy[name])
        cpu = statistics.median(one.cpu_us for one in busy[name])
        calm_cpu = statistics.median(one.cpu_us for one in calm[name])
        p50, p99 = (
            statistics.median(one.quantile_ms(share) for one in calm[name]) for share in (0.5, 0.99)
        )
        print(
            f"  {name:8} {rate:6.0f}/s {cpu:6.0f} µs of CPU;  at {_PER_S}/s: {calm_cpu:6.0f} µs, "
            f"p50 {p50:5.2f} ms, p99 {p99:5.2f} ms"
        )
    ratios = [
        ours.cpu_us / theirs.cpu_us
        for ours, theirs in zip(busy["gateway"], busy["plain"], strict=True)
    ]
    waits = [
        ours.quantile_ms(0.5) / theirs.quantile_ms(0.5)
        for ours, theirs in zip(calm["gateway"], calm["plain"], strict=True)
    ]
    print(
        f"  gateway / plain: CPU {statistics.median(ratios):.2f}  (target: at most 1.0), "
        f"p50 {statistics.median(waits):.2f}  (target: at most 2.0)"
    )


async def _measure(
    requests: Iterator[bytes], per_s: float | None, port: int, pids: list[int]
) -> _Run:
    return await _Load(requests, per_s=per_s).measure(port, pids)


def _requests(cloud: CloudProcess) -> list[bytes]:
    tokens = [cloud.token(f"person-{i}") for i in range(_PEOPLE)]
    return [
        f"GET {console_path(cloud.project, server)} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
        for token in tokens
        for server in cloud.servers[:_SERVERS]
    ]


def _endless(requests: list[bytes], seed: int) -> Iterator[bytes]:
    """Return each request once, in random order; more would be hits."""
    order = list(range(len(requests)))
    random.Random(seed).shuffle(order)
    return (requests[i] for i in order)


def _await_answer(port: int, request: bytes) -> None:
    head = request.decode().split("\r\n")
    path, token = head[0].split(" ")[1], head[2].partition(": ")[2]

    def answers() -> bool:
        try:
            headers = {"Authorization": token}
            return fetch(f"http://127.0.0.1:{port}", "GET", path, headers).status == 200
        except OSError:
            return False

    eventually(answers)


def _public_key(cloud: CloudProcess) -> str:
    with urllib.request.urlopen(cloud.issuer + "/jwks") as page:
        (published,) = json.load(page)["keys"]
    public = PyJWK(published).key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _start(
    stack: ExitStack, kind: str, port: int, environ: dict[str, str]
) -> "subprocess.Popen[bytes]":
    arguments = [sys.executable, "-m", "tests.benchmarks.miss_peers", kind, str(port)]
    process = subprocess.Popen(arguments, env={**os.environ, **environ}, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


if __name__ == "__main__":
    main()
