"""A page of live consoles without a browser: HTTP and WebSockets as the page uses them."""

import asyncio
import json
import time
from typing import Any, Self

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from tests.support.stack import RunningGateway

SUBPROTOCOL = "console-gateway.v1"


class ConsoleClient:
    """One session; it may connect through any replica, as behind a load balancer."""

    def __init__(self, session: ClientSession, origin: str) -> None:
        self._session = session
        self._origin = origin
        self.id = self._cookie = self.key = ""
        self.socket: ClientWebSocketResponse | None = None
        self.texts: list[dict[str, Any]] = []

    async def redeem(self, gateway: RunningGateway, ticket: str, **options: Any) -> Self:
        body = {"ticket": ticket, "mode": "control", "take_over": False} | options
        async with self._session.post(
            f"{gateway.url}/console/redeem", json=body, headers={"Origin": self._origin}
        ) as response:
            assert response.status == 200, await response.text()
            answer = await response.json()
            self._cookie = response.headers.getall("Set-Cookie")[0].partition(";")[0]
        self.id, self.key = answer["session_id"], answer["resume_key"]
        return self

    async def connect(self, gateway: RunningGateway) -> None:
        """Open the WebSocket and attach."""
        self.texts = []
        self.socket = await self._session.ws_connect(
            f"{gateway.url}/console/s/{self.id}/socket",
            protocols=[SUBPROTOCOL],
            headers={"Origin": self._origin, "Cookie": self._cookie},
        )
        await self.send(type="attach", resume_key=self.key)

    async def send(self, **message: Any) -> None:
        assert self.socket is not None
        await self.socket.send_str(json.dumps(message))

    async def until_live(self, within_s: float = 20.0) -> None:
        """Return at the first bytes of the server's screen."""
        assert self.socket is not None
        async with asyncio.timeout(within_s):
            while True:
                message = await self.socket.receive()
                if message.type is WSMsgType.BINARY:
                    assert message.data.startswith(b"RFB 003")
                    return
                assert message.type is WSMsgType.TEXT, (message, self.texts)
                self._read(message.data)

    async def until_closed(self, within_s: float = 20.0) -> int:
        """Return the close code."""
        assert self.socket is not None
        async with asyncio.timeout(within_s):
            async for message in self.socket:
                if message.type is WSMsgType.TEXT:
                    self._read(message.data)
        code = self.socket.close_code
        assert code is not None
        return code

    async def resume_when_moved(self, gateway: RunningGateway, *, until: float) -> float:
        """Wait for the move, then return how long it took to be live again."""
        assert await self.until_closed(until - time.monotonic()) == 4007
        began = time.monotonic()
        await self.connect(gateway)
        await self.until_live()
        return time.monotonic() - began

    def _read(self, text: str) -> None:
        self.texts.append(json.loads(text))
        if self.texts[-1]["type"] == "attached":
            self.key = self.texts[-1]["resume_key"]


def deliver_proxied(
    gateway: RunningGateway, origin: str, *, links_per_s: float = 200.0, **console: Any
) -> None:
    """Change a gateway's config: live consoles, at this origin; write it."""
    gateway.cloud.settings(live_projects=[gateway.cloud.project])
    (gateway.directory / "authority.pem").write_text(gateway.cloud.console_authority())
    gateway.config["listen"]["public_url"] = origin
    gateway.config["console"] = {"private_networks": ["127.0.0.0/8"]} | console
    gateway.config["accounts"][0] |= {
        "ca_file": "authority.pem",
        "console": {"delivery": "proxied", "websocket": "directory", "subprotocol": "none"},
        "links": {"console_hosts": [gateway.cloud.console_host.partition("//")[2]]},
    }
    budget = gateway.config["accounts"][0]["budget"]
    budget["console"] = {"requests": links_per_s, "per_s": 1, "burst": 10}
    budget["wait_max_s"] = 20
    gateway.write_config()


def issue_ticket(gateway: RunningGateway, token: str, server: str) -> str:
    response = gateway.console(token, server)
    assert response.status == 200, response.body
    url: str = response.json["url"]
    return url.partition("#")[2]
