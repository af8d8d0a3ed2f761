"""Tickets at the page: describe one, and spend one for a session.

Everything that was checked when the ticket was issued is checked again: token, revocations, locks,
policy, inventory, limits. It calls no cloud.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.consoles.model import (
    PARKED_LIFETIME_S,
    TICKETS_PER_PERSON_MAX,
    BrowserLogin,
    ConsoleSession,
    ConsoleTarget,
    InUse,
    PersonRef,
    SessionMode,
    Ticket,
)
from gateway.domain.consoles.rules import SessionRules
from gateway.domain.consoles.ticket_text import TicketTexts, secret_hash
from gateway.domain.errors import (
    ConsoleBusy,
    ConsoleStoreUnavailable,
    GatewayError,
    NotAuthenticated,
    NotPermitted,
    SessionLimitReached,
    StoreUnavailable,
    TicketOfAnotherPerson,
    TicketRejected,
)
from gateway.domain.model import CONSOLE_TAKEOVER, CONSOLE_VIEW, Principal, ProjectId, Secret
from gateway.flow.clock import Clock
from gateway.flow.console_links import Fingerprints
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_rights import ConsolePermit, ConsoleRights
from gateway.flow.consoles.console_store import (
    ConsoleInUse,
    ConsoleStore,
    FoundTicket,
    LimitReached,
    TakeOver,
    TicketGone,
)
from gateway.flow.consoles.console_telemetry import ConsoleTelemetry
from gateway.flow.consoles.recorded_once import RecordedByOne
from gateway.flow.consoles.session_opening import (
    NewSession,
    NotOpened,
    SessionOpening,
    SessionSecrets,
    TicketUse,
)
from gateway.flow.consoles.ticket_binding import TicketBinding, is_parked, parked_text
from gateway.flow.request import RequestContext
from gateway.flow.shielded_tasks import ShieldedTasks

_RETRY_AFTER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class TicketDescription:
    target: ConsoleTarget
    person: PersonRef
    mode: SessionMode
    """The greatest mode in which the console may be opened now."""
    expires_in_s: float
    in_use: InUse | None
    is_recorded: bool
    records_keys: bool


class Redemption:
    def __init__(  # noqa: PLR0913 - what is checked, and what records it
        self,
        *,
        texts: TicketTexts,
        account_of: Callable[[ProjectId], str | None],
        rights: ConsoleRights,
        store: ConsoleStore,
        rules: SessionRules,
        new_secrets: SessionSecrets,
        fingerprints: Fingerprints,
        audit: ConsoleAudit,
        clock: Clock,
        telemetry: ConsoleTelemetry,
        requires_login: bool = False,
    ) -> None:
        """`account_of` returns the account of a project if it delivers live consoles.

        `requires_login`: a ticket opens only in a browser in which its person is logged in.
        """
        self._binding = TicketBinding(requires_login=requires_login)
        self._texts = texts
        self._account_of = account_of
        self._rights = rights
        self._store = store
        self._rules = rules
        self._new_secrets = new_secrets
        self._opening = SessionOpening(
            store=store,
            rules=rules,
            new_secrets=new_secrets,
            audit=audit,
            clock=clock,
            telemetry=telemetry,
        )
        self._fingerprints = fingerprints
        self._audit = audit
        self._telemetry = telemetry
        self._recorded = RecordedByOne(store)
        self._shielded = ShieldedTasks()

    async def describe(
        self, text: str, context: RequestContext, *, login: BrowserLogin | None = None
    ) -> TicketDescription:
        """Return what a ticket is for, without spending it; `login` is the browser's.

        Raises TicketRejected, TicketOfAnotherPerson, LoginRequired, FreshLoginRequired,
        NotPermitted, NotAuthenticated, RevocationsUnavailable and ConsoleStoreUnavailable.
        """
        found = await self._find(text, context)
        ticket = found.ticket
        await self._check_login(text, ticket, login, context)
        mode = (await self._permit(text, ticket, None, context)).mode
        in_use = None
        if mode is SessionMode.CONTROL:
            in_use = await self._in_use(ticket)
        person = PersonRef.of(ticket.person)
        return TicketDescription(
            ticket.target,
            person,
            mode,
            found.left_s,
            in_use,
            is_recorded=self._rules.is_recorded(ticket.target.account),
            records_keys=self._rules.records_keys(ticket.target.account),
        )

    async def redeem(
        self,
        text: str,
        context: RequestContext,
        *,
        mode: SessionMode,
        take_over: bool,
        login: BrowserLogin | None = None,
    ) -> NewSession:
        """Spend a ticket for a session; the session's record is durable when this returns.

        The record of a take-over is durable before it ends a session. A caller that is cancelled
        after the checks leaves complete records, and no session. Raises what `describe` raises,
        ConsoleBusy, SessionLimitReached (these do not spend the ticket), and AuditLogUnavailable.
        """
        ticket = (await self._find(text, context)).ticket
        await self._check_login(text, ticket, login, context)
        permit = await self._permit(text, ticket, mode, context)
        takes_over = self._take_over(ticket) if take_over else TakeOver.NONE
        if takes_over is TakeOver.OWN and not await self._has_own_only(ticket):
            refusal = NotPermitted("no right to take over", permission=CONSOLE_TAKEOVER)
            await self._reject(text, ticket, refusal, context)
            raise refusal
        ticket_hash = self._name_of(text)
        assert ticket_hash is not None, "it was found"
        use = TicketUse(
            ticket,
            ticket_hash,
            self._fingerprint(text, ticket),
            permit,
            takes_over,
            "" if login is None else login.lineage,
        )
        new = await self._opening.open(use, context)
        if isinstance(new, NewSession):
            return new
        raise await self._refusal(text, ticket, new, context)

    async def park(self, text: str, context: RequestContext) -> Secret:
        """Spend a ticket, and store it for a browser in which its person is about to log in.

        Return the secret of this browser. Raises TicketRejected, ConsoleStoreUnavailable.
        """
        ticket_hash = self._name_of(text)
        if ticket_hash is None or is_parked(text):
            raise TicketRejected("not a ticket of this gateway", is_genuine=False)
        ticket = (await self._find(text, context)).ticket
        parked = replace(ticket, parked_fingerprint=self._fingerprint(text, ticket))
        return await self._shielded.run(self._park(ticket_hash, parked, context))

    async def _park(self, ticket_hash: bytes, ticket: Ticket, context: RequestContext) -> Secret:
        secret = self._new_secrets.token()
        try:
            is_parked_now = await self._store.replace_ticket(
                ticket_hash,
                secret_hash(parked_text(secret)),
                ticket,
                per_person_max=TICKETS_PER_PERSON_MAX,
                lifetime_s=PARKED_LIFETIME_S,
            )
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        if not is_parked_now:
            raise TicketRejected("spent or expired", is_genuine=True)
        await self._audit.ticket_parked(ticket, context)
        return Secret(secret)

    def find_ticket(self, text: str) -> str | None:
        """Return the genuine ticket in the text of a request that the page did not make."""
        return self._texts.find(text)

    async def reject(
        self,
        text: str,
        context: RequestContext,
        reason: str,
        *,
        kind: str,
        ticket: Ticket | None = None,
    ) -> None:
        """Record once over all replicas that a genuine ticket was rejected; count any other.

        `kind` is the metric label. Without Redis, each process records it once.
        """
        ticket_hash = self._name_of(text)
        self._telemetry.ticket_rejected("garbage" if ticket_hash is None else kind)
        if ticket_hash is None or (ticket is None and is_parked(text)):
            return  # anyone can make such a text, and would fill the audit log
        await self._shielded.run(
            self._record_rejection(text, ticket_hash, context, reason, kind, ticket)
        )

    async def _record_rejection(
        self,
        text: str,
        ticket_hash: bytes,
        context: RequestContext,
        reason: str,
        kind: str,
        ticket: Ticket | None,
    ) -> None:
        if not await self._recorded.claim(f"ticket {ticket_hash.hex()} {kind}"):
            return
        if ticket is None:
            ticket = await self._known(ticket_hash)
        fingerprint = self._fingerprint(text, ticket)
        await self._audit.ticket_rejected(context, fingerprint, reason, ticket)

    async def _known(self, ticket_hash: bytes) -> Ticket | None:
        try:
            found = await self._store.find_ticket(ticket_hash)
        except StoreUnavailable:
            return None
        return None if found is None else found.ticket

    async def _find(self, text: str, context: RequestContext) -> FoundTicket:
        ticket_hash = self._name_of(text)
        if ticket_hash is None:
            await self.reject(text, context, "", kind="garbage")
            raise TicketRejected("not a ticket of this gateway", is_genuine=False)
        try:
            found = await self._store.find_ticket(ticket_hash)
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        if found is None:
            await self.reject(text, context, "spent or expired", kind="gone")
            raise TicketRejected("spent or expired", is_genuine=True)
        return found

    async def _check_login(
        self, text: str, ticket: Ticket, login: BrowserLogin | None, context: RequestContext
    ) -> None:
        try:
            self._binding.check(ticket, login)
        except TicketOfAnotherPerson as refusal:
            await self.reject(text, context, str(refusal), kind="person", ticket=ticket)
            raise

    def _name_of(self, text: str) -> bytes | None:
        """Return the name under which a ticket is stored; None: no replica made this text."""
        return secret_hash(text) if is_parked(text) else self._texts.verify(text)

    def _fingerprint(self, text: str, ticket: Ticket | None) -> str:
        """Return the fingerprint of the ticket's own text, also of a parked ticket."""
        parked = "" if ticket is None else ticket.parked_fingerprint
        return parked or self._fingerprints.of(Secret(text))

    async def _permit(
        self, text: str, ticket: Ticket, mode: SessionMode | None, context: RequestContext
    ) -> ConsolePermit:
        context.principal = ticket.person
        try:
            return self._decide(ticket, mode)
        except (NotAuthenticated, NotPermitted) as refusal:
            await self._reject(text, ticket, refusal, context)
            raise

    def _decide(self, ticket: Ticket, mode: SessionMode | None) -> ConsolePermit:
        """Decide again; None as the mode: the greatest that is left of the ticket's."""
        person, target = ticket.person, ticket.target
        self._rights.check_token(person)
        if self._account_of(target.project) != target.account:
            raise NotPermitted("no account delivers live consoles of this project")
        if ticket.mode is SessionMode.VIEW:
            if mode is SessionMode.CONTROL:
                raise NotPermitted("the ticket is view-only")
            return self._rights.permit(person, target, SessionMode.VIEW)
        if mode is None:
            return self._rights.greatest(person, target)
        return self._rights.permit(person, target, mode)

    async def _reject(
        self, text: str, ticket: Ticket, refusal: Exception, context: RequestContext
    ) -> None:
        await self.reject(text, context, str(refusal), kind="right", ticket=ticket)

    async def _in_use(self, ticket: Ticket) -> InUse | None:
        users = await self._users(ticket.target)
        if len(users) < self._rules.server_max:
            return None
        return self._seen_by(ticket.person, users[0])

    async def _users(self, target: ConsoleTarget) -> list[ConsoleSession]:
        try:
            listed = await self._store.sessions(target=target)
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        sessions = (one.session for one in listed)
        return [one for one in sessions if one.mode is SessionMode.CONTROL]

    def _seen_by(self, person: Principal, session: ConsoleSession) -> InUse:
        is_own = session.person.key == person.key
        may_view = self._rights.has(person, session.target, CONSOLE_VIEW)
        return InUse(
            session.started_at,
            PersonRef.of(session.person) if may_view or is_own else None,
            is_own or self._rights.has(person, session.target, CONSOLE_TAKEOVER),
            may_view,
            is_own,
        )

    def _take_over(self, ticket: Ticket) -> TakeOver:
        """Return whose sessions on the server the person may end; their own they may."""
        may_any = self._rights.has(ticket.person, ticket.target, CONSOLE_TAKEOVER)
        return TakeOver.ANY if may_any else TakeOver.OWN

    async def _has_own_only(self, ticket: Ticket) -> bool:
        """Return whether the sessions that a take-over ends now are the person's."""
        users = await self._users(ticket.target)
        oldest = users[: max(0, len(users) - self._rules.server_max + 1)]
        return all(one.person.key == ticket.person.key for one in oldest)

    async def _refusal(
        self, text: str, ticket: Ticket, result: NotOpened, context: RequestContext
    ) -> GatewayError:
        match result:
            case ConsoleInUse():
                self._telemetry.ticket_rejected("in_use")
                return ConsoleBusy(self._seen_by(ticket.person, result.session))
            case LimitReached():
                self._telemetry.ticket_rejected("limit")
                return SessionLimitReached(result.limit.value)
            case TicketGone():
                await self.reject(text, context, "spent or expired", kind="gone")
                return TicketRejected("spent or expired", is_genuine=True)


def _unavailable(error: StoreUnavailable) -> ConsoleStoreUnavailable:
    return ConsoleStoreUnavailable(str(error), retry_after_s=_RETRY_AFTER_S)
