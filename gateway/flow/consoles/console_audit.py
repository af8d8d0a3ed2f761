"""Audit records of tickets and live consoles."""

from gateway.domain.audit.record import AuditRecord, ConsoleSessionFields
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import ConsoleSession, PersonRef, Ticket
from gateway.domain.errors import CallerLimited, NotPermitted
from gateway.domain.model import SERVER_POWER
from gateway.domain.policy.policy import Permit
from gateway.domain.rfb.power import PowerAction
from gateway.flow.audit_log import AuditLog
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext


class ConsoleAudit:
    def __init__(self, durable: AuditLog, best_effort: AuditLog, clock: Clock) -> None:
        """`durable` raises AuditLogUnavailable; `best_effort` never raises and counts."""
        self._durable = durable
        self._best_effort = best_effort
        self._clock = clock

    async def ticket_rejected(
        self,
        context: RequestContext,
        fingerprint: str,
        reason: str,
        ticket: Ticket | None = None,
        *,
        rule: str = "",
    ) -> None:
        """Record why a genuine ticket was rejected; without `ticket` it is spent or expired."""
        record = AuditRecord(
            event="console_ticket_rejected",
            at=self._clock.now(),
            request_id=context.request_id,
            client_address=context.client_address,
            link_fingerprint=fingerprint,
            decision="denied",
            rule=rule,
            detail=reason,
        )
        if ticket is not None:
            person, target = ticket.person, ticket.target
            record.issuer, record.subject = person.issuer, person.subject
            record.groups, record.token_id = person.groups, person.token_id or ""
            record.project, record.servers = target.project, (target.server,)
            record.extra = ConsoleSessionFields(ticket_address=ticket.client_address)
        await self._best_effort.record(record)

    async def ticket_parked(self, ticket: Ticket, context: RequestContext) -> None:
        """Record that a ticket is spent and waits for the login of its person."""
        person, target = ticket.person, ticket.target
        record = AuditRecord(
            event="console_ticket_parked",
            at=self._clock.now(),
            request_id=context.request_id,
            issuer=person.issuer,
            subject=person.subject,
            groups=person.groups,
            project=target.project,
            servers=(target.server,),
            client_address=context.client_address,
            token_id=person.token_id or "",
            link_fingerprint=ticket.parked_fingerprint,
            extra=ConsoleSessionFields(ticket_address=ticket.client_address),
        )
        await self._best_effort.record(record)

    async def session_started(
        self, session: ConsoleSession, permit: Permit, fingerprint: str
    ) -> None:
        """Record a session before its first screen byte; raise AuditLogUnavailable."""
        record = self._about(session, event="console_session_started")
        record.decision, record.rule = "allowed", permit.rule.location
        record.permission, record.policy_version = permit.permission, permit.policy_version
        record.operation, record.link_fingerprint = permit.call.operation.name, fingerprint
        await self._durable.record(record)

    async def session_ended(
        self,
        session: ConsoleSession,
        end: SessionEnd,
        *,
        by: PersonRef | None = None,
        detail: str = "",
    ) -> None:
        record = self._about(session, event="console_session_ended", end=end.name)
        if by is not None:
            record.target = f"{by.issuer}:{by.subject}"
        record.detail = detail
        await self._best_effort.record(record)

    async def taken_over(self, by: ConsoleSession, first: ConsoleSession) -> None:
        """Record a take-over before it ends the first session; raise AuditLogUnavailable."""
        record = self._about(by, event="console_taken_over")
        record.target = f"{first.person.issuer}:{first.person.subject}"
        record.detail = f"session {first.id}"
        await self._durable.record(record)

    async def resume_rejected(self, session: ConsoleSession, client_address: str) -> None:
        """Record that a page with the session's cookie is not its current page."""
        record = self._about(session, event="console_resume_rejected")
        record.decision, record.client_address = "denied", client_address
        await self._best_effort.record(record)

    async def request_rejected(
        self, session: ConsoleSession, client_address: str, detail: str
    ) -> None:
        """Record that a request with the session's cookie was rejected."""
        record = self._about(session, event="console_request_rejected")
        record.decision, record.client_address, record.detail = "denied", client_address, detail
        await self._best_effort.record(record)

    async def power_permitted(
        self, session: ConsoleSession, action: PowerAction, permit: Permit
    ) -> None:
        """Record a power operation before it passes; raise AuditLogUnavailable."""
        record = self._about(session, event="console_power_permitted")
        record.decision, record.rule = "allowed", permit.rule.location
        record.permission, record.policy_version = permit.permission, permit.policy_version
        record.detail = action.name.lower()
        await self._durable.record(record)

    async def power_rejected(
        self, session: ConsoleSession, action: PowerAction, refusal: NotPermitted | CallerLimited
    ) -> None:
        """Record a power operation that did not pass."""
        record = self._about(session, event="console_power_rejected")
        record.decision, record.permission = "denied", SERVER_POWER
        if isinstance(refusal, NotPermitted):
            record.rule, record.detail = refusal.rule, f"{action.name.lower()}: {refusal}"
        else:
            record.detail = f"{action.name.lower()}: above the person's rate limit"
        await self._best_effort.record(record)

    async def power_not_sent(self, session: ConsoleSession, action: PowerAction) -> None:
        """Correct the record of a permitted power operation: the server did not get it."""
        record = self._about(session, event="console_power_not_sent")
        record.detail = action.name.lower()
        await self._best_effort.record(record)

    async def address_changed(self, session: ConsoleSession, client_address: str) -> None:
        """Record that the session's page has connected from another address."""
        record = self._about(session, event="console_address_changed")
        record.client_address = client_address
        record.detail = f"redeemed from {session.client_address}"
        await self._best_effort.record(record)

    async def mode_changed(self, session: ConsoleSession, detail: str) -> None:
        record = self._about(session, event="console_mode_changed")
        record.detail = detail
        await self._best_effort.record(record)

    async def recording_failed(self, session: ConsoleSession, detail: str) -> None:
        """Record that a session goes on without its recording."""
        record = self._about(session, event="console_recording_failed")
        record.detail = detail
        await self._best_effort.record(record)

    def _about(self, session: ConsoleSession, *, event: str, end: str = "") -> AuditRecord:
        person, target = session.person, session.target
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id=session.request_id,
            issuer=person.issuer,
            subject=person.subject,
            groups=person.groups,
            project=target.project,
            servers=(target.server,),
            client_address=session.client_address,
            token_id=person.token_id or "",
            extra=ConsoleSessionFields(
                session=session.id,
                mode=session.mode.value,
                started_at=session.started_at,
                ticket_address=session.ticket_address,
                end=end,
            ),
        )
