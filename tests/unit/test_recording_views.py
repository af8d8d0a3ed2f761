"""Tickets and messages of views of recordings."""

import asyncio
import base64
import json
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.domain.consoles.model import ConsoleTarget
from gateway.domain.errors import (
    ConsoleStoreUnavailable,
    NotPermitted,
    RecordingNotFound,
    StoreUnavailable,
    TicketRejected,
)
from gateway.domain.model import (
    RECORDING_KEYS,
    RECORDING_VIEW,
    Operation,
    Principal,
    ResolvedCall,
    Secret,
    ServerId,
)
from gateway.domain.policy.inventory import NO_INVENTORY
from gateway.domain.policy.policy import Policy
from gateway.domain.recordings.model import (
    ChunkTimes,
    PartInfo,
    PartState,
    PartTimes,
    RecordingInfo,
    RecordingPage,
    RecordingQuery,
)
from gateway.domain.recordings.records import Record, RecordKind
from gateway.domain.recordings.view_messages import (
    TOKEN_ENDED,
    KeysMessage,
    OpenMessage,
    ReadMessage,
    ViewMessageError,
    opened_fields,
    parse_view_message,
)
from gateway.drivers.crypto.sealer import Sealer
from gateway.flow.local_replay_cache import LocalReplayCache
from gateway.flow.recordings.view_tickets import VIEW_TICKET_LIFETIME_S, ViewTicket, ViewTickets
from gateway.flow.recordings.views import (
    ActiveView,
    RecordingExport,
    RecordingViews,
    ViewEnding,
)
from gateway.flow.request import RequestContext
from tests.support.clock import FakeClock
from tests.support.console_world import a_rule
from tests.support.consoles import PROJECT, SERVER, TARGET
from tests.support.recordings import STARTED_AT, a_recording

KEY = Secret(base64.b64encode(os.urandom(32)).decode())
ANNA = Principal("corp", "anna", frozenset({"ops"}), 0.0, 9e9, "jti-1")


class UnavailableCache(LocalReplayCache):
    async def use(self, key: str, *, ttl_s: float) -> bool:
        raise StoreUnavailable("no Redis")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tickets(clock: FakeClock) -> ViewTickets:
    return ViewTickets(Sealer([KEY]), LocalReplayCache(clock), clock)


def issue(tickets: ViewTickets) -> Secret:
    return tickets.issue(ANNA, "0" * 32, with_keystrokes=False, client_address="192.0.2.1")


async def spend(tickets: ViewTickets, text: Secret) -> ViewTicket:
    ticket = tickets.read(text)
    await tickets.spend(text, ticket)
    return ticket


async def test_ticket_opens_one_view(tickets: ViewTickets) -> None:
    text = issue(tickets)
    ticket = await spend(tickets, text)
    assert (ticket.person, ticket.recording, ticket.with_keystrokes) == (ANNA, "0" * 32, False)
    assert ticket.person.key == ANNA.key
    with pytest.raises(TicketRejected, match="spent"):
        await spend(tickets, text)


async def test_ticket_expires(tickets: ViewTickets, clock: FakeClock) -> None:
    text = issue(tickets)
    await clock.advance(VIEW_TICKET_LIFETIME_S + 0.1)
    with pytest.raises(TicketRejected, match="expired"):
        await spend(tickets, text)


async def test_next_ticket_opens_the_same_view_once(tickets: ViewTickets) -> None:
    ticket = await spend(tickets, issue(tickets))
    following = tickets.next(ticket)
    assert (await spend(tickets, following)).recording == ticket.recording
    with pytest.raises(TicketRejected):
        await spend(tickets, following)


def test_changed_ticket_is_rejected(tickets: ViewTickets) -> None:
    text = issue(tickets).reveal()
    other = ViewTickets(Sealer([Secret(base64.b64encode(bytes(32)).decode())]), None, None)  # type: ignore[arg-type]
    changed = ("B" if text[0] == "A" else "A") + text[1:]
    for wrong in (text[:-2], f"{text}=", f"{text}\n", changed, "", "é", "x" * 40_000):
        with pytest.raises(TicketRejected) as rejected:
            tickets.read(Secret(wrong))
        assert not rejected.value.is_genuine
    with pytest.raises(TicketRejected):
        other.read(Secret(text))


