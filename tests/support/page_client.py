"""A client of the page's protocol without a browser: redeems a ticket, attaches, speaks RFB."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from tests.support.rfb_client import TIMEOUT_S, RfbClient, RfbClosed

SUBPROTOCOL = "console-gateway.v1"


class PageSocketClient(RfbClient):
    """One WebSocket of a session. Text frames are collected; binary frames are RFB."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, page: "PageClient") -> None:
        super().__init__(socket)
        self._page = page
        self.messages: list[dict[str, Any]] = []
        """Text frames so far."""

    async def attach(self) -> dict[str, Any]:
        """Send the resume key; return the message `attached`. Raises RfbClosed if refused."""
        await self.send_message(type="attach", resume_key=self._page.resume_key)
        attached = await self.wait_for(lambda message: message["type"] == "attached")
        self._page.resume_key = attached["resume_key"]
        return attached

    async def wait_live(self) -> None:
        await self.wait_for(lambda message: message.get("state") == "live")

    async def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message, past or future, for which the condition holds."""
        checked = 0
        while True:
            for message in self.messages[checked:]:
                if condition(message):
                    return message
            checked = len(self.messages)
            await self.receive()

    async def wait_ended(self) -> tuple[int | None, dict[str, Any]]:
        """Read until the WebSocket closes; return its code and the last message."""
        try:
            while True:
                await self.receive()
        except RfbClosed as closed:
            return closed.args[0], self.messages[-1] if self.messages else {}

    async def send_message(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def receive(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            message = await self.socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            self.messages.append(json.loads(message.data))
        elif message.type is aiohttp.WSMsgType.BINARY:
            self._buffer += message.data
        else:
            raise RfbClosed(self.socket.close_code, message.extra)


class PageClient:
    """The page of one address."""

    def __init__(self, address: str, http: aiohttp.ClientSession) -> None:
        parts = urlsplit(address)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.path = parts.path
        self.ticket = parts.fragment
        self.resume_key = ""
        self.session_id = ""
        self.socket_path = ""
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str) -> AsyncIterator[Self]:
        jar = aiohttp.CookieJar(unsafe=True)  # it takes cookies of an IP address, as browsers do
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(cookie_jar=jar, timeout=timeout) as http:
            yield cls(address, http)

    async def describe(self) -> tuple[int, dict[str, Any]]:
        """Return what the ticket is for."""
        return await self._post("ticket", {"ticket": self.ticket})

    async def redeem(self, mode: str = "control", **body: Any) -> tuple[int, dict[str, Any]]:
        """Spend the ticket."""
        status, answer = await self._post("redeem", {"ticket": self.ticket, "mode": mode, **body})
        if status == 200:
            self.resume_key, self.session_id = answer["resume_key"], answer["session_id"]
            self.socket_path = answer["socket"]
        return status, answer

    @asynccontextmanager
    async def connect(self, **headers: str) -> AsyncIterator[PageSocketClient]:
        """Open the session's WebSocket; nothing is sent on it."""
        async with self._http.ws_connect(
            self.origin + self.socket_path,
            protocols=(SUBPROTOCOL,),
            headers={"Origin": self.origin, **headers},
            max_msg_size=0,
        ) as socket:
            yield PageSocketClient(socket, self)

    async def _post(self, what: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        url, headers = f"{self.origin}{self.path}/{what}", {"Origin": self.origin}
        async with self._http.post(url, json=body, headers=headers) as response:
            return response.status, await response.json()


@asynccontextmanager
async def open_live(address: str, mode: str = "control") -> AsyncIterator[PageSocketClient]:
    """Redeem an address and go as far as the state `live`."""
    async with PageClient.open(address) as page:
        status, body = await page.redeem(mode)
        assert status == 200, body
        async with page.connect() as socket:
            await socket.attach()
            await socket.wait_live()
            yield socket
