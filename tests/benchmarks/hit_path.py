"""The cache-hit path beside a bare and a plain aiohttp handler, interleaved in one run."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWK

from tests.benchmarks.load import Measured, children, measure, resident_mb
from tests.support.stack import RunningGateway, Stack, console_path, eventually, fetch
from tests.support.valkey import free_port

_ROUNDS = 5
_SECONDS = 2.0
_CONNECTIONS = 64
"""With few connections, a gateway with the audit log on disk is idle while it waits."""
NO_LIMIT = {"requests": 1e7, "per_s": 1, "burst": 100_000}


def main() -> None:
    stack = Stack(change={"caller_limits": NO_LIMIT})
    peers: list[subprocess.Popen[bytes]] = []
    try:
        servers = {"gateway": (stack.gateway.port, children(stack.gateway.pid))}
        for kind in ("bare", "plain"):
            port = free_port()
            peer = _peer(kind, port, stack)
            peers.append(peer)
            servers[kind] = (port, [peer.pid])
        _print_hits(stack, servers)
        _print_start(stack)
        _print_memory(stack)
    finally:
        for peer in peers:
            peer.terminate()
            peer.wait()
        stack.close()


def _print_hits(stack: Stack, servers: dict[str, tuple[int, list[int]]]) -> None:
    request = hit_request(stack, stack.cloud.token(groups=["operators", "staff"]))
    found: dict[str, list[Measured]] = {name: [] for name in servers}
    for _ in range(_ROUNDS):
        for name, (port, pids) in servers.items():
            run = measure(
                "127.0.0.1", port, pids, request, seconds=_SECONDS, connections=_CONNECTIONS
            )
            measured = asyncio.run(run)
            assert set(measured.statuses) == {200}, (name, measured.statuses)
            found[name].append(measured)
    cpu = {name: statistics.median(one.cpu_us for one in all_) for name, all_ in found.items()}
    print("cache-hit path, one process each, CPU of the server per request (median of rounds)")
    for name, us in cpu.items():
        rate = statistics.median(one.per_s for one in found[name])
        print(f"  {name:8} {us:7.1f} µs   {rate:8.0f}/s")
    print(
        f"  gateway / bare  throughput per core: {cpu['bare'] / cpu['gateway']:.2f}  (target: 0.60)"
    )
    print(
        f"  gateway / plain throughput per core: {cpu['plain'] / cpu['gateway']:.2f}  (target: 5.0)"
    )


def _print_start(stack: Stack) -> None:
    spans = []
    for _ in range(5):
        late = stack.replica(start=False)
        began = time.perf_counter()
        late.start(wait=False)
        token = stack.cloud.token()
        while True:
            try:
                if late.console(token).status == 200:
                    break
            except OSError:
                time.sleep(0.005)
        spans.append(time.perf_counter() - began)
        late.close()
    print(f"first answer after `serve`: median {statistics.median(spans):.2f} s  (asked: 1)")


def _print_memory(stack: Stack) -> None:
    """Cache 10,000 verified tokens and 10,000 links in one process."""
    wide = stack.replica(
        change={"caller_limits": NO_LIMIT},
        account={"budget": {"console": {"requests": 50_000, "per_s": 1, "burst": 1000}}},
    )
    stack.cloud.rate(rate=1e6, burst=1e6)
    stack.cloud.settings(latency_s=[0.0, 0.0])
    asyncio.run(_fill(stack, wide, 10_000))
    tokens, links = wide.metric("gateway_tokens_cached"), wide.metric("gateway_links_cached")
    for pid in children(wide.pid):
        print(f"resident with {tokens:.0f} tokens, {links:.0f} links: {resident_mb(pid):.0f} MB")


async def _fill(stack: Stack, gateway: RunningGateway, count: int) -> None:
    gate = asyncio.Semaphore(32)

    async def one(i: int) -> None:
        async with gate:
            token = await asyncio.to_thread(stack.cloud.token, f"person-{i}")
            answer = await asyncio.to_thread(gateway.console, token, stack.cloud.servers[i % 7])
            assert answer.status == 200, answer.body

    await asyncio.gather(*(one(i) for i in range(count)))


def hit_request(stack: Stack, token: str) -> bytes:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def _peer(kind: str, port: int, stack: Stack) -> subprocess.Popen[bytes]:
    with urllib.request.urlopen(stack.cloud.issuer + "/jwks") as page:
        (published,) = json.load(page)["keys"]
    public = PyJWK(published).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    environ = {**os.environ, "PEER_REDIS": stack.valkey.url, "PEER_PUBLIC_KEY": public.decode()}
    arguments = [sys.executable, "-m", "tests.benchmarks.peers", kind, str(port)]
    peer = subprocess.Popen(arguments, env=environ, stdout=subprocess.DEVNULL)
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    path = console_path(stack.cloud.project, stack.cloud.servers[0])

    def answers() -> bool:
        try:
            return fetch(f"http://127.0.0.1:{port}", "GET", path, headers).status == 200
        except OSError:
            return False

    eventually(answers)
    return peer