async def test_ticket_is_refused_while_the_store_is_unavailable(clock: FakeClock) -> None:
    tickets = ViewTickets(Sealer([KEY]), UnavailableCache(clock), clock)
    with pytest.raises(ConsoleStoreUnavailable):
        await spend(tickets, issue(tickets))


@pytest.mark.parametrize(
    ("permission", "checked"),
    [
        (RECORDING_VIEW, [RECORDING_VIEW]),
        (RECORDING_KEYS, [RECORDING_VIEW, RECORDING_KEYS]),
    ],
)
async def test_view_with_keystrokes_needs_both_rights_to_go_on(
    permission: str, checked: list[str]
) -> None:
    call = ResolvedCall(Operation("ViewRecording", "GET", "/x", permission), PROJECT, (SERVER,))
    permit = Policy([a_rule(permission)], version="v1").permit(ANNA, call, 1.0, NO_INVENTORY)
    assert [one.operation.permission for one in ActiveView(permit).calls] == checked


async def test_view_ends_with_the_login_that_opened_it(clock: FakeClock) -> None:
    """A new login of the same person replaces the session: the login is missing for a moment."""
    call = ResolvedCall(Operation("ViewRecording", "GET", "/x", RECORDING_VIEW), PROJECT, (SERVER,))
    permit = Policy([a_rule(RECORDING_VIEW)], version="v1").permit(ANNA, call, 1.0, NO_INVENTORY)
    by_login, by_token = ActiveView(permit, "lineage-1"), ActiveView(permit)
    is_open: dict[tuple[str, str], bool] = {}

    async def is_login_open(issuer: str, lineage: str) -> bool:
        return is_open[issuer, lineage]

    views = RecordingViews(
        recordings=cast(Any, None),
        tickets=cast(Any, None),
        rights=cast(Any, None),
        limits=cast(Any, None),
        audit=cast(Any, None),
        clock=clock,
        error_text=cast(Any, None),
        on_failure=cast(Any, None),
        is_login_open=is_login_open,
    )
    views._active |= {by_login, by_token}
    for now_open, ends in ((True, False), (False, False), (True, False), (False, False)):
        is_open["corp", "lineage-1"] = now_open
        await views.check_logins()
        assert by_login.ended.done() is ends
    await views.check_logins()
    assert by_login.ended.result() == ViewEnding(TOKEN_ENDED)
    assert not by_token.ended.done()


async def test_ticket_of_an_ended_login_opens_nothing(
    tickets: ViewTickets, clock: FakeClock
) -> None:
    """The page of an open view has the next ticket, which is good for hours."""
    lasting: list[tuple[str, str]] = []
    sent: list[str] = []

    async def is_login_open(issuer: str, lineage: str) -> bool:
        lasting.append((issuer, lineage))
        return False

    async def receive() -> str:
        first = tickets.read(
            tickets.issue(
                *(ANNA, "0" * 32), with_keystrokes=False, client_address="", login="lineage-1"
            )
        )
        return json.dumps({"type": "open", "ticket": tickets.next(first).reveal()})

    async def send_text(text: str) -> None:
        sent.append(text)

    async def close(code: int, reason: str) -> None:
        sent.append(f"{code} {reason}")

    views = RecordingViews(
        recordings=cast(Any, None),
        tickets=tickets,
        rights=cast(Any, SimpleNamespace(check_token=lambda _: None)),
        limits=cast(Any, None),
        audit=cast(Any, None),
        clock=clock,
        error_text=cast(Any, None),
        on_failure=pytest.fail,
        is_login_open=is_login_open,
    )
    channel = SimpleNamespace(receive=receive, send_text=send_text, close=close)
    context = RequestContext(request_id="r-1", client_address="192.0.2.1", deadline=9.0)
    await views.serve(cast(Any, channel), context)
    assert lasting == [("corp", "lineage-1")]
    assert sent[-1] == "4003 token"


class OneRecording:
    """A `KnownRecordings` with one recording; notes whether its keystrokes were opened."""

    def __init__(self) -> None:
        self.opened: list[bool] = []

    async def find(self, recording: str) -> RecordingInfo:
        return RecordingInfo(a_recording(), (), on_hold=False)

    async def open(self, recording: str, *, with_keystrokes: bool) -> Any:
        self.opened.append(with_keystrokes)
        return SimpleNamespace(close=lambda: None)


