"""The gate of requests with a browser's session."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from gateway.domain.errors import (
    CallerLimited,
    CrossSiteRequest,
    FreshLoginRequired,
    LoginRequired,
    LoginUnavailable,
    PersonLocked,
)
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal
from gateway.domain.queue.pacing import Pace
from gateway.edge.admin.api import REQUEST_ID, AdminCall
from gateway.edge.admin.ui import AdminUi
from gateway.edge.json_endpoint import (
    Action,
    JsonReply,
    Paths,
    PublicOrigin,
    json_reply,
    require_fresh_login,
)
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.browser_gate import BrowserGate, identify_by_session
from gateway.edge.people.login_cookies import LoginCookies
from gateway.edge.people.ticket_browser import TicketBrowser
from gateway.edge.people.ui_mount import UiMount
from gateway.flow.admin.administration import Administrator
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.request import RequestContext
from tests.support.clock import FakeClock

ORIGIN = "https://gw.example"
BURST = 3


class Sessions:
    """Sessions by the value of the cookie: the person of the same name."""

    authenticated_at = 100.0
    has_ended = False
    is_locked = False

    async def find(
        self, cookie: str | None, *, is_activity: bool, deadline: float
    ) -> BrowserSession:
        if cookie is None:
            raise LoginRequired
        self.deadline = deadline
        session = await self.find_to_end(cookie, is_activity=is_activity)
        if self.is_locked:
            raise PersonLocked(session.person, "lock-1")
        return session

    async def find_to_end(self, cookie: str, *, is_activity: bool) -> BrowserSession:
        self.was_activity = is_activity
        person = Principal("corp", cookie, frozenset(), 0.0, 1e12, None)
        token, at = f"csrf-{cookie}", self.authenticated_at
        return BrowserSession("id", person, cookie, "", token, 0.0, at, "id", "t")

    async def recheck(self, session: BrowserSession) -> None:
        if self.has_ended:
            raise LoginRequired


@pytest.fixture
def gate() -> BrowserGate:
    clock, anything = FakeClock(), cast("Any", None)
    return BrowserGate(
        origin=PublicOrigin(ORIGIN, ""),
        cookies=LoginCookies(is_secure=True, session_age_max_s=60),
        sessions=cast("Any", Sessions()),
        limits=CallerLimits(Pace(BURST, 1_000, BURST), anything, clock),
        clock=clock,
        fresh_s=60.0,
    )


def sent_by_page(person: str | None, method: str = "GET", **headers: str) -> Any:
    sent = {"Sec-Fetch-Site": "same-origin"}
    if person is not None:
        sent["Cookie"] = f"__Host-gateway-session={person}"
    if method != "GET":
        sent |= {"Origin": ORIGIN, "X-CSRF-Token": f"csrf-{person}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(method=method, headers=CIMultiDict(sent), raw_path="/ui/links/1")


class AdminRequest:
    """A request to the admin listener, which has given it an ID."""

    peer = "192.0.2.1"

    def __init__(self, request: Any) -> None:
        self.method, self.headers, self.raw_path = request.method, request.headers, request.raw_path

    def __getitem__(self, key: object) -> str:
        assert key is REQUEST_ID
        return "r"


async def send(
    gate: BrowserGate, person: str | None, method: str = "GET", **headers: str
) -> RequestContext:
    request = sent_by_page(person, method, **headers)
    context = RequestContext(request_id="r", client_address="192.0.2.1", deadline=9.0)
    await gate.session(request, context)
    return context


async def test_people_behind_one_address_have_a_limit_each(gate: BrowserGate) -> None:
    for i in range(4 * BURST):
        await send(gate, f"person-{i}")
    for _ in range(BURST):
        await send(gate, "olga")
    with pytest.raises(CallerLimited):
        await send(gate, "olga")


async def test_requests_without_a_session_share_the_limit_of_their_address(
    gate: BrowserGate,
) -> None:
    for _ in range(BURST):
        with pytest.raises(LoginRequired):
            await send(gate, None)
    with pytest.raises(CallerLimited):
        await send(gate, None)


async def test_write_needs_origin_and_token(gate: BrowserGate) -> None:
    context = await send(gate, "olga", "POST")
    assert context.principal is not None
    assert context.principal.subject == "olga"
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "same-site"},
        {"X_CSRF_Token": "csrf-victor"},
        {"X_CSRF_Token": ""},
        {"X_CSRF_Token": "\udce4"},
    ):
        with pytest.raises(CrossSiteRequest):
            await send(gate, "ben", "POST", **headers)


async def test_locked_person_can_log_out(gate: BrowserGate) -> None:
    """Otherwise the session would be there for the next person at this browser after the lock."""
    cast("Sessions", gate.sessions).is_locked = True
    context = RequestContext(request_id="r", client_address="192.0.2.1", deadline=9.0)
    with pytest.raises(PersonLocked):
        await gate.session(sent_by_page("olga", "POST"), context)
    session = await gate.session(sent_by_page("olga", "POST"), context, to_end=True)
    assert session.person.subject == "olga"
    forged = sent_by_page(None, "POST", Cookie="__Host-gateway-session=olga")
    with pytest.raises(CrossSiteRequest):
        await gate.session(forged, context, to_end=True)


async def test_polling_of_a_page_is_no_activity(gate: BrowserGate) -> None:
    sessions = cast("Sessions", gate.sessions)
    for method, headers, is_activity in (
        ("GET", {}, False),
        ("GET", {"X_Activity": "person"}, True),
        ("POST", {}, True),
    ):
        await send(gate, "olga", method, **headers)
        assert sessions.was_activity is is_activity


async def test_handler_without_the_gate_identifies_no_person() -> None:
    context = RequestContext(request_id="r", client_address="", deadline=0.0)
    with pytest.raises(LoginRequired):
        await identify_by_session(cast("Any", None), context)


def test_old_login_is_not_fresh(gate: BrowserGate) -> None:
    person = Principal("corp", "olga", frozenset(), 0.0, 1e12, None)
    now = gate.clock.now()
    for authenticated_at, is_fresh in ((now, True), (now - 61, False), (0.0, False)):
        session = BrowserSession("id", person, "", "", "", now, authenticated_at, "id", "t")
        assert gate.is_fresh(session) is is_fresh


async def test_action_that_needs_a_fresh_login_is_refused_after_an_old_one(
    gate: BrowserGate,
) -> None:
    with pytest.raises(FreshLoginRequired):
        require_fresh_login(await send(gate, "olga", "POST"))
    cast("Sessions", gate.sessions).authenticated_at = gate.clock.now()
    require_fresh_login(await send(gate, "olga", "POST"))


async def test_browser_with_an_unreadable_session_opens_no_ticket(gate: BrowserGate) -> None:
    """Without Redis its login may be another person's; a browser without cookie has none."""

    class Unreadable:
        async def find(self, *_: object, **__: object) -> BrowserSession:
            raise LoginUnavailable("away", retry_after_s=1.0)

    gate = replace(gate, sessions=cast("Any", Unreadable()))
    context = RequestContext(request_id="r", client_address="192.0.2.1", deadline=9.0)
    cookie = {"Cookie": "__Host-gateway-session=olga"}
    request: Any = SimpleNamespace(method="POST", headers=CIMultiDict(cookie))
    with pytest.raises(LoginUnavailable):
        await TicketBrowser(gate).login(request, context)
    request.headers.clear()
    assert await TicketBrowser(gate).login(request, context) is None


