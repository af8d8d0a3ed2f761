"""The relay over real WebSockets: ends, sizes, back-pressure and half-open peers."""

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientConnectionResetError, ClientSession, ClientWebSocketResponse, web
from aiohttp.http_websocket import WSMsgType

from gateway.domain.consoles.ends import CLOUD_CLOSED, PROTOCOL_ERROR
from gateway.domain.rfb.handshake import Side
from gateway.drivers.network import websocket_channel
from gateway.flow.consoles import relay
from gateway.flow.consoles.frame_channel import CLOUD_FRAME_MAX
from gateway.flow.consoles.relay import RelayEnd
from tests.support import rfb
from tests.support.relay_server import (
    RelayServer,
    accept_rfb,
    open_rfb,
    relay_server,
    until,
    websocket_server,
)
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.usefixtures("_bounded")


@pytest.fixture
async def _bounded():
    """Fail a test if its condition never comes true."""
    async with asyncio.timeout(60):
        yield


class Lab:
    """A console of the cloud that a test drives, a relay, and browsers."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.cloud: web.WebSocketResponse | None = None
        self.received: list[bytes] = []
        self.sent = 0
        self.relay: RelayServer
        self.floods = False
        self.reads = asyncio.Event()
        self.reads.set()

    async def start(self, *, through: TcpProxy | None = None) -> "Lab":
        url = await self._stack.enter_async_context(websocket_server(self._console))
        if through is not None:
            through.target_port = urlsplit(url).port
            await self._stack.enter_async_context(through.serve())
            url = f"ws://127.0.0.1:{through.port}/"
        self.relay = await self._stack.enter_async_context(relay_server(url, rfb.CONTROL))
        return self

    async def open(self, url: str | None = None) -> ClientWebSocketResponse:
        session = await self._stack.enter_async_context(ClientSession())
        browser = await session.ws_connect(url or self.relay.url, max_msg_size=0)
        self._stack.push_async_callback(browser.close)
        await open_rfb(browser)
        await until(lambda: self.cloud is not None)
        return browser

    async def _console(self, cloud: web.WebSocketResponse) -> None:
        await accept_rfb(cloud)
        self.cloud = cloud
        async with asyncio.TaskGroup() as group:
            flood = group.create_task(self._flood(cloud))
            await self.reads.wait()
            async for message in cloud:
                self.received.append(message.data)
            flood.cancel()

    async def _flood(self, cloud: web.WebSocketResponse) -> None:
        while not cloud.closed:
            await asyncio.sleep(0.001)
            if self.floods:
                try:
                    await cloud.send_bytes(bytes(65_536))
                except ClientConnectionResetError:
                    return
                self.sent += 65_536


@pytest.fixture
async def lab():
    async with AsyncExitStack() as stack:
        yield Lab(stack)


async def test_frames_pass_in_both_directions(lab):
    browser = await (await lab.start()).open()
    await lab.cloud.send_bytes(b"\x02")
    assert await browser.receive_bytes() == b"\x02"
    await browser.send_bytes(rfb.key(65))
    await until(lambda: rfb.key(65) in lab.received)
    await browser.send_str("echo")
    assert await browser.receive_str() == "echo"
    assert lab.relay.inputs == 1


async def test_message_in_fragments_that_drip_is_one_message(lab):
    browser = await (await lab.start()).open()
    key = rfb.key(65)
    fragments = (
        masked_frame(key[:3], opcode=2, is_last=False)
        + masked_frame(b"between", opcode=9)  # a ping may stand between fragments (RFC 6455, 5.4)
        + masked_frame(key[3:5], opcode=0, is_last=False)
        + masked_frame(key[5:], opcode=0)
    )
    for byte in fragments:
        browser._conn.transport.write(bytes([byte]))
        await asyncio.sleep(0.001)
    await until(lambda: key in lab.received)
    assert [one for one in lab.received if one[:1] == b"\x04"] == [key]


async def test_fragments_above_the_limit_end_the_session(lab):
    browser = await (await lab.start()).open()
    half = bytes(CLOUD_FRAME_MAX // 2 + 1)
    for opcode in (2, 0):
        browser._conn.transport.write(masked_frame(half, opcode=opcode, is_last=False))
    await until(lambda: lab.relay.ends != [])
    end = RelayEnd(Side.BROWSER, PROTOCOL_ERROR, "a WebSocket message is too long")
    assert lab.relay.ends == [end]


def masked_frame(payload: bytes, *, opcode: int, is_last: bool = True) -> bytes:
    """Return a frame of RFC 6455, 5.2 as a browser sends it, with a mask of zeros."""
    first = bytes([opcode | (0x80 if is_last else 0)])
    if len(payload) < 126:
        length = bytes([0x80 | len(payload)])
    else:
        length = bytes([0x80 | 127]) + len(payload).to_bytes(8, "big")
    return first + length + bytes(4) + payload


async def test_close_of_the_cloud_ends_with_its_code(lab):
    browser = await (await lab.start()).open()
    await lab.cloud.close(code=1000, message=b"token=secret")
    message = await browser.receive()
    assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 4011, "cloud_closed")
    assert lab.relay.ends == [RelayEnd(Side.CLOUD, CLOUD_CLOSED, "close code 1000")]


async def test_close_of_the_browser_closes_the_cloud(lab):
    browser = await (await lab.start()).open()
    await browser.close(code=1001)
    await until(lambda: lab.cloud.closed)
    assert lab.relay.ends == [RelayEnd(Side.BROWSER, None, "close code 1001")]


async def test_unknown_type_closes_both_sides(lab):
    browser = await (await lab.start()).open()
    await browser.send_bytes(b"\x63")
    message = await browser.receive()
    assert (message.data, message.extra) == (4012, "protocol_error")
    await until(lambda: lab.cloud.closed)


@pytest.mark.parametrize("side", list(Side))
async def test_frame_above_the_limit_ends_the_session(lab, side):
    browser = await (await lab.start()).open()
    sender = browser if side is Side.BROWSER else lab.cloud
    await sender.send_bytes(bytes(CLOUD_FRAME_MAX + 1))
    await until(lambda: lab.relay.ends != [])
    end = RelayEnd(side, PROTOCOL_ERROR, "a WebSocket message is too long")
    assert lab.relay.ends == [end]


async def test_frame_at_the_limit_passes(lab):
    browser = await (await lab.start()).open()
    await lab.cloud.send_bytes(bytes(CLOUD_FRAME_MAX - 1))
    assert len(await browser.receive_bytes()) == CLOUD_FRAME_MAX - 1


@pytest.fixture
def _fast(monkeypatch):
    """Heartbeats of 2 s instead of 20 s, and a limit for stalls of 2 s instead of 35 s."""
    monkeypatch.setattr(websocket_channel, "HEARTBEAT_S", 2.0)
    monkeypatch.setattr(relay, "WATCH_INTERVAL_S", 0.2)
    monkeypatch.setattr(relay, "STALLED_AFTER_S", 2.0)


@pytest.mark.usefixtures("_fast")
async def test_cloud_that_answers_no_ping_is_found(lab):
    proxy = TcpProxy(0)
    browser = await (await lab.start(through=proxy)).open()
    reading = asyncio.create_task(browser.receive())  # answers pings
    for connection in proxy.connections:
        connection.swallows = True
    assert (await reading).data == 4011
    assert lab.relay.ends == [RelayEnd(Side.CLOUD, CLOUD_CLOSED, "close code 1006")]


@pytest.mark.usefixtures("_fast")
async def test_browser_that_answers_no_ping_is_found(lab):
    await lab.start()
    async with TcpProxy(urlsplit(lab.relay.url).port).serve() as proxy:
        await lab.open(f"ws://127.0.0.1:{proxy.port}/")
        for connection in proxy.connections:
            connection.swallows = True
        await until(lambda: lab.relay.ends != [])
        assert lab.relay.ends == [RelayEnd(Side.BROWSER, None, "close code 1006")]
        await until(lambda: lab.cloud.closed)


@pytest.mark.usefixtures("_fast")
async def test_browser_that_does_not_read_stops_the_cloud_and_is_lost(lab):
    await (await lab.start()).open()
    lab.floods = True
    await until(lambda: lab.relay.ends != [])
    assert lab.relay.ends[0].side is Side.BROWSER
    assert lab.relay.ends[0].end is None
    stopped_at = lab.sent
    await asyncio.sleep(0.2)
    assert lab.sent == stopped_at, "the cloud's connection is closed"


@pytest.mark.usefixtures("_fast")
async def test_both_sides_that_do_not_read_are_found(lab):
    lab.reads.clear()
    browser = await (await lab.start()).open()
    lab.floods = True

    async def type_much() -> None:
        text = rfb.cut_text(bytes(60_000))
        while not browser.closed:
            await browser.send_bytes(text)

    typing = asyncio.create_task(type_much())
    await until(lambda: lab.relay.ends != [])
    lab.reads.set()
    typing.cancel()
    await asyncio.gather(typing, return_exceptions=True)
