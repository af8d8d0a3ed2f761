"""A page of a live console without a browser: tickets, cookie, WebSocket and messages."""

import asyncio
import json
from typing import Any

import aiohttp

from tests.support import rfb

SUBPROTOCOL = "console-gateway.v1"
_WAIT_S = 60.0


class LivePage:
    """One tab. It keeps cookie and resume key as the page does."""

    def __init__(self, client: aiohttp.ClientSession, base: str, *, origin: str = "") -> None:
        self._client = client
        self.base = base
        self.origin = origin or base
        self.session_id = ""
        self.cookie = ""
        self.key = ""
        self.messages: list[dict[str, Any]] = []
        self.screen = b""
        """The binary frames so far."""
        self.close_code: int | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._path = ""
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        sent = {"Origin": self.origin} | headers
        async with self._client.post(self.base + path, json=body, headers=sent) as response:
            data = json.loads(await response.read() or b"null")
            if response.status == 200 and "session_id" in (data or {}):
                self.session_id, self.key = data["session_id"], data["resume_key"]
                self._path = data["socket"]
                first, _, _ = response.headers.getall("Set-Cookie")[0].partition(";")
                self.cookie = first
            return response.status, data

    async def redeem(self, ticket: str, **options: Any) -> tuple[int, Any]:
        return await self.post("/console/redeem", {"ticket": ticket, **options})

    async def connect(
        self, base: str = "", *, cookie: str | None = None, origin: str = "", key: str | None = None
    ) -> None:
        """Open the WebSocket and attach; `base` is that of another replica."""
        cookie = self.cookie if cookie is None else cookie
        self._socket = await self._client.ws_connect(
            (base or self.base) + self._path,
            protocols=(SUBPROTOCOL,),
            origin=origin or self.origin,
            headers={"Cookie": cookie} if cookie else {},
        )
        self.close_code, self.screen = None, b""
        self._inbox = asyncio.Queue()
        # As a browser does, it reads all the time: else a close frame could be lost.
        self._reader = asyncio.create_task(self._read(self._socket, self._inbox))
        await self.send({"type": "attach", "resume_key": self.key if key is None else key})

    async def send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        await self._socket.send_str(json.dumps(message))

    async def send_rfb(self, data: bytes) -> None:
        assert self._socket is not None
        await self._socket.send_bytes(data)

    async def lose(self) -> None:
        """Lose the connection without a close frame."""
        assert self._socket is not None
        connection = self._socket._conn
        assert connection is not None
        assert connection.transport is not None
        connection.transport.abort()
        await self._socket.close()

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next message with these fields."""
        async with asyncio.timeout(_WAIT_S):
            while True:
                message = await self._inbox.get()
                if message.get("type") == kind and fields.items() <= message.items():
                    return message
                assert message, f"closed with {self.close_code} before {kind} {fields}"

    async def until_live(self) -> None:
        """Return when the greeting of RFB has arrived."""
        await self.until("state", state="live")
        await self.until_screen(4)
        assert self.screen.startswith(b"RFB ")

    async def initialise(self) -> None:
        """Take the steps of RFB up to the size of the screen, as the viewer in the page does."""
        for answer, length in ((rfb.GREETING, 14), (b"\x01", 18), (b"\x01", 42)):
            await self.send_rfb(answer)
            await self.until_screen(length)

    async def until_screen(self, count: int) -> None:
        """Return when this many bytes of RFB have arrived."""
        async with asyncio.timeout(_WAIT_S):
            while len(self.screen) < count:
                assert self.close_code is None
                await asyncio.sleep(0.01)

    async def until_closed(self) -> int:
        assert self._reader is not None
        async with asyncio.timeout(_WAIT_S):
            await self._reader
        assert self.close_code is not None
        return self.close_code

    async def _read(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        inbox: asyncio.Queue[dict[str, Any]],
    ) -> None:
        while True:
            message = await socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                self.screen += message.data
            elif message.type is aiohttp.WSMsgType.TEXT:
                data: dict[str, Any] = json.loads(message.data)
                self.messages.append(data)
                if data["type"] == "attached":
                    self.key = data["resume_key"]
                    await socket.send_str('{"type":"key_received"}')
                inbox.put_nowait(data)
            else:
                self.close_code = socket.close_code or 1006
                inbox.put_nowait({})
                return
