"""The relay of live consoles beside a bare aiohttp relay, HAProxy and websockify.

Each proxy has core 1; the console and this client share core 0.
"""

import asyncio
import os
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector

from tests.benchmarks.load import children, cpu_seconds
from tests.support.haproxy import HAPROXY, NOT_HERE, HAProxy
from tests.support.relay_peer import Peer
from tests.support.relay_server import open_rfb
from tests.support.stack import eventually
from tests.support.tls import Authority
from tests.support.valkey import free_port

_ROUNDS = 5
_FLOOD_S = 1.5
_SIZES = (1024, 16 * 1024, 64 * 1024)
_ACTIVE, _FRAME, _PER_S, _ACTIVE_S = 200, 4096, 30, 10.0
_IDLE = 2000
LOAD_CORE, PROXY_CORE = 0, 1
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Proxy:
    name: str
    url: str
    pid: int

    @property
    def pids(self) -> list[int]:
        return [self.pid, *children(self.pid)]


def main() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        print("relay: needs two cores; skipped")
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        with _proxies() as proxies:
            _print_throughput(proxies)
            _print_active([proxy for proxy in proxies if proxy.name != "websockify"])
        _print_idle_tls()
        _print_idle_websockify()
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def _proxies() -> Iterator[list[Proxy]]:
    with ExitStack() as stack:
        cloud = stack.enter_context(Peer("cloud", core=LOAD_CORE))
        found = [Proxy("none", cloud.url, cloud.pid)]
        for role in ("relay", "bare"):
            peer = stack.enter_context(Peer(role, target=cloud.url, core=PROXY_CORE))
            found.append(Proxy(role, peer.url, peer.pid))
        if HAPROXY is None:
            print(f"relay: HAProxy is left out: {NOT_HERE}")
        else:
            server = f"127.0.0.1:{cloud.port}"
            haproxy = HAProxy(server, mode="http", options="timeout tunnel 1h")
            with _on_core(haproxy._process.pid):
                stack.enter_context(haproxy)
            found.append(Proxy("haproxy", f"ws://127.0.0.1:{haproxy.port}/", haproxy._process.pid))
        with suppress(FileNotFoundError):
            found.append(stack.enter_context(_websockify()))
        yield found


@contextmanager
def _on_core(pid: int) -> Iterator[None]:
    os.sched_setaffinity(pid, {PROXY_CORE})
    yield


