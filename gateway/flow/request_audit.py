"""The audit records of requests: caller, operation, servers, and the decision about them."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final, Protocol

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import (
    CallerLimited,
    DeadlineExceeded,
    NotAuthenticated,
    NotPermitted,
    PersonLocked,
)
from gateway.domain.model import Principal, ResolvedCall
from gateway.domain.policy.policy import Permit
from gateway.flow.audit_log import AUDIT_TIMEOUT_S, AuditLog
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.clock import Clock
from gateway.flow.context import RequestTrace
from gateway.flow.decide import Policies
from gateway.flow.request import RequestContext

_TIMEOUT_MIN_S: Final = 0.25
"""Time that a record has even if the link was obtained just before the deadline."""


class RecordedRequest(Protocol):
    """What a record has of the request itself; a RequestContext has it."""

    @property
    def request_id(self) -> str: ...
    @property
    def client_address(self) -> str: ...
    @property
    def trace(self) -> RequestTrace | None: ...
    @property
    def access_key(self) -> str: ...


class RequestAudit:
    def __init__(
        self, audit_log: AuditLog, *, policies: Policies, limits: CallerLimits, clock: Clock
    ) -> None:
        self._audit_log = audit_log
        self._policies = policies
        self._limits = limits
        self._clock = clock

    def allowed(self, event: str, permit: Permit, context: RecordedRequest) -> AuditRecord:
        """Return the record of an allowed request, which `record` writes."""
        record = self.about(event, permit.principal, permit.call, context)
        record.decision, record.rule = "allowed", permit.rule.location
        record.policy_version = permit.policy_version
        if permit.permission:
            record.permission = permit.permission
        return record

    def about(
        self, event: str, principal: Principal, call: ResolvedCall, context: RecordedRequest
    ) -> AuditRecord:
        """Return a record of the caller and the operation, without a decision or result."""
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id=context.request_id,
            issuer=principal.issuer,
            subject=principal.subject,
            groups=principal.groups,
            operation=call.operation.name,
            project=call.project,
            servers=call.servers,
            client_address=context.client_address,
            permission=call.operation.permission,
            trace_id="" if context.trace is None else context.trace.trace_id,
            access_key=context.access_key,
            token_id=principal.token_id or "",
        )

    def record(self, record: AuditRecord, deadline: float) -> Awaitable[None]:
        """Return when the record is durable; raise AuditLogUnavailable, DeadlineExceeded."""
        left_s = deadline - self._clock.monotonic()
        if left_s > AUDIT_TIMEOUT_S:
            return self._audit_log.record(record)  # not awaited here: saves a coroutine per link
        return self._record_within(max(left_s, _TIMEOUT_MIN_S), record)

    async def not_permitted(self, context: RequestContext, refusal: NotPermitted) -> None:
        """Record a 403; raise CallerLimited if the caller has exceeded its limit."""
        # The caller's own limit bounds how many records it can cause.
        self._limits.admit_once(context)
        await self._refused(context, str(refusal), refusal.rule, refusal.permission)

    async def not_authenticated(self, context: RequestContext, refusal: NotAuthenticated) -> None:
        """Record why a known person is rejected: a lock, a revoked token, a signature used twice.

        Beyond a limit per person, nothing is recorded.
        """
        if context.principal is None:
            context.principal = refusal.principal
        if context.principal is None:
            return
        with suppress(CallerLimited):
            # A separate limit: with the person's own, the thief of a token could lock them out.
            self._limits.admit(f"refused {context.principal.key}")
            is_lock = isinstance(refusal, PersonLocked)
            await self._refused(context, str(refusal) if is_lock else refusal.reason.value)

    async def _record_within(self, timeout_s: float, record: AuditRecord) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._audit_log.record(record)
        except TimeoutError:
            raise DeadlineExceeded("while writing the audit record") from None

    async def _refused(
        self, context: RequestContext, reason: str, rule: str = "", permission: str = ""
    ) -> None:
        if context.principal is None or context.call is None:
            return
        record = self.about("refused", context.principal, context.call, context)
        if permission:
            record.permission = permission
        record.decision, record.rule = "denied", rule
        record.policy_version = self._policies.current().version
        record.detail = reason
        await self.record(record, context.deadline)
