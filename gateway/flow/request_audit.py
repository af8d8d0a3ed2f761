"""What goes on record of a request: who asked for what, and what was decided of it."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import CallerLimited, DeadlineExceeded, NotAuthenticated, NotPermitted
from gateway.domain.model import Principal, ResolvedCall
from gateway.domain.policy.policy import Permit
from gateway.flow.audit_log import AUDIT_TIMEOUT_S, AuditLog
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.decide import Policies
from gateway.flow.request import RequestContext

_RECORD_AT_LEAST_S: Final = 0.25
"""What was obtained at the last moment is given so long to be put on record."""


class RequestAudit:
    def __init__(
        self, audit_log: AuditLog, *, policies: Policies, limits: CallerLimits, clock: Clock
    ) -> None:
        self._audit_log = audit_log
        self._policies = policies
        self._limits = limits
        self._clock = clock

    def allowed(self, event: str, permit: Permit, asked: RequestContext) -> AuditRecord:
        """Make the record of what the policy allows; `record` writes it."""
        record = self.about(event, permit.principal, permit.call, asked)
        record.decision, record.rule = "allowed", permit.rule.place
        record.policy_version = permit.policy_version
        return record

    def about(
        self, event: str, principal: Principal, call: ResolvedCall, asked: RequestContext
    ) -> AuditRecord:
        """Say who asked for what; what came of it is for the caller to add."""
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id=asked.request_id,
            issuer=principal.issuer,
            subject=principal.subject,
            groups=principal.groups,
            operation=call.operation.name,
            project=call.project,
            servers=call.servers,
            client_address=asked.client_address,
            permission=call.operation.permission,
            trace_id="" if asked.trace is None else asked.trace.trace_id,
            access_key=asked.access_key,
        )

    def record(self, record: AuditRecord, deadline: float) -> Awaitable[None]:
        """Return when it is durable; raise JournalUnavailable, DeadlineExceeded."""
        left_s = deadline - self._clock.monotonic()
        if left_s > AUDIT_TIMEOUT_S:
            return self._audit_log.record(record)  # as it is: one coroutine less for each link
        return self._record_within(max(left_s, _RECORD_AT_LEAST_S), record)

    async def not_permitted(self, asked: RequestContext, refusal: NotPermitted) -> None:
        """Put on record who was refused; raise CallerLimited where that is one too many."""
        # Within the caller's own limit, which so bounds what they can have us write.
        self._limits.admit_once(asked)
        await self._refused(asked, str(refusal), refusal.rule)

    async def not_authenticated(self, asked: RequestContext, refusal: NotAuthenticated) -> None:
        """Put on record who was refused, where that is proved: a revoked token, a used signature.

        Whoever asks too often stays refused, and is not put on record each time.
        """
        if asked.principal is None:
            asked.principal = refusal.principal
        if asked.principal is None:
            return
        with suppress(CallerLimited):
            # Not within the person's own limit: who stole their token would lock them out.
            self._limits.admit(f"refused {asked.principal.key}")
            await self._refused(asked, refusal.reason.value)

    async def _record_within(self, seconds: float, record: AuditRecord) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._audit_log.record(record)
        except TimeoutError:
            raise DeadlineExceeded("while it was put on record") from None

    async def _refused(self, asked: RequestContext, why: str, rule: str = "") -> None:
        if asked.principal is None or asked.call is None:
            return
        record = self.about("refused", asked.principal, asked.call, asked)
        record.decision, record.rule = "denied", rule
        record.policy_version = self._policies.current().version
        record.detail = why
        await self.record(record, asked.deadline)
