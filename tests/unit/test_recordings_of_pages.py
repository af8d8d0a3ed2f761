"""Recordings with the session of a browser: what needs a recent login, and what a person may do."""

import json
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from gateway.domain.errors import FreshLoginRequired, NotPermitted
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal, Secret
from gateway.domain.queue.pacing import Pace
from gateway.domain.recordings.model import RecordingInfo
from gateway.edge.consoles.recordings_handler import RecordingsHandler
from gateway.edge.json_endpoint import PublicOrigin
from gateway.edge.people.browser_gate import BrowserGate, identify_by_session
from gateway.edge.people.login_cookies import LoginCookies
from gateway.edge.people.ui_mount import UiMount
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.request import RequestContext
from tests.support.clock import FakeClock
from tests.support.recordings import a_recording

ORIGIN = PublicOrigin("https://gw.example", "")
FRESH_S = 60.0
ID = a_recording().id
ANYTHING = cast("Any", None)


class Views:
    """`RecordingViews` that permit everything to the person, and note what was requested."""

    def __init__(self) -> None:
        self.requested: list[str] = []
        self.shows_keys = True

    async def find(self, recording: str, _: RequestContext) -> RecordingInfo:
        assert recording == ID
        return RecordingInfo(a_recording(), (), on_hold=False)

    def may_show_keys(self, _: RecordingInfo, __: RequestContext) -> bool:
        return self.shows_keys

    async def issue(self, _: str, __: RequestContext, *, with_keystrokes: bool) -> Secret:
        self.requested.append("keys" if with_keystrokes else "view")
        return Secret("ticket")

    async def export(self, _: str, __: RequestContext) -> None:
        self.requested.append("export")
        raise NotPermitted("the test needs no file")


class Page:
    """The paths below `/ui` for a person who has authenticated some seconds ago."""

    def __init__(self, login_age_s: float) -> None:
        self.views = Views()
        clock = FakeClock()
        person = Principal("corp", "olga", frozenset(), 0.0, 1e12, None)
        at = clock.now() - login_age_s
        session = BrowserSession("id", person, "lineage", "", "csrf", at, at, "id", "t")

        async def find(*_: object, **__: object) -> BrowserSession:
            return session

        async def recheck(_: BrowserSession) -> None:
            """Let the session go on."""

        gate = BrowserGate(
            origin=ORIGIN,
            cookies=LoginCookies(is_secure=True, session_age_max_s=60),
            sessions=cast("Any", SimpleNamespace(find=find, recheck=recheck)),
            limits=CallerLimits(Pace(9, 1_000, 9), ANYTHING, clock),
            clock=clock,
            fresh_s=FRESH_S,
        )
        handler = RecordingsHandler(
            ORIGIN,
            views=cast("Any", self.views),
            file=ANYTHING,
            identify=identify_by_session,
            sockets=ANYTHING,
            clock=clock,
            drop_connection=ANYTHING,
        )
        self._deadline = clock.monotonic() + 9
        self._mount = UiMount(gate, [("/console", handler.paths)])

    async def send(
        self, method: str, path: str = "", body: Mapping[str, object] | None = None
    ) -> Any:
        request: Any = SimpleNamespace(
            method=method,
            raw_path=f"/ui/console/recordings/{ID}{path}",
            headers=CIMultiDict(
                {
                    "Origin": ORIGIN.origin,
                    "X-CSRF-Token": "csrf",
                    "Content-Type": "application/json",
                }
            ),
            content=Body(json.dumps(body).encode()),
            body_exists=body is not None,
            content_length=None,
            send_continue=nothing,
        )
        endpoint = self._mount.find_endpoint(request)
        context = endpoint.context("r-1", "192.0.2.1", self._deadline)
        if endpoint.action.reply is not None:
            return json.loads(
                (await endpoint.action.reply(request, context, endpoint.subject)).body
            )
        assert endpoint.action.serve is not None
        return await endpoint.action.serve(request, context, endpoint.subject, CIMultiDict())


class Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._data


async def nothing() -> None:
    """Send no `100 Continue`."""


async def test_old_login_views_and_neither_exports_nor_shows_keys() -> None:
    page = Page(FRESH_S)
    assert (await page.send("POST", "/views", {}))["url"].endswith("#ticket")
    for path, body in (("/views", {"keys": True}), ("/export", {})):
        with pytest.raises(FreshLoginRequired):
            await page.send("POST", path, body)
    assert page.views.requested == ["view"]


async def test_recent_login_exports_and_shows_keys() -> None:
    page = Page(FRESH_S - 1)
    await page.send("POST", "/views", {"keys": True})
    with pytest.raises(NotPermitted):
        await page.send("POST", "/export", {})
    assert page.views.requested == ["keys", "export"]


async def test_recording_says_what_the_person_may_do() -> None:
    page = Page(FRESH_S)
    assert (await page.send("GET"))["may"] == ["view", "keys"]
    page.views.shows_keys = False
    assert (await page.send("GET"))["may"] == ["view"]
