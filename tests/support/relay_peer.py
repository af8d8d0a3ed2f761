"""Processes around a relay, for measurements; `Peer` starts them."""

import asyncio
import json
import os
import secrets
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from itertools import cycle
from pathlib import Path
from typing import Any, Self

import uvloop
from aiohttp import ClientSession, TCPConnector, web
from yarl import URL

from gateway.drivers.host.clock import SystemClock
from gateway.flow.consoles.frame_channel import FrameChannel
from gateway.flow.recordings.recorded_channel import RecordedChannel
from tests.support import rfb
from tests.support.recordings import RecordingScene, a_recording
from tests.support.relay_server import Record, accept_rfb, relay_server, serving
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
        payload: Path | None = None,
        recordings: Path | None = None,
    ) -> None:
        """`payload`: what a cloud sends, in place of zeros. `recordings`: a relay records there."""
        plan = {
            "role": role, "target": target, "core": core,
            "tls": [str(file) for file in tls] if tls else None, "ca": str(ca) if ca else None,
            "payload": str(payload) if payload else None,
            "recordings": str(recordings) if recordings else None,
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


def _cloud(payload: bytes) -> Any:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False, timeout=0.1)
        await websocket.prepare(request)
        await accept_rfb(websocket)
        size = int(request.query.get("size", "0"))
        data = payload or bytes(size)
        if "flood" in request.query:
            await _flood(request, _blocks(data, size))
        elif size:
            await _send_at_rate(websocket, _pieces(data, size), float(request.query["per_s"]))
        else:
            async for _ in websocket:
                pass
        return websocket

    return handle


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data) - size + 1, size)]


def _blocks(data: bytes, size: int) -> list[bytes]:
    """Return the data in frames, joined to large blocks."""
    frames = [frame(one) for one in _pieces(data, size)]
    frames *= max(1, FLOOD_BLOCK // (len(frames) * size))
    count = max(1, FLOOD_BLOCK // size)
    return [b"".join(frames[at : at + count]) for at in range(0, len(frames), count)]


async def _flood(request: web.Request, blocks: list[bytes]) -> None:
    """Write prepared frames, so that this process is not what limits the throughput."""
    for block in cycle(blocks):
        if request.transport is None or request.transport.is_closing():
            return
        request.transport.write(block)
        try:
            await request.protocol._drain_helper()
        except ConnectionError:
            return
        await asyncio.sleep(0)


async def _send_at_rate(
    websocket: web.WebSocketResponse, pieces: list[bytes], per_s: float
) -> None:
    """Each frame begins with the time at which it was sent."""
    data = cycle(pieces)
    receiving = asyncio.create_task(websocket.receive())
    loop = asyncio.get_running_loop()
    due = loop.time() + hash(websocket) % 1000 / 1000 / per_s
    while not receiving.done():
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 1 / per_s
        try:
            await websocket.send_bytes(struct.pack(">Q", time.monotonic_ns()) + next(data)[8:])
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


def _payload(plan: dict[str, Any]) -> bytes:
    return Path(plan["payload"]).read_bytes() if plan["payload"] else b""


def _report(failure: str) -> None:
    sys.stderr.write(f"{failure}\n")


@asynccontextmanager
async def _recording(directory: Path) -> AsyncIterator[Record]:
    """Yield a stage that records each session, and leaves its part open: closing it costs CPU."""
    scene = RecordingScene(directory, clock=SystemClock())

    @asynccontextmanager
    async def record(channel: FrameChannel) -> AsyncIterator[FrameChannel]:
        details = a_recording(id=secrets.token_hex(16))
        part = await recordings.open_part(details, _report)
        recorded = RecordedChannel(channel, part, scene.clock, is_required=True, on_failure=_report)
        working = asyncio.create_task(recorded.run())
        try:
            yield recorded
        finally:
            working.cancel()
            await asyncio.wait({working})
            for syncs in recordings._threads._syncs:
                syncs.parts.pop(part._part, None)

    async with scene.running() as recordings:
        yield record


async def _run(plan: dict[str, Any]) -> None:
    role, target = plan["role"], plan["target"]
    trust = ssl.create_default_context(cafile=plan["ca"]) if plan["ca"] else None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if plan["tls"] else None
    if tls is not None:
        tls.load_cert_chain(*plan["tls"])
    if role == "relay":
        async with AsyncExitStack() as stack:
            record: Record = nullcontext
            if plan["recordings"]:
                record = await stack.enter_async_context(_recording(Path(plan["recordings"])))
            server = await stack.enter_async_context(
                relay_server(target, rfb.CONTROL, trust=trust, record=record)
            )
            await _announce(server.url)
    elif role == "tcp_cloud":
        listening = await asyncio.start_server(_tcp_cloud, "127.0.0.1", 0)
        await _announce(f"tcp://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    else:
        async with ClientSession(connector=TCPConnector(limit=0)) as session:
            app = web.Application()
            app.router.add_get(
                "/", _cloud(_payload(plan)) if role == "cloud" else _bare(target, session)
            )
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
