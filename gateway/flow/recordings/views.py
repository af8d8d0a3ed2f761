"""Viewing recordings: list, ticket, view, export. Each needs `recording:view` on the server.

    decide -> ticket -> (the player opens its WebSocket) decide again -> record -> chunks

A view ends within a second after its right has ended. The recorded person needs the right, too.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from gateway.domain.audit.record import ConsoleSessionFields
from gateway.domain.consoles.page_messages import ErrorText
from gateway.domain.errors import (
    GatewayError,
    LoginRequired,
    LoginUnavailable,
    NotAuthenticated,
    NotPermitted,
    RecordingElsewhere,
    RecordingNotFound,
    RecordingUnavailable,
    Rejection,
    TicketRejected,
)
from gateway.domain.model import (
    RECORDING_KEYS,
    RECORDING_VIEW,
    Principal,
    Secret,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.recordings import view_messages
from gateway.domain.recordings.model import RecordingInfo, RecordingPage, RecordingQuery
from gateway.domain.recordings.view_messages import (
    KeysMessage,
    OpenMessage,
    ReadMessage,
    ViewEnd,
    ViewMessageError,
    parse_view_message,
)
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_rights import ConsoleRights
from gateway.flow.consoles.frame_channel import FrameChannel
from gateway.flow.recordings.known_recordings import KnownRecordings
from gateway.flow.recordings.recording_store import (
    RecordingReader,
    RecordingUnreadable,
    Unreadable,
)
from gateway.flow.recordings.view_tickets import ViewTicket, ViewTickets
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit

_CHECK_EVERY_S: Final = 0.25
"""Short of the second within which a view without a right must end."""
_LOGINS_EVERY_S: Final = 0.4
"""A login must be missing twice: a new login of the same person replaces the session."""
_FIRST_MESSAGE_S: Final = 10.0
_LAST_MESSAGE_S: Final = 0.5
_DROP_S: Final = 0.05
"""For a close that does not wait for the player: the connection is dropped then."""
_DETAIL_CHARS_MAX: Final = 500
_PAGE: Final = 200
_PAGES_MAX: Final = 5
"""Of the directory in one request: the rest is another request's, with a place of its own in the
caller's limit."""
_TEXTS: Final = {
    Unreadable.IN_PROGRESS: "This recording is in progress. Play it when the session has ended;"
    " until then, `console:view` opens the live console.",
    Unreadable.KEY_MISSING: "This recording is encrypted with a key that the gateway does not have."
    " Ask the operators to restore it in `recordings.keys`.",
    Unreadable.CHANGED: "This recording was changed or damaged. Report it to the operators:"
    " `gateway recordings verify` says what is wrong.",
    Unreadable.UNAVAILABLE: "The recordings cannot be read at the moment. Try again; if it happens"
    " again, report it to the operators.",
}


_T = TypeVar("_T")

IsLoginOpen = Callable[[str, str], Awaitable[bool]]
"""Whether the login of an issuer and a lineage goes on; raises LoginUnavailable."""


@dataclass(frozen=True, slots=True)
class ViewEnding:
    end: ViewEnd
    error: ErrorText | None = None


class ActiveView:
    """A view or an export in progress; `ended` is set once."""

    def __init__(self, permit: Permit, login: str = "") -> None:
        """Every view needs `recording:view`, also one whose permit is for keystrokes.

        `login` is the lineage of the browser's session that the view needs; "" without one.
        """
        call = permit.call
        view = replace(call, operation=replace(call.operation, permission=RECORDING_VIEW))
        self.person = permit.principal
        self.login = login
        self.is_login_missing = False
        self.calls = (view,) if view == call else (view, call)
        self.ended: asyncio.Future[ViewEnding | None] = asyncio.get_running_loop().create_future()

    def end(self, ending: ViewEnding | None) -> None:
        """End it; None: the player has closed. Only the first end counts."""
        if not self.ended.done():
            self.ended.set_result(ending)


