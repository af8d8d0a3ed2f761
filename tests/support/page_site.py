"""A scripted gateway for the console's page: it speaks the page protocol, and decides nothing.

Each test scripts the responses and the WebSocket, and reads what the page sent.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import WSMsgType, web

from tests.support.page_server import PREFIX, PageServer
from tests.support.small_rfb import SmallScreen

SID = "0123456789abcdef0123456789abcdef"
SERVER = {
    "project_id": "0e3f5c7a9b1d4e6f8a0b2c4d6e8f0a1b",
    "id": "7c1d2e3f-4a5b-4c6d-8e9f-0a1b2c3d4e5f",
    "name": "db-primary-01",
}
PERSON = {"subject": "anna", "issuer": "https://login.example.com"}
OFFER = {
    "server": SERVER,
    "person": PERSON,
    "mode": "control",
    "recorded": False,
    "expires_in": 3_600.0,
    "in_use": None,
}

Behaviour = Callable[["PageSocket"], Awaitable[None]]
Reply = tuple[int, dict[str, Any], dict[str, str]]


def after(seconds: float) -> str:
    """Return the time in so many seconds, as the page protocol writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


class PageSocket:
    """One WebSocket of the page, as a behaviour scripts it."""

    def __init__(self, site: "PageSite", ws: web.WebSocketResponse, request: web.Request) -> None:
        self._site = site
        self._ws = ws
        self._request = request
        self._binary: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._is_closing = False
        self.closed = asyncio.Event()

    async def attach(self, **changes: Any) -> None:
        """Take the `attach` frame and answer it; `changes` replace members of the answer."""
        first = await self._ws.receive_json()
        assert first["type"] == "attach", first
        self._site.attached_with.append(first["resume_key"])
        self._site.reader(self._read())
        message = {
            "type": "attached",
            "resume_key": f"key-{len(self._site.attached_with) + 1}",
            "server": SERVER,
            "person": PERSON,
            "mode": "control",
            "recorded": False,
            "started_at": after(-125),
            "ends_at": after(8 * 3600 - 125),
            "ends_by": "time_limit",
            "idle_s": 1800,
            "clipboard": "both",
            "power": False,
        }
        await self.send(message | changes)

    async def send(self, message: dict[str, Any]) -> None:
        await self._ws.send_json(message)

    async def state(self, state: str, **more: Any) -> None:
        await self.send({"type": "state", "state": state, **more})

    async def live(self, screen: SmallScreen | None = None) -> None:
        """Serve a screen until the page or the script closes the WebSocket."""
        await self.state("live")
        shown = screen or SmallScreen()
        self._site.screens.append(shown)
        self._site.reader(shown.serve(self._receive, self._ws.send_bytes))

    async def ended(self, code: int, reason: str, **more: Any) -> None:
        await self.send({"type": "ended", "code": code, "reason": reason, **more})
        await self.close(code)

    async def close(self, code: int) -> None:
        self._is_closing = True
        await self._ws.close(code=code)
        self.closed.set()

    def drop(self) -> None:
        """Cut the connection without a close frame, as a lost network does."""
        assert self._request.transport is not None
        self._request.transport.abort()

    async def _receive(self) -> bytes:
        data = await self._binary.get()
        if data is None:
            raise ConnectionError("closed")
        return data

    async def _read(self) -> None:
        async for message in self._ws:
            if message.type == WSMsgType.TEXT:
                text = json.loads(message.data)
                if text != {"type": "key_received"}:  # each connection begins with it
                    self._site.texts.append(text)
            elif message.type == WSMsgType.BINARY:
                self._binary.put_nowait(message.data)
        self._site.close_codes.append(self._ws.close_code)
        self._binary.put_nowait(None)
        if not self._is_closing:  # else the handler's end would send another close code
            self.closed.set()


async def show_screen(socket: PageSocket) -> None:
    """Attach and go live at once: the behaviour of a site that is not scripted."""
    await socket.attach()
    await socket.live()


class PageSite(PageServer):
    """The server and its script."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__()

    def reset(self) -> None:
        if self._tasks:
            self._call(self._stop_readers())  # they would note what the page of the last test sent
        self.describe: list[Reply] = [(200, OFFER, {})]
        self.redeem: list[Reply] = [(200, self.redeemed(), {})]
        self.behaviours: list[Behaviour] = [show_screen]
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.attached_with: list[str] = []
        self.texts: list[dict[str, Any]] = []
        self.screens: list[SmallScreen] = []
        self.close_codes: list[int | None] = []
        self.sockets: list[PageSocket] = []

    @staticmethod
    def redeemed() -> dict[str, Any]:
        socket = f"{PREFIX}/console/s/{SID}/socket"
        return {"session_id": SID, "socket": socket, "resume_key": "key-1"}

    @property
    def address(self) -> str:
        return f"{self.origin}{PREFIX}/console"

    def call(self, action: Callable[[PageSocket], Awaitable[None]]) -> None:
        """Run an action on the newest WebSocket, in the server's loop."""
        self._call(action(self.sockets[-1]))

    def reader(self, work: Awaitable[None]) -> None:
        """Run until the connection ends; a script may close it at any time."""

        async def run() -> None:
            with contextlib.suppress(ConnectionError):
                await work

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post(f"{PREFIX}/console/ticket", self._ticket)
        router.add_post(f"{PREFIX}/console/redeem", self._redeem)
        router.add_get(f"{PREFIX}/console/s/{SID}/socket", self._socket)

    async def _stop(self) -> None:
        for socket in self.sockets:
            await socket.close(1001)
        await super()._stop()
        await self._stop_readers()

    async def _stop_readers(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ticket(self, request: web.Request) -> web.Response:
        return await self._reply(request, self.describe)

    async def _redeem(self, request: web.Request) -> web.Response:
        return await self._reply(request, self.redeem)

    async def _reply(self, request: web.Request, script: list[Reply]) -> web.Response:
        assert request.headers["Origin"] == self.origin
        self.posts.append((request.path, await request.json()))
        status, body, headers = script.pop(0) if len(script) > 1 else script[0]
        return web.json_response(body, status=status, headers=headers)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=("console-gateway.v1",), compress=False)
        await ws.prepare(request)
        assert ws.ws_protocol == "console-gateway.v1"
        socket = PageSocket(self, ws, request)
        self.sockets.append(socket)
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        with contextlib.suppress(ConnectionError):
            await behaviour(socket)
            await socket.closed.wait()
        return ws
