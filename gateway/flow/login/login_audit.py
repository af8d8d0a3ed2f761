"""Audit records of browser logins."""

from gateway.domain.audit.record import AuditRecord
from gateway.domain.login.model import BrowserSession
from gateway.domain.model import Principal
from gateway.domain.timestamps import rfc3339
from gateway.flow.audit_log import AuditLog
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext


class LoginAudit:
    def __init__(
        self, durable: AuditLog, best_effort: AuditLog, clock: Clock, *, session: str = "session"
    ) -> None:
        """`durable` raises AuditLogUnavailable; `best_effort` never raises and counts.

        `session` is the kind of session in `detail`.
        """
        self._durable = durable
        self._best_effort = best_effort
        self._clock = clock
        self._session = session

    async def logged_in(self, session: BrowserSession, context: RequestContext) -> None:
        """Record a login before the browser gets its cookie; raise AuditLogUnavailable."""
        record = self._about(session.person, context, event="login")
        record.decision, record.detail = "allowed", f"{self._session} {session.id[:16]}"
        await self._durable.record(record)

    async def login_rejected(
        self, issuer: str, reason: str, context: RequestContext, person: Principal | None
    ) -> None:
        """Record a failed login of a browser that began it."""
        record = AuditRecord(
            event="login_rejected",
            at=self._clock.now(),
            request_id=context.request_id,
            issuer=issuer,
            client_address=context.client_address,
        )
        if person is not None:
            record.subject, record.groups = person.subject, person.groups
        record.decision, record.detail = "denied", reason
        await self._best_effort.record(record)

    async def logged_out(
        self, session: BrowserSession, by: str, *, ended_at: float | None = None
    ) -> None:
        """Record the end of a session; `ended_at` if that was earlier."""
        record = self._about(session.person, None, event="logout")
        at = "" if ended_at is None else f" at {rfc3339(ended_at)}"
        record.detail = f"{self._session} {session.id[:16]}, by {by}{at}"
        await self._best_effort.record(record)

    def _about(
        self, person: Principal, context: RequestContext | None, *, event: str
    ) -> AuditRecord:
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id="" if context is None else context.request_id,
            issuer=person.issuer,
            subject=person.subject,
            groups=person.groups,
            client_address="" if context is None else context.client_address,
            token_id=person.token_id or "",
        )
