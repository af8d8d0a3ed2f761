"""A live console that opens while the login of its browser ends."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.errors import LoginRequired
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal, Secret
from gateway.edge.consoles.console_handler import ConsoleHandler
from gateway.edge.json_endpoint import JsonReply, PublicOrigin
from gateway.edge.people.ticket_browser import TicketBrowser

ORIGIN = "https://gw.example"
OLGA = Principal("corp", "olga", frozenset(), 0.0, 1e12, None)
SESSION = BrowserSession("id", OLGA, "olga", "", "csrf", 0.0, 0.0, "lineage", "token")


class World:
    """Logins and live consoles; the login ends while a console opens, if `ends_meanwhile`."""

    def __init__(self) -> None:
        self.ends_meanwhile = False
        self.has_ended = False
        self.ended: list[tuple[str, SessionEnd]] = []
        anything: Any = self
        self.handler = ConsoleHandler(
            PublicOrigin(ORIGIN, ""),
            assets=anything,
            cookies=anything,
            redemption=anything,
            sessions=anything,
            limits=anything,
            bearer=anything,
            sockets=anything,
            recordings=None,
            clock=anything,
            browser=TicketBrowser(
                cast("Any", SimpleNamespace(cookies=self, sessions=self, is_fresh=bool))
            ),
        )

    def session(self, _: object) -> str:
        return "cookie"

    def admit(self, _: object) -> None:
        return

    def monotonic(self) -> float:
        return 0.0

    def set_headers(self, session_id: str, _: Secret) -> tuple[tuple[str, str], ...]:
        return (("Set-Cookie", session_id),)

    async def find(self, *_: object, **__: object) -> BrowserSession:
        return SESSION

    async def recheck(self, session: BrowserSession) -> None:
        assert session is SESSION
        if self.has_ended:
            raise LoginRequired

    async def redeem(self, *_: object, **__: object) -> Any:
        self.has_ended = self.ends_meanwhile
        return SimpleNamespace(
            session=SimpleNamespace(id="s" * 32), cookie=None, resume_key=Secret("k")
        )

    async def end(self, session_id: str, end: SessionEnd) -> bool:
        self.ended.append((session_id, end))
        return True

    async def redeemed(self) -> JsonReply:
        async def body() -> AsyncIterator[bytes]:
            yield b'{"ticket":"t"}'

        async def send_continue() -> None:
            return

        sent = {"Origin": ORIGIN, "Content-Type": "application/json"}
        request: Any = SimpleNamespace(
            method="POST",
            raw_path="/console/redeem",
            headers=CIMultiDict(sent),
            body_exists=True,
            content_length=14,
            content=SimpleNamespace(iter_any=body),
            send_continue=send_continue,
        )
        endpoint = self.handler.find_endpoint(request)
        assert endpoint.action.reply is not None
        return await endpoint.action.reply(request, endpoint.context("r", "192.0.2.1", 9.0), "")


async def test_console_of_a_login_that_goes_on_opens() -> None:
    world = World()
    assert (await world.redeemed()).headers[-1] == ("Set-Cookie", "s" * 32)
    assert world.ended == []


async def test_console_of_a_login_that_ends_meanwhile_ends() -> None:
    """The end of the login looked for its consoles before this one was stored."""
    world = World()
    world.ends_meanwhile = True
    with pytest.raises(LoginRequired):
        await world.redeemed()
    assert world.ended == [("s" * 32, ends.LOGGED_OUT)]
