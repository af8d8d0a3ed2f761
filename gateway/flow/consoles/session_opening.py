"""Spends a ticket for a session, and records the session and its take-over.

The records of a take-over come first: without audit log it ends no session. The work runs to its
end although the caller is cancelled: a client may disconnect at any time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.consoles import ends
from gateway.domain.consoles.model import ConsoleSession, PersonRef, SessionMode, Ticket
from gateway.domain.consoles.rules import SessionRules
from gateway.domain.consoles.ticket_text import secret_hash
from gateway.domain.errors import (
    AuditLogUnavailable,
    ConsoleStoreUnavailable,
    GatewayError,
    StoreUnavailable,
)
from gateway.domain.model import Secret
from gateway.flow.clock import Clock
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_rights import ConsolePermit
from gateway.flow.consoles.console_store import (
    CommandKind,
    ConsoleInUse,
    ConsoleStore,
    LimitReached,
    Redeemed,
    SessionCommand,
    TakeOver,
    TicketGone,
    WouldEnd,
)
from gateway.flow.consoles.console_telemetry import ConsoleTelemetry
from gateway.flow.request import RequestContext
from gateway.flow.shielded_tasks import ShieldedTasks

_RETRY_AFTER_S: Final = 1.0
_TRIES: Final = 5
"""Each time other sessions are on the server."""
NotOpened = TicketGone | ConsoleInUse | LimitReached


@dataclass(frozen=True, slots=True)
class NewSession:
    session: ConsoleSession
    cookie: Secret
    resume_key: Secret


@dataclass(frozen=True, slots=True)
class TicketUse:
    """The use of a ticket."""

    ticket: Ticket
    ticket_hash: bytes = field(repr=False)
    fingerprint: str
    permit: ConsolePermit
    take_over: TakeOver
    login: str
    """`BrowserLogin.lineage`."""


@dataclass(frozen=True, slots=True)
class SessionSecrets:
    """Makes the random values of a session."""

    token: Callable[[], str]
    """Returns 32 random bytes as text."""
    session_id: Callable[[], str]
    """Returns 16 random bytes as hex digits."""


class SessionOpening:
    def __init__(
        self,
        *,
        store: ConsoleStore,
        rules: SessionRules,
        new_secrets: SessionSecrets,
        audit: ConsoleAudit,
        clock: Clock,
        telemetry: ConsoleTelemetry,
    ) -> None:
        self._store = store
        self._rules = rules
        self._new_secrets = new_secrets
        self._audit = audit
        self._clock = clock
        self._telemetry = telemetry
        self._shielded = ShieldedTasks()

    async def open(self, use: TicketUse, context: RequestContext) -> NewSession | NotOpened:
        """Spend a ticket; the session's record is durable when this returns.

        A cancelled caller leaves complete records, and no session. Raises ConsoleStoreUnavailable
        and AuditLogUnavailable.
        """
        opening = self._shielded.start(self._open(use, context))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            _ = self._shielded.start(self._abandon(opening))
            raise

    async def _open(self, use: TicketUse, context: RequestContext) -> NewSession | NotOpened:
        new = self._new_session(use, context)
        session = new.session
        recorded: set[str] = set()
        try:
            result = await self._spend(use, new, recorded)
        except (AuditLogUnavailable, ConsoleStoreUnavailable) as error:
            if recorded:
                await self._correct(session, f"not opened: {error}")
            raise
        if not isinstance(result, Redeemed):
            if recorded:
                await self._correct(session, "not opened")
            return result
        by = PersonRef.of(session.person)
        for first in result.ended:
            await self._audit.session_ended(first, ends.TAKEN_OVER, by=by)
            self._telemetry.session_ended(first.target.account, ends.TAKEN_OVER.name)
        if not recorded:
            await self._record_spent(use, session)
        self._telemetry.session_started(session.target.account, session.mode.value)
        return new

    def _new_session(self, use: TicketUse, context: RequestContext) -> NewSession:
        ticket = use.ticket
        cookie, resume_key = self._new_secrets.token(), self._new_secrets.token()
        session = ConsoleSession(
            id=self._new_secrets.session_id(),
            person=ticket.person,
            target=ticket.target,
            mode=use.permit.mode,
            started_at=self._clock.now(),
            cookie_hash=secret_hash(cookie),
            client_address=context.client_address,
            ticket_address=ticket.client_address,
            request_id=context.request_id,
            login=use.login,
        )
        return NewSession(session, Secret(cookie), Secret(resume_key))

    async def _spend(
        self, use: TicketUse, new: NewSession, recorded: set[str]
    ) -> Redeemed | NotOpened:
        """Spend the ticket; a take-over is recorded first.

        `recorded` gets the IDs of the sessions with a recorded take-over. If there are any, the
        start of the new session is recorded.
        """
        for _ in range(_TRIES):
            result = await self._redeem(use, new, frozenset(recorded))
            if not isinstance(result, WouldEnd):
                return result
            if not recorded:
                await self._record_start(use, new.session)
            recorded.update(one.id for one in result.sessions)
            for first in result.sessions:
                await self._audit.taken_over(new.session, first)
        raise ConsoleStoreUnavailable(
            "the sessions on the server change too fast", retry_after_s=_RETRY_AFTER_S
        )

    async def _redeem(
        self, use: TicketUse, new: NewSession, recorded: frozenset[str]
    ) -> Redeemed | WouldEnd | NotOpened:
        is_control = use.permit.mode is SessionMode.CONTROL
        try:
            return await self._store.redeem(
                use.ticket_hash,
                new.session,
                secret_hash(new.resume_key.reveal()),
                self._rules.limits(use.ticket.target.account),
                take_over=use.take_over if is_control else TakeOver.NONE,
                recorded=recorded,
            )
        except StoreUnavailable as error:
            raise ConsoleStoreUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from None

    async def _record_start(self, use: TicketUse, session: ConsoleSession) -> None:
        try:
            await self._audit.session_started(session, use.permit.permit, use.fingerprint)
        except AuditLogUnavailable:
            self._telemetry.ticket_rejected("audit")
            raise

    async def _record_spent(self, use: TicketUse, session: ConsoleSession) -> None:
        try:
            await self._record_start(use, session)
        except AuditLogUnavailable:
            # Without a record there is no session: its cookie is discarded, and it ends at once.
            _ = await self._end(session)
            raise

    async def _correct(self, session: ConsoleSession, detail: str) -> None:
        """Record the end of a session whose start is recorded, and that is not opened."""
        # The store may have it, if its answer was lost. If this answer is lost, the session
        # lapses, with a second record of its end.
        _ = await self._end(session)
        await self._audit.session_ended(session, ends.ABANDONED, detail=detail)

    async def _abandon(self, opening: asyncio.Task[NewSession | NotOpened]) -> None:
        """End a session if the caller left before it received the cookie."""
        try:
            new = await opening
        except GatewayError:
            return
        if isinstance(new, NewSession) and await self._end(new.session):
            self._telemetry.session_ended(new.session.target.account, ends.ABANDONED.name)
            await self._audit.session_ended(new.session, ends.ABANDONED)

    async def _end(self, session: ConsoleSession) -> bool:
        """Return whether a session without a page ended here."""
        command = SessionCommand(session.id, CommandKind.END, ends.ABANDONED.name)
        try:
            return (await self._store.command(command)).ended is not None
        except StoreUnavailable:
            return False  # it lapses
