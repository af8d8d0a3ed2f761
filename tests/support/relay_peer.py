"""Processes around a relay, for measurements; `Peer` starts them."""

import asyncio
import json
import os
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import uvloop
from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

from tests.support import rfb
from tests.support.relay_server import accept_rfb, relay_server, serving
from tests.support.stack import TIMEOUT_S

FLOOD_BLOCK = 1 << 20


class Peer:
    """One such process; `url` is its address.

    Roles: `cloud` floods, sends frames at a rate, or is idle, by the query of its address (`size`,
    `per_s`, `flood`); `tcp_cloud` does so over TCP, without WebSocket; `relay` is the gateway's
    relay; `bare` is the smallest relay that aiohttp allows.
    """

    def __init__(
        self,
        role: str,
        *,
        target: str = "",
        core: int | None = None,
        tls: tuple[Path, Path] | None = None,
        ca: Path | None = None,
    ) -> None:
        plan = {
            "role": role, "target": target, "core": core,
            "tls": [str(file) for file in tls] if tls else None, "ca": str(ca) if ca else None,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.relay_peer", json.dumps(plan)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, f"{role} did not start"

    @property
    def port(self) -> int:
        port = URL(self.url).port
        assert port is not None
        return port

    @property
    def pid(self) -> int:
        return self._process.pid

    def private_kib(self) -> int:
        """Return the memory that only this process has."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def connections(self) -> int:
        """Return the number of its sockets."""
        files = Path(f"/proc/{self.pid}/fd").iterdir()
        return sum(str(file.readlink()).startswith("socket:") for file in files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


def frame(payload: bytes) -> bytes:
    """Return a binary frame of a WebSocket server."""
    if len(payload) < 65_536:
        return struct.pack(">BBH", 0x82, 126, len(payload)) + payload
    return struct.pack(">BBQ", 0x82, 127, len(payload)) + payload


async def _cloud(request: web.Request) -> web.WebSocketResponse:
    websocket = web.WebSocketResponse(compress=False, timeout=0.1)
    await websocket.prepare(request)
    await accept_rfb(websocket)
    size = int(request.query.get("size", "0"))
    if "flood" in request.query:
        await _flood(request, frame(bytes(size)))
    elif size:
        await _send_at_rate(websocket, size, float(request.query["per_s"]))
    else:
        async for _ in websocket:
            pass
    return websocket


async def _flood(request: web.Request, one: bytes) -> None:
    """Write prepared frames, so that this process is not what limits the throughput."""
    block = one * max(1, FLOOD_BLOCK // len(one))
    while request.transport is not None and not request.transport.is_closing():
        request.transport.write(block)
        try:
            await request.protocol._drain_helper()
        except ConnectionError:
            return
        await asyncio.sleep(0)


async def _send_at_rate(websocket: web.WebSocketResponse, size: int, per_s: float) -> None:
    """Each frame begins with the time at which it was sent."""
    receiving = asyncio.create_task(websocket.receive())
    loop = asyncio.get_running_loop()
    due = loop.time() + hash(websocket) % 1000 / 1000 / per_s
    while not receiving.done():
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 1 / per_s
        try:
            await websocket.send_bytes(struct.pack(">Q", time.monotonic_ns()) + bytes(size - 8))
        except ConnectionError:
            return


async def _tcp_cloud(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        for message, answer in (
            (rfb.GREETING, 12), (rfb.NONE_OFFERED, 1), (bytes(4), 1), (rfb.server_init(), 4),
        ):  # fmt: skip
            writer.write(message)
            await reader.readexactly(answer)
        idle = await reader.read(200)
        while idle and b"idle" not in idle:
            writer.write(bytes(FLOOD_BLOCK))
            await writer.drain()
        await reader.read()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    writer.close()


def _bare(target: str, session: ClientSession) -> Any:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        browser = web.WebSocketResponse(compress=False, heartbeat=20)
        await browser.prepare(request)
        url = URL(target).with_query(request.query)
        async with session.ws_connect(url, compress=0, heartbeat=20) as cloud:

            async def pump(source: Any, sink: Any) -> None:
                async for message in source:
                    await sink.send_bytes(message.data)
                await sink.close()

            pumps = [asyncio.create_task(pump(browser, cloud))]
            pumps.append(asyncio.create_task(pump(cloud, browser)))
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # A close would read until the console answers it, which one that floods never does.
            cloud._writer.transport.abort()
        return browser

    return handle


async def _run(plan: dict[str, Any]) -> None:
    role, target = plan["role"], plan["target"]
    trust = ssl.create_default_context(cafile=plan["ca"]) if plan["ca"] else None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if plan["tls"] else None
    if tls is not None:
        tls.load_cert_chain(*plan["tls"])
    if role == "relay":
        async with relay_server(target, rfb.CONTROL, trust=trust) as server:
            await _announce(server.url)
    elif role == "tcp_cloud":
        listening = await asyncio.start_server(_tcp_cloud, "127.0.0.1", 0)
        await _announce(f"tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    else:
        async with ClientSession(connector=TCPConnector(limit=0)) as session:
            app = web.Application()
            app.router.add_get("/", _cloud if role == "cloud" else _bare(target, session))
            async with serving(app, tls) as port:
                await _announce(f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/")


async def _announce(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    started_with = json.loads(sys.argv[1])
    if started_with["core"] is not None:
        os.sched_setaffinity(0, {started_with["core"]})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(started_with))