@pytest.mark.parametrize(
    ("permissions", "with_keystrokes", "missing"),
    [
        ((RECORDING_VIEW,), False, None),
        ((RECORDING_VIEW,), True, RECORDING_KEYS),
        ((RECORDING_KEYS,), True, RECORDING_VIEW),
        ((RECORDING_VIEW, RECORDING_KEYS), True, None),
    ],
)
async def test_keystrokes_need_both_permissions(
    tickets: ViewTickets,
    clock: FakeClock,
    permissions: Sequence[str],
    with_keystrokes: bool,  # noqa: FBT001 - a parameter of the test
    missing: str | None,
) -> None:
    """A refusal looks like a recording that does not exist, and its record has the permission."""
    policy = Policy([a_rule(one) for one in permissions], version="v1")
    refused: list[NotPermitted] = []

    async def not_permitted(_: RequestContext, refusal: NotPermitted) -> None:
        refused.append(refusal)

    recordings = OneRecording()
    views = RecordingViews(
        recordings=cast(Any, recordings),
        tickets=tickets,
        rights=cast(
            Any,
            SimpleNamespace(
                decide=lambda person, call: policy.permit(person, call, 1.0, NO_INVENTORY)
            ),
        ),
        limits=cast(Any, SimpleNamespace(admit_once=lambda _: None)),
        audit=cast(Any, SimpleNamespace(not_permitted=not_permitted)),
        clock=clock,
        error_text=cast(Any, None),
        on_failure=cast(Any, None),
    )
    call = ResolvedCall(Operation("ViewRecording", "POST", "/x", RECORDING_VIEW), None, ())
    context = RequestContext(
        request_id="r-1", client_address="192.0.2.1", deadline=9.0, principal=ANNA, call=call
    )
    issuing = views.issue(a_recording().id, context, with_keystrokes=with_keystrokes)
    if missing is None:
        ticket = tickets.read(await issuing)
        assert ticket.with_keystrokes is with_keystrokes
        assert (recordings.opened, refused) == ([with_keystrokes], [])
        return
    with pytest.raises(RecordingNotFound):
        await issuing
    assert [one.permission for one in refused] == [missing]
    assert recordings.opened == []


class ManyRecordings:
    """A `KnownRecordings` with a recording each second; its pages have at most 10."""

    def __init__(self, targets: Sequence[ConsoleTarget]) -> None:
        self.all = [
            RecordingInfo(
                a_recording(number, target=target, started_at=STARTED_AT - number),
                (),
                on_hold=False,
            )
            for number, target in enumerate(targets, 1)
        ]
        self.pages = 0

    async def list(self, query: RecordingQuery, limit: int) -> RecordingPage:
        self.pages += 1
        found = [one for one in self.all if query.matches(one.details)]
        page = found[: min(limit, 10)]
        until = page[-1].details.started_at if len(page) < len(found) else None
        return RecordingPage(page, until)

    async def check(self, found: Sequence[RecordingInfo]) -> Sequence[RecordingInfo]:
        return found


def views_of(recordings: ManyRecordings, clock: FakeClock) -> tuple[RecordingViews, RequestContext]:
    """Return the views of a person who may view the recordings of one server."""
    views = RecordingViews(
        recordings=cast(Any, recordings),
        tickets=cast(Any, None),
        rights=cast(Any, SimpleNamespace(has=lambda _, target, __: target == TARGET)),
        limits=cast(Any, SimpleNamespace(admit_once=lambda _: None)),
        audit=cast(Any, None),
        clock=clock,
        error_text=cast(Any, None),
        on_failure=cast(Any, None),
    )
    context = RequestContext(
        request_id="r-1", client_address="192.0.2.1", deadline=9.0, principal=ANNA
    )
    return views, context


@pytest.mark.parametrize(
    ("every", "limit", "listed", "pages", "until"),
    [
        (1, 4, 4, 1, -5.0),
        (1, 200, 50, 5, -50.0),
        (1, 50, 50, 5, -50.0),
        (20, 2, 2, 5, -50.0),
        (100, 9, 0, 5, -50.0),
        (1_000, 9, 0, 5, -50.0),
        (9, 5, 5, 5, -50.0),
        (9, 4, 4, 5, -45.0),
    ],
)
async def test_list_has_the_newest_that_the_caller_may_view(
    clock: FakeClock, every: int, limit: int, listed: int, pages: int, until: float
) -> None:
    """It looks at a bounded number of others, and says from where the next request goes on."""
    other = ConsoleTarget("main", PROJECT, ServerId("other"))
    recordings = ManyRecordings([other if one % every else TARGET for one in range(1, 101)])
    views, context = views_of(recordings, clock)
    page = await views.list(RecordingQuery(), limit, context)
    assert [int(one.details.id, 16) for one in page.recordings] == [
        every * one for one in range(1, listed + 1)
    ]
    assert recordings.pages == pages
    assert page.until == pytest.approx(STARTED_AT + until)
    rest = [one for one in recordings.all if one.details.started_at < (page.until or 0.0)]
    assert len([one for one in rest if one.details.target == TARGET]) == 100 // every - listed