@pytest.mark.parametrize(
    ("method", "gives_access", "takes_s", "is_answered"),
    [
        ("POST", True, 0.0, False),
        ("POST", False, 0.6, True),
        ("GET", False, 0.6, False),
        ("GET", False, 0.0, True),
    ],
)
async def test_session_that_ends_meanwhile_gets_no_reply(
    gate: BrowserGate, *, method: str, gives_access: bool, takes_s: float, is_answered: bool
) -> None:
    """A quick read, as pages that poll send, costs one look at the session only.

    A write that was done, as of a server's power, is not reported as refused.
    """
    sessions, clock = cast("Sessions", gate.sessions), cast("FakeClock", gate.clock)

    async def wait(request: ListenerRequest, context: RequestContext, subject: str) -> JsonReply:
        del request, context
        sessions.has_ended = True
        await clock.advance(takes_s)
        return json_reply({"link": subject})

    paths: Paths = (
        (re.compile("/(1)"), {method: Action("ShowLink", wait, gives_access=gives_access)}),
    )
    mount, request = UiMount(gate, [("/links", paths)]), sent_by_page("olga", method)
    endpoint = mount.find_endpoint(request)
    assert endpoint.action.reply is not None
    replying = endpoint.action.reply(request, endpoint.context("r", "192.0.2.1", 9.0), "1")
    if is_answered:
        assert (await replying).body == b'{"link":"1"}'
    else:
        with pytest.raises(LoginRequired):
            await replying


async def test_administrator_of_a_browser_is_checked_again(gate: BrowserGate) -> None:
    """By the operators' pages, before a write and after a slow read."""
    found: list[Administrator] = []

    async def respond(_: AdminCall, authenticate: Any, __: Any) -> None:
        found.append(await authenticate())

    action = SimpleNamespace(spec=SimpleNamespace(method="GET", path="/locks"))
    api: Any = SimpleNamespace(administration=SimpleNamespace(actions=[action]), respond=respond)
    gate.sessions.check = lambda _: None  # type: ignore[method-assign]
    routes = {path: handler for _, path, handler in AdminUi(api, gate, (), gate.clock).routes()}
    request = AdminRequest(sent_by_page("ada"))
    await routes["/ui/admin/locks"](cast("Any", request))
    (administrator,) = found
    assert administrator.principal.subject == "ada"
    assert administrator.recheck is not None
    await administrator.recheck()
    cast("Sessions", gate.sessions).has_ended = True
    with pytest.raises(LoginRequired):
        await administrator.recheck()