@contextmanager
def _websockify() -> Iterator[Proxy]:
    """WebSocket to TCP: less work than the others do, with a process per session."""
    if shutil.which("websockify") is None:
        print("relay: websockify is left out: Debian's package websockify is not installed")
        raise FileNotFoundError
    port = free_port()
    with Peer("tcp_cloud", core=LOAD_CORE) as cloud:
        process = subprocess.Popen(
            ["websockify", f"127.0.0.1:{port}", f"127.0.0.1:{cloud.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.sched_setaffinity(process.pid, {PROXY_CORE})
        eventually(lambda: _is_open(port))
        try:
            yield Proxy("websockify", f"ws://127.0.0.1:{port}/", process.pid)
        finally:
            process.terminate()
            process.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _print_throughput(proxies: list[Proxy]) -> None:
    print(f"one console floods one browser, median of {_ROUNDS} rounds")
    for size in _SIZES:
        rates: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
        costs: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
        for _ in range(_ROUNDS):
            for proxy in proxies:
                rate, cost = uvloop.run(flooded(proxy, size))
                rates[proxy.name].append(rate)
                costs[proxy.name].append(cost)
        print(f"  frames of {size // 1024} KiB")
        for name, found in rates.items():
            ratios = [one / bare for one, bare in zip(found, rates["bare"], strict=True)]
            cost = statistics.median(costs[name])
            print(
                f"    {name:10} {statistics.median(found):7.0f} MB/s  {cost:6.2f} CPU ms per MB"
                f"  {1000 / cost if cost else 0:7.0f} MB per CPU second"
                f"  {statistics.median(ratios):5.2f} of bare"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
    print("  target: relay at least 0.8 of bare")


async def flooded(proxy: Proxy, size: int) -> tuple[float, float]:
    """Return MB per second and CPU milliseconds per MB."""
    async with (
        ClientSession() as session,
        session.ws_connect(f"{proxy.url}?flood&size={size}", max_msg_size=0) as browser,
    ):
        await open_rfb(browser)
        browser._conn.transport.pause_reading()
        handle = browser.get_extra_info("socket").fileno()
        stop = threading.Event()
        counting = asyncio.create_task(asyncio.to_thread(_count, handle, stop))
        await asyncio.sleep(0.3)
        stop.set()
        await counting
        stop.clear()
        cpu, began = cpu_seconds(proxy.pids), time.perf_counter()
        counting = asyncio.create_task(asyncio.to_thread(_count, handle, stop))
        await asyncio.sleep(_FLOOD_S)
        stop.set()
        megabytes = await counting / _MB
        spent, span = cpu_seconds(proxy.pids) - cpu, time.perf_counter() - began
        browser._conn.transport.abort()
    return megabytes / span, spent * 1000 / megabytes


def _count(handle: int, stop: threading.Event) -> int:
    """Read as fast as a raw socket allows; parsing frames would be slower than the proxies."""
    total, buffer = 0, bytearray(1 << 20)
    with socket.socket(fileno=os.dup(handle)) as raw:
        while not stop.is_set():
            if select.select([raw], [], [], 0.1)[0]:
                with suppress(BlockingIOError):
                    count = raw.recv_into(buffer)
                    if count == 0:
                        break
                    total += count
    return total


def _print_active(proxies: list[Proxy]) -> None:
    print(f"{_ACTIVE} sessions, {_PER_S} frames of {_FRAME // 1024} KiB a second each")
    found = {proxy.name: uvloop.run(latencies(proxy, _ACTIVE)) for proxy in proxies}
    for name, (p50, p99, load) in found.items():
        print(f"  {name:10} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  {load:5.0%} of a core")
    added = {name: p99 - found["none"][1] for name, (_, p99, _) in found.items()}
    print(
        f"  added p99: relay {added['relay']:.2f} ms, bare {added['bare']:.2f} ms"
        "  (target: at most twice the bare relay's)"
    )


async def latencies(proxy: Proxy, count: int) -> tuple[float, float, float]:
    """Return the median and the 99th percentile in milliseconds, and the proxy's load."""
    url = f"{proxy.url}?size={_FRAME}&per_s={_PER_S}"
    found: list[int] = []
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=0)))
        browsers, tasks = [], []
        for _ in range(count):
            browsers.append(await session.ws_connect(url))
            await open_rfb(browsers[-1])
            tasks.append(asyncio.create_task(_receive(browsers[-1], found)))
        await asyncio.sleep(2)
        found.clear()
        cpu, began = cpu_seconds(proxy.pids), time.perf_counter()
        await asyncio.sleep(_ACTIVE_S)
        load = (cpu_seconds(proxy.pids) - cpu) / (time.perf_counter() - began)
        measured = sorted(found)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for browser in browsers:
            browser._conn.transport.abort()
    assert len(measured) > 0.9 * count * _PER_S * _ACTIVE_S, (proxy.name, len(measured))
    p50, p99 = (measured[int(len(measured) * share)] / 1e6 for share in (0.5, 0.99))
    return p50, p99, load


async def _receive(browser: ClientWebSocketResponse, found: list[int]) -> None:
    async for message in browser:
        for at in range(0, len(message.data), _FRAME):  # a recording gathers frames
            (sent_at,) = struct.unpack_from(">Q", message.data, at)
            found.append(time.monotonic_ns() - sent_at)


def _print_idle_tls() -> None:
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority()
        ca, certificate, key = (Path(directory) / name for name in ("ca", "crt", "key"))
        ca.write_bytes(authority.certificate)
        authority.issue("console").write(certificate, key)
        with (
            Peer("cloud", core=LOAD_CORE, tls=(certificate, key)) as cloud,
            Peer("relay", target=cloud.url, core=PROXY_CORE, ca=ca) as relay,
        ):
            each, load = uvloop.run(_idle(relay, _IDLE))
    print(
        f"{_IDLE} idle sessions with TLS to the cloud: {each:.1f} KiB each (target: below 100),"
        f" {load:.1%} of a core with heartbeats"
    )


async def _idle(peer: Peer, count: int) -> tuple[float, float]:
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        before = peer.private_kib()
        browsers, tasks = [], []
        for _ in range(count):
            browsers.append(await session.ws_connect(peer.url))
            await open_rfb(browsers[-1])
            tasks.append(asyncio.create_task(browsers[-1].receive()))
        cpu = cpu_seconds([peer.pid])
        await asyncio.sleep(45)
        load = (cpu_seconds([peer.pid]) - cpu) / 45
        each = (peer.private_kib() - before) / count
        assert not any(task.done() for task in tasks), "a session ended"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for browser in browsers:
            browser._conn.transport.abort()
    return each, load


def _print_idle_websockify() -> None:
    with suppress(FileNotFoundError), _websockify() as proxy:
        each = uvloop.run(_idle_websockify(proxy))
        print(f"an idle session of websockify: {each:.1f} MiB (a process of its own)")


async def _idle_websockify(proxy: Proxy) -> float:
    count = 10
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession())
        for _ in range(count):
            browser = await stack.enter_async_context(session.ws_connect(proxy.url))
            for _ in range(3):
                await browser.send_bytes(await browser.receive_bytes())
        return sum(_private_kib(pid) for pid in children(proxy.pid)) / count / 1024


def _private_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


if __name__ == "__main__":
    sys.exit(main())