async def test_pages_say_nothing_of_what_a_filter_would_find(clock: FakeClock) -> None:
    other = ConsoleTarget("main", PROJECT, ServerId("other"))
    for query in (RecordingQuery(server=other.server), RecordingQuery(subject="ben")):
        pages = []
        for hidden in (other, ConsoleTarget("main", PROJECT, ServerId("third"))):
            views, context = views_of(ManyRecordings([hidden] * 100), clock)
            pages.append(await views.list(query, 9, context))
        assert pages[0] == pages[1]
        assert list(pages[0].recordings) == []


async def test_filter_selects_from_what_the_caller_may_view(clock: FakeClock) -> None:
    other = ConsoleTarget("main", PROJECT, ServerId("other"))
    views, context = views_of(ManyRecordings([other, TARGET] * 3), clock)
    page = await views.list(RecordingQuery(server=TARGET.server), 9, context)
    assert [int(one.details.id, 16) for one in page.recordings] == [2, 4, 6]
    page = await views.list(RecordingQuery(subject="nobody"), 9, context)
    assert list(page.recordings) == []


async def test_export_ends_with_its_right_while_a_write_waits() -> None:
    """The handler aborts the connection, which ends a write that the client does not read."""
    call = ResolvedCall(
        Operation("ExportRecording", "POST", "/x", RECORDING_VIEW), PROJECT, (SERVER,)
    )
    permit = Policy([a_rule(RECORDING_VIEW)], version="v1").permit(ANNA, call, 1.0, NO_INVENTORY)
    active = ActiveView(permit)
    info = RecordingInfo(a_recording(), (), on_hold=False)
    export = RecordingExport(info, cast(Any, None), active, {active})
    aborted = asyncio.Event()
    export.on_right_ended(aborted.set)
    await asyncio.sleep(0)
    assert not aborted.is_set()
    active.end(None)
    async with asyncio.timeout(60):
        await aborted.wait()
    with pytest.raises(NotPermitted):
        await export.chunk(1, 0)


def test_messages_of_the_player_are_read() -> None:
    opened = parse_view_message('{"type": "open", "ticket": "t"}')
    assert isinstance(opened, OpenMessage)
    assert "'t'" not in repr(opened)
    assert parse_view_message('{"type": "read", "part": 1, "chunk": 0}') == ReadMessage(1, 0)
    keys = parse_view_message('{"type": "keys", "part": 2, "chunk": 1}')
    assert keys == KeysMessage(2, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 5_000,
        "{}",
        '{"type": "read", "part": 0, "chunk": 0}',
        '{"type": "read", "part": 1, "chunk": -1}',
        '{"type": "read", "part": "1", "chunk": 0}',
        '{"type": "open"}',
        '{"type": "open", "ticket": "' + "x" * 70_000 + '"}',
    ],
)
def test_other_messages_are_rejected(text: str) -> None:
    with pytest.raises(ViewMessageError):
        parse_view_message(text)


def test_player_gets_input_watchers_and_mode_as_marks() -> None:
    """They come from the time index: the recording is not read for them."""
    marks = (
        Record(7, RecordKind.INPUT, b""),
        Record(8, RecordKind.WATCHERS, b"[]"),
        Record(9, RecordKind.MODE, b"view"),
        Record(10, RecordKind.END, b"{}"),
    )
    part = PartInfo(1, STARTED_AT, STARTED_AT + 1, "person", PartState.CLOSED, 100, "host-1")
    info = RecordingInfo(a_recording(), (part,), on_hold=False)
    chunks = (ChunkTimes(0, 10, 50),)
    (found,) = opened_fields(info, (PartTimes(part, chunks, marks, 2, 7),))["parts"]
    assert found["marks"] == [(7, 2, ""), (8, 3, "[]"), (9, 4, "view")]
    assert (found["duration_ms"], found["chunks"]) == (10, [{"first_ms": 0, "last_ms": 10}])