class RecordingExport:
    """An exported recording: the file that a person downloads."""

    def __init__(
        self,
        info: RecordingInfo,
        reader: RecordingReader,
        active: ActiveView,
        views: set[ActiveView],
    ) -> None:
        self._active = active
        self._views = views
        self.info = info
        self.reader = reader

    def on_right_ended(self, callback: Callable[[], None]) -> None:
        """Call back when the right has ended, also while a write waits for the client."""
        self._active.ended.add_done_callback(lambda _: callback())

    async def chunk(self, part: int, index: int) -> bytes:
        """Return the records of a chunk; raise NotPermitted, RecordingUnavailable."""
        if self._active.ended.done():
            raise NotPermitted("the right has ended")
        return await _readable(self.reader.chunk(part, index))

    def close(self) -> None:
        self._views.discard(self._active)
        self.reader.close()


class RecordingViews:
    def __init__(  # noqa: PLR0913 - what decides, what reads, and what records it
        self,
        *,
        recordings: KnownRecordings,
        tickets: ViewTickets,
        rights: ConsoleRights,
        limits: CallerLimits,
        audit: RequestAudit,
        clock: Clock,
        error_text: Callable[[GatewayError], ErrorText],
        on_failure: Callable[[Exception], None],
        is_login_open: IsLoginOpen | None = None,
    ) -> None:
        """`on_failure` receives the error of a defect.

        `is_login_open`: where people log in with a browser.
        """
        self._recordings = recordings
        self._tickets = tickets
        self._rights = rights
        self._limits = limits
        self._audit = audit
        self._clock = clock
        self._error_text = error_text
        self._on_failure = on_failure
        self._is_login_open = is_login_open
        self._active: set[ActiveView] = set()

    async def run(self) -> None:
        """End views when the right to them ends, until cancelled."""
        while True:
            self.check()
            await self._clock.sleep(_CHECK_EVERY_S)

    def check(self) -> None:
        for view in self._active:
            for call in view.calls:
                end = self._rights.view_end(view.person, call)
                if end is not None:
                    view.end(ViewEnding(view_messages.view_end(end)))

    async def run_logins(self) -> None:
        """End views when the login ends in which they were opened, until cancelled."""
        while True:
            with suppress(LoginUnavailable):  # then no login can end
                await self.check_logins()
            await self._clock.sleep(_LOGINS_EVERY_S)

    async def check_logins(self) -> None:
        for view in [one for one in self._active if one.login]:
            is_missing = not await self._has_login(view.person, view.login)
            if is_missing and view.is_login_missing:
                view.end(ViewEnding(view_messages.TOKEN_ENDED))
            view.is_login_missing = is_missing

    async def _has_login(self, person: Principal, login: str) -> bool:
        """Return whether the login goes on; True for a view that a token opened."""
        if not login:
            return True
        return self._is_login_open is not None and await self._is_login_open(person.issuer, login)

    async def list(
        self, query: RecordingQuery, limit: int, context: RequestContext
    ) -> RecordingPage:
        """Return at most `limit` recordings that the caller may view, the newest first.

        Those on this host are compared with the index. What a filter selects is not read by itself:
        where such a page ends would say that recordings exist which the caller may not view.
        """
        person = _person(context)
        self._limits.admit_once(context)
        has = self._rights.has
        permitted: list[RecordingInfo] = []
        is_complete, until = True, query.until
        for _ in range(_PAGES_MAX):
            all_of_time = RecordingQuery(since=query.since, until=until)
            page = await _readable(self._recordings.list(all_of_time, max(_PAGE, limit + 1)))
            is_complete = is_complete and page.is_complete
            permitted += [
                one
                for one in page.recordings
                if query.matches(one.details) and has(person, one.details.target, RECORDING_VIEW)
            ]
            until = page.until
            if until is None or len(permitted) > limit:
                break
        if len(permitted) > limit:
            until = math.nextafter(permitted[limit].details.started_at, math.inf)
        checked = await _readable(self._recordings.check(permitted[:limit]))
        return RecordingPage(checked, until, is_complete)

    async def find(self, recording: str, context: RequestContext) -> RecordingInfo:
        """Return one recording; raise RecordingNotFound, also where the right is missing."""
        info, _ = await self._permitted(recording, context, with_keystrokes=False)
        (checked,) = await _readable(self._recordings.check([info]))
        return checked

    def may_show_keys(self, info: RecordingInfo, context: RequestContext) -> bool:
        """Return whether a recording has keystrokes and the caller, who may view it, sees them."""
        details = info.details
        return details.has_keystrokes and self._rights.has(
            _person(context), details.target, RECORDING_KEYS
        )

    async def issue(
        self, recording: str, context: RequestContext, *, with_keystrokes: bool
    ) -> Secret:
        """Return a ticket for one view."""
        info, _ = await self._permitted(recording, context, with_keystrokes=with_keystrokes)
        reader = await self._open(info, with_keystrokes=with_keystrokes)
        reader.close()  # an address of what cannot be played would only fail later
        return self._tickets.issue(
            _person(context),
            recording,
            with_keystrokes=with_keystrokes,
            client_address=context.client_address,
            login=context.login,
        )

    async def export(self, recording: str, context: RequestContext) -> RecordingExport:
        """Open a recording for export, and record that; `close` it at the end."""
        info, permit = await self._permitted(recording, context, with_keystrokes=False)
        reader = await self._open(info, with_keystrokes=False)
        active = ActiveView(permit)
        self._active.add(active)
        info = replace(reader.info, elsewhere=info.elsewhere, gone=info.gone)
        export = RecordingExport(info, reader, active, self._active)
        try:
            await self._record("recording_exported", info, permit, context)
        except BaseException:
            export.close()
            raise
        return export

    async def serve(self, channel: FrameChannel, context: RequestContext) -> None:
        """Serve the WebSocket of a player to its end."""
        ended: asyncio.Future[ViewEnding | None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            ending = await self._view(channel, context, ended)
            if not ended.done():
                ended.set_result(ending)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            ending = await ended
            task.cancel()  # at once: no further chunk reaches the player
        if ending is not None:
            await self._close(channel, ending, context)

    async def _view(
        self,
        channel: FrameChannel,
        context: RequestContext,
        ended: "asyncio.Future[ViewEnding | None]",
    ) -> ViewEnding | None:
        """Serve a player until it closes (None) or the view ends."""
        try:
            return await self._open_and_read(channel, context, ended)
        except TicketRejected as refusal:
            return ViewEnding(view_messages.TICKET_REJECTED, self._error_text(refusal))
        except NotAuthenticated as refusal:
            is_expired = refusal.reason is Rejection.EXPIRED
            return ViewEnding(
                view_messages.TOKEN_ENDED if is_expired else view_messages.RIGHT_ENDED
            )
        except LoginRequired:
            return ViewEnding(view_messages.TOKEN_ENDED)
        except RecordingNotFound:
            return ViewEnding(view_messages.RIGHT_ENDED)
        except GatewayError as error:
            return ViewEnding(view_messages.UNAVAILABLE, self._error_text(error))
        except ViewMessageError:
            return ViewEnding(view_messages.PROTOCOL_ERROR)
        except Exception as error:  # noqa: BLE001 - a defect ends this view only
            self._on_failure(error)
            return ViewEnding(view_messages.UNAVAILABLE)

    async def _open_and_read(
        self,
        channel: FrameChannel,
        context: RequestContext,
        ended: "asyncio.Future[ViewEnding | None]",
    ) -> ViewEnding | None:
        try:
            async with asyncio.timeout(_FIRST_MESSAGE_S):
                first = await channel.receive()
        except TimeoutError:
            raise ViewMessageError("no message") from None
        if not isinstance(first, str):
            return None
        message = parse_view_message(first)
        if not isinstance(message, OpenMessage):
            raise ViewMessageError("the first message must be `open`")
        ticket = await self._spend(message.ticket, context)
        self._rights.check_token(ticket.person)
        if not await self._has_login(ticket.person, ticket.login):
            raise LoginRequired("the login has ended in which the ticket was requested")
        info, permit = await self._permitted(
            ticket.recording, context, with_keystrokes=ticket.with_keystrokes
        )
        reader = await self._open(info, with_keystrokes=ticket.with_keystrokes)
        info = replace(reader.info, elsewhere=info.elsewhere, gone=info.gone)
        active = ActiveView(permit, ticket.login)
        active.ended = ended
        self._active.add(active)
        try:
            detail = "with keystrokes" if ticket.with_keystrokes else ""
            await self._record("recording_viewed", info, permit, context, detail)
            next_ticket = self._tickets.next(ticket)
            opened = view_messages.opened(info, reader.parts, next_ticket)
            await channel.send_text(opened)
            await self._answer(channel, reader)
        finally:
            self._active.discard(active)
            reader.close()
        return None

    async def _answer(self, channel: FrameChannel, reader: RecordingReader) -> None:
        """Answer the player's requests until it closes."""
        while isinstance(text := await channel.receive(), str):
            match parse_view_message(text):
                case ReadMessage(part, chunk):
                    reading = reader.chunk(part, chunk)
                case KeysMessage(part, chunk):
                    reading = reader.keystrokes(part, chunk)
                case _:
                    raise ViewMessageError("a second `open`")
            try:
                records = await reading
            except RecordingUnreadable as error:
                await channel.send_text(view_messages.unreadable(error.reason.value))
            except IndexError:
                raise ViewMessageError("no such chunk") from None
            else:
                await channel.send(records)

    async def _spend(self, text: Secret, context: RequestContext) -> ViewTicket:
        ticket = self._tickets.read(text)
        context.principal = ticket.person
        try:
            await self._tickets.spend(text, ticket)
        except TicketRejected as refusal:
            refused = NotPermitted(f"recording {ticket.recording}: ticket {refusal}")
            await self._audit.not_permitted(context, refused)
            raise
        return ticket

    async def _permitted(
        self, recording: str, context: RequestContext, *, with_keystrokes: bool
    ) -> tuple[RecordingInfo, Permit]:
        """Return a recording that the caller may view; raise RecordingNotFound.

        What does not exist, was removed, or is not the caller's business looks the same.
        """
        person = _person(context)
        self._limits.admit_once(context)
        info = await _readable(self._recordings.find(recording))
        if info is None:
            raise RecordingNotFound(recording)
        target = info.details.target
        assert context.call is not None
        context.call = replace(context.call, project=target.project, servers=(target.server,))
        try:
            permit = self._decide(person, context, RECORDING_VIEW)
            if with_keystrokes:
                permit = self._decide(person, context, RECORDING_KEYS)
        except NotPermitted as refusal:
            about = NotPermitted(
                f"recording {recording}: {refusal}",
                rule=refusal.rule,
                permission=context.call.operation.permission,
            )
            await self._audit.not_permitted(context, about)
            raise RecordingNotFound(recording) from None
        return info, permit

    def _decide(self, person: Principal, context: RequestContext, permission: str) -> Permit:
        assert context.call is not None
        operation = replace(context.call.operation, permission=permission)
        context.call = replace(context.call, operation=operation)
        return self._rights.decide(person, context.call)

    async def _open(self, info: RecordingInfo, *, with_keystrokes: bool) -> RecordingReader:
        if not info.is_here:
            raise RecordingElsewhere(info.elsewhere, info.gone)
        opening = self._recordings.open(info.details.id, with_keystrokes=with_keystrokes)
        return await _readable(opening)

    async def _record(
        self,
        event: str,
        info: RecordingInfo,
        permit: Permit,
        context: RequestContext,
        detail: str = "",
    ) -> None:
        """Record who views whose session, before the first byte."""
        details = info.details
        record = self._audit.allowed(event, permit, context)
        record.target = f"{details.person.issuer}:{details.person.subject}"
        record.detail = "; ".join(filter(None, (detail, *info.warnings)))[:_DETAIL_CHARS_MAX]
        record.extra = ConsoleSessionFields(
            session=details.id, mode=details.mode.value, started_at=details.started_at
        )
        deadline = max(context.deadline, self._clock.monotonic() + _FIRST_MESSAGE_S)
        await self._audit.record(record, deadline)

    async def _close(
        self, channel: FrameChannel, ending: ViewEnding, context: RequestContext
    ) -> None:
        end = ending.end
        text = view_messages.ended(end, error=ending.error, request_id=context.request_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MESSAGE_S):
                await channel.send_text(text)
                await channel.close(end.code, end.name)
                return
        # The player does not read.
        with suppress(TimeoutError):
            async with asyncio.timeout(_DROP_S):
                await channel.close(end.code, end.name)


def _person(context: RequestContext) -> Principal:
    assert context.principal is not None
    return context.principal


async def _readable(reading: Awaitable[_T]) -> _T:
    try:
        return await reading
    except RecordingUnreadable as error:
        if error.reason is Unreadable.GONE:
            raise RecordingNotFound(str(error)) from None
        raise RecordingUnavailable(_TEXTS[error.reason]) from None
