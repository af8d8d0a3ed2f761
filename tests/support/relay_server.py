"""The relay over real WebSockets: a console of the cloud, the gateway's side, and a browser."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field

from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, web
from yarl import URL

from gateway.domain.rfb.rules import RelayRules
from gateway.drivers.network.websocket_channel import (
    WebSocketChannel,
    browser_websocket,
    cloud_websocket_options,
)
from gateway.flow.consoles.frame_channel import FrameChannel
from gateway.flow.consoles.relay import Relay, RelayEnd
from tests.support import rfb

Record = Callable[[FrameChannel], AbstractAsyncContextManager[FrameChannel]]
"""Returns the channel that a relay sends to, in place of the browser's."""
CloudConsole = Callable[[web.WebSocketResponse], Awaitable[None]]


@dataclass
class RelayServer:
    """Accepts browsers at `url`; connects each to the console of the cloud."""

    url: str
    ends: list[RelayEnd] = field(default_factory=list)
    inputs: int = 0


@asynccontextmanager
async def websocket_server(
    handler: CloudConsole, *, tls: ssl.SSLContext | None = None, max_msg_size: int = 0
) -> AsyncIterator[str]:
    """Serve WebSockets on a free port; yield the address."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False, max_msg_size=max_msg_size)
        await websocket.prepare(request)
        await handler(websocket)
        return websocket

    app = web.Application()
    app.router.add_get("/", handle)
    async with serving(app, tls) as port:
        yield f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/"


@asynccontextmanager
async def relay_server(
    cloud_url: str,
    rules: RelayRules,
    *,
    trust: ssl.SSLContext | None = None,
    record: Record = nullcontext,
) -> AsyncIterator[RelayServer]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=0)))
        server = RelayServer("")

        async def handle(request: web.Request) -> web.WebSocketResponse:
            browser = browser_websocket()
            await browser.prepare(request)
            options = cloud_websocket_options()
            url = URL(cloud_url).update_query(request.query)
            cloud = await session.ws_connect(url, ssl=trust or True, **options)
            channel = WebSocketChannel(browser)
            async with record(channel) as browser_side:
                relay = Relay(
                    browser_side,
                    WebSocketChannel(cloud),
                    rules=rules,
                    on_input=lambda: setattr(server, "inputs", server.inputs + 1),
                    on_text=channel.send_text,
                    on_power=rfb.pass_allowed_power,
                )
                end = await relay.run()
            server.ends.append(end)
            code = 4011 if end.end is None or end.end.code is None else end.end.code
            await channel.close(code, end.end.name if end.end else "")
            return browser

        app = web.Application()
        app.router.add_get("/", handle)
        port = await stack.enter_async_context(serving(app, None))
        server.url = f"ws://127.0.0.1:{port}/"
        yield server


@asynccontextmanager
async def serving(app: web.Application, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def accept_rfb(cloud: web.WebSocketResponse) -> None:
    """Shake hands as a console without password, then read SetEncodings."""
    await cloud.send_bytes(rfb.GREETING)
    await cloud.receive_bytes()
    await cloud.send_bytes(rfb.NONE_OFFERED)
    await cloud.receive_bytes()
    await cloud.send_bytes(bytes(4))
    await cloud.receive_bytes()
    await cloud.send_bytes(rfb.server_init())
    await cloud.receive_bytes()


async def open_rfb(
    browser: ClientWebSocketResponse, encodings: tuple[int, ...] = rfb.NOVNC_ENCODINGS
) -> None:
    """Shake hands as noVNC does, and send SetEncodings."""
    await browser.send_bytes(await browser.receive_bytes())
    await browser.receive_bytes()
    await browser.send_bytes(b"\x01")
    await browser.receive_bytes()
    await browser.send_bytes(b"\x01")
    await browser.receive_bytes()
    await browser.send_bytes(rfb.set_encodings(*encodings))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own limit of time bounds it."""
    while not condition():  # noqa: ASYNC110 - any condition
        await asyncio.sleep(0.02)
