"""Recordings with the session of a browser: what needs a recent login, and what a person may do."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from gateway.domain.errors import FreshLoginRequired, LoginRequired, NotPermitted
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal, Secret
from gateway.domain.queue.pacing import Pace
from gateway.domain.recordings.model import RecordingInfo
from gateway.edge.consoles import recordings_handler
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
        self.exported: Export | None = None

    async def find(self, recording: str, _: RequestContext) -> RecordingInfo:
        assert recording == ID
        return RecordingInfo(a_recording(), (), on_hold=False)

    def may_show_keys(self, _: RecordingInfo, __: RequestContext) -> bool:
        return self.shows_keys

    async def issue(self, _: str, __: RequestContext, *, with_keystrokes: bool) -> Secret:
        self.requested.append("keys" if with_keystrokes else "view")
        return Secret("ticket")

    async def export(self, _: str, __: RequestContext) -> "Export":
        self.requested.append("export")
        if self.exported is None:
            raise NotPermitted("the test needs no file")
        return self.exported


class Export:
    """A `RecordingExport` of some chunks, each of which takes `takes_s`."""

    def __init__(self, clock: FakeClock, *, chunks: int, takes_s: float) -> None:
        self._clock = clock
        self._takes_s = takes_s
        part = SimpleNamespace(info=SimpleNamespace(number=1), chunks=range(chunks))
        self.reader = SimpleNamespace(parts=(part,))
        self.info = RecordingInfo(a_recording(), (), on_hold=False)
        self.on_chunk: Callable[[int], None] = lambda _: None
        self.is_closed = False

    def on_right_ended(self, _: Callable[[], None]) -> None:
        """Never call back: the right does not end."""

    async def chunk(self, _: int, index: int) -> bytes:
        self.on_chunk(index)
        await self._clock.advance(self._takes_s)
        return b"%d" % index

    def close(self) -> None:
        self.is_closed = True


class File:
    """The response of an export, and the parts of its file."""

    def __init__(self, *, headers: object) -> None:
        del headers
        self.written: list[bytes] = []

    def enable_chunked_encoding(self) -> None: ...
    async def prepare(self, _: object) -> None: ...
    async def write_eof(self) -> None: ...
    async def write(self, data: bytes) -> None:
        self.written.append(data)


class Page:
    """The paths below `/ui` for a person who has authenticated some seconds ago."""

    def __init__(self, login_age_s: float) -> None:
        self.views = Views()
        clock = FakeClock()
        person = Principal("corp", "olga", frozenset(), 0.0, 1e12, None)
        at = clock.now() - login_age_s
        session = BrowserSession("id", person, "lineage", "", "csrf", at, at, "id", "t")

        self.clock, self.has_ended, self.dropped = clock, False, 0

        async def find(*_: object, **__: object) -> BrowserSession:
            return session

        async def recheck(_: BrowserSession) -> None:
            if self.has_ended:
                raise LoginRequired

        def drop(_: object) -> None:
            self.dropped += 1

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
            file=cast(
                "Any",
                SimpleNamespace(
                    head=lambda _: b"head", chunk=lambda *args: args[2], tail=lambda: b"tail"
                ),
            ),
            identify=identify_by_session,
            sockets=ANYTHING,
            clock=clock,
            drop_connection=drop,
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
            transport=object(),
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


async def test_logout_before_the_body_has_arrived_exports_nothing() -> None:
    page = Page(0.0)
    page.views.exported = export = Export(page.clock, chunks=1, takes_s=0.0)
    page.has_ended = True  # after the gate's look at the session
    with pytest.raises(LoginRequired):
        await page.send("POST", "/export", {})
    assert export.is_closed


@pytest.mark.parametrize("logs_out", [True, False])
async def test_logout_cuts_an_export_off(
    monkeypatch: pytest.MonkeyPatch, *, logs_out: bool
) -> None:
    """The session is looked at once in a second, not for each chunk."""
    monkeypatch.setattr(recordings_handler.web, "StreamResponse", File)
    monkeypatch.setattr(recordings_handler, "opened_fields", lambda *_: {})
    page = Page(0.0)
    page.views.exported = export = Export(page.clock, chunks=9, takes_s=0.4)

    def on_chunk(index: int) -> None:
        page.has_ended = logs_out and index >= 3

    export.on_chunk = on_chunk
    written = (await page.send("POST", "/export", {})).written
    if logs_out:
        assert written == [b"head", *(b"%d" % i for i in range(6))]
    else:
        assert written == [b"head", *(b"%d" % i for i in range(9)), b"tail"]
    assert (page.dropped, export.is_closed) == (int(logs_out), True)


async def test_recording_says_what_the_person_may_do() -> None:
    page = Page(FRESH_S)
    assert (await page.send("GET"))["may"] == ["view", "keys"]
    page.views.shows_keys = False
    assert (await page.send("GET"))["may"] == ["view"]
