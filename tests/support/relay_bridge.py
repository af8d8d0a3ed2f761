"""The connector and the relay in this process, between a WebSocket and a console of the cloud.

It leaves out tickets, cookies and sessions: what fails here is the connector or the relay.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from gateway.config.egress import EgressSettings
from gateway.domain.consoles.ends import CLOUD_UNAVAILABLE
from gateway.domain.consoles.model import SessionMode
from gateway.domain.consoles.shapes import configured_shapes
from gateway.domain.errors import ConsoleUnavailable
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import Secret
from gateway.domain.rfb.rules import RelayRules
from gateway.drivers.cloud.console_connector import CloudConsoles, ConsoleRoute, open_console_route
from gateway.drivers.network.egress import EgressRoute
from gateway.drivers.network.websocket_channel import WebSocketChannel, browser_websocket
from gateway.flow.consoles.relay import Relay
from tests.support.rfb import pass_allowed_power

CONTROL = RelayRules(SessionMode.CONTROL)
_ACCOUNT = "cloud"


class _ForgetfulShapes:
    """A ShapeMemory of one process."""

    def __init__(self) -> None:
        self.text = ""

    async def recall(self, account: str) -> str:
        return self.text

    async def remember(self, account: str, shape: str) -> None:
        self.text = shape


class RelayBridge:
    """Serves ws://127.0.0.1:PORT/relay; each connection fetches a link and is relayed."""

    def __init__(self, fetch_link: Callable[[], Awaitable[str]], route: ConsoleRoute) -> None:
        self.rules = CONTROL
        self.ends: list[tuple[str, str]] = []
        """Name and detail of the end of each connection so far; "" if the viewer left."""
        self.timeout_s = 15.0
        """Per attempt to connect."""
        self.links = 0
        self.shapes = _ForgetfulShapes()
        self.port = 0
        self._fetch_link = fetch_link
        self._consoles = CloudConsoles({_ACCOUNT: route}, self.shapes)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/relay"

    @asynccontextmanager
    async def serve(self, folders: Mapping[str, Path]) -> AsyncIterator["RelayBridge"]:
        """Listen until the context ends; `folders` are served as files, by path."""
        app = web.Application()
        app.router.add_get("/relay", self._relay)
        for path, folder in folders.items():
            app.router.add_static(path, folder)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        socket = browser_websocket()
        await socket.prepare(request)
        browser = WebSocketChannel(socket)
        try:
            cloud = await self._consoles.connect(
                self._fetch_url, _ACCOUNT, timeout_s=self.timeout_s
            )
        except ConsoleUnavailable as error:
            self.ends.append((CLOUD_UNAVAILABLE.name, str(error)))
            await socket.close(code=CLOUD_UNAVAILABLE.code or 0)
            return socket
        relay = Relay(
            browser,
            cloud,
            rules=self.rules,
            on_input=_ignore,
            on_text=_take_no_text,
            on_power=pass_allowed_power,
        )
        ended = await relay.run()
        self.ends.append((ended.end.name if ended.end else "", ended.detail))
        await browser.close((ended.end and ended.end.code) or 1000, "")
        return socket

    async def _fetch_url(self) -> Secret:
        self.links += 1
        return Secret(await self._fetch_link())


def _ignore() -> None:
    pass


async def _take_no_text(text: str) -> None:
    raise AssertionError(text)


@asynccontextmanager
async def open_bridge(
    fetch_link: Callable[[], Awaitable[str]],
    host: str,
    authority: Path,
    *,
    shape: str = "auto",
    folders: Mapping[str, Path] | None = None,
) -> AsyncIterator[RelayBridge]:
    """Serve a bridge to the console host at the URL `host`, verified by `authority`."""
    egress = EgressRoute(EgressSettings(), proxy=None, ca_file=authority, certificate=None)
    addresses = ConsoleAddresses((urlsplit(host).netloc,))
    shapes = configured_shapes(shape, "auto")
    async with open_console_route(addresses, shapes, egress, [ip_network("127.0.0.0/8")]) as route:
        async with RelayBridge(fetch_link, route).serve(folders or {}) as bridge:
            yield bridge
        await asyncio.sleep(0)
