"""Who may steer a running gateway, and that whatever they do is on record before it is done.

One line: may they, what do they ask, can it be done, record, may they still, do it. What there is
to do is flow/admin_actions.py's.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    GatewayError,
    NotAdmin,
    NotAuthenticated,
)
from gateway.domain.model import Principal
from gateway.domain.queue.pacing import Pace, spend, wait_for
from gateway.flow.ports import AuditLog, AuditRecord, Clock

_DETAIL_CHARS_MAX: Final = 500
_UNPROVED_ON_RECORD: Final = Pace(requests=10, per_s=60.0, burst=10)
"""Whoever proves nothing must not fill the audit log; the log and the metric have them all."""


@dataclass(frozen=True, slots=True)
class Administrator:
    """Who asks, and by which request."""

    principal: Principal
    by_certificate: bool
    """The listener's TLS has proved who it is, not a token."""
    check: Callable[[], None] = field(repr=False)
    """Raises NotAuthenticated where what proved who it is no longer holds."""
    request_id: str
    client_address: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked and can be done, once it is on record."""

    perform: Callable[[], Awaitable[msgspec.Struct]]
    event: str = "admin_action"
    order_id: str = ""
    target: str = ""
    """Whom it is about, as issuer:subject."""
    project: str = ""
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    method: str
    path: str
    summary: str
    takes: type[msgspec.Struct]
    answers: type[msgspec.Struct]
    plan: Callable[[Any, Administrator], Plan] = field(repr=False)
    """Raises BadRequest."""


class Administration:
    def __init__(
        self,
        actions: Sequence[Action],
        *,
        groups: frozenset[str],
        certificates: frozenset[str],
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        """Let those in `groups` act, and who shows a certificate of one of these names."""
        self.actions = actions
        self._groups = groups
        self._certificates = certificates
        self._audit_log = audit_log
        self._clock = clock
        self._unproved_tat = 0.0

    async def perform(
        self, action: Action, who: Administrator, read: Callable[[], Awaitable[bytes]]
    ) -> msgspec.Struct:
        """Return what there is to tell; `read` gives the body once it is known that they may.

        Raises NotAuthenticated, NotAdmin, BadRequest, JournalUnavailable.
        """
        asked: msgspec.Struct | None = None
        try:
            self._permit(who)
            body = await read()
            self._permit(who)  # a body may take its time, and so may the disk
            asked = _decoded(body, action.takes)
            plan = action.plan(asked, who)
            await self._audit_log.record(self._allowed(action, who, asked, plan))
            self._permit(who)
            return await plan.perform()
        except GatewayError as refusal:
            await self._record_refusal(action, who, str(refusal), asked)
            raise

    async def failed(self, action: Action, who: Administrator) -> None:
        """Put on record that this was not done, or not to its end, for a reason of our own."""
        await self._record_refusal(action, who, "the gateway failed", None)

    async def unproved(
        self, action: Action, refusal: NotAuthenticated, request_id: str, client_address: str
    ) -> None:
        """Put on record, within bounds, that somebody asked who could not prove who they are."""
        now = self._clock.monotonic()
        if wait_for(self._unproved_tat, now, _UNPROVED_ON_RECORD) > 0:
            return
        self._unproved_tat = spend(self._unproved_tat, now, _UNPROVED_ON_RECORD)
        record = AuditRecord(
            event="admin_refused",
            at=self._clock.now(),
            request_id=request_id,
            issuer=refusal.issuer or "",
            operation=action.name,
            rule="admin.api",
            client_address=client_address,
            decision="denied",
            detail=_detail(None, refused=str(refusal)),
        )
        try:
            await self._audit_log.record(record)
        except AuditLogUnavailable:
            return  # nothing was asked by anybody who may, so nothing hangs on it

    def _permit(self, who: Administrator) -> None:
        who.check()
        if who.by_certificate:
            may = who.principal.subject in self._certificates
        else:
            may = not self._groups.isdisjoint(who.principal.groups)
        if not may:
            raise NotAdmin("neither group nor certificate is in admin.api")

    def _allowed(
        self, action: Action, who: Administrator, asked: msgspec.Struct, plan: Plan
    ) -> AuditRecord:
        record = self._about(plan.event, action, who)
        record.decision = "allowed"
        record.target, record.project, record.servers = plan.target, plan.project, plan.servers
        record.detail = _detail(asked, **({"order_id": plan.order_id} if plan.order_id else {}))
        return record

    async def _record_refusal(
        self, action: Action, who: Administrator, why: str, asked: msgspec.Struct | None
    ) -> None:
        record = self._about("admin_refused", action, who)
        record.decision = "denied"
        record.detail = _detail(asked, refused=why)
        await self._audit_log.record(record)

    def _about(self, event: str, action: Action, who: Administrator) -> AuditRecord:
        principal = who.principal
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id=who.request_id,
            issuer=principal.issuer,
            subject=principal.subject,
            groups=principal.groups,
            operation=action.name,
            rule="admin.api",
            client_address=who.client_address,
        )


def _decoded(body: bytes, takes: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.json.decode(body or b"{}", type=takes)
    except RecursionError:
        raise BadRequest("What was sent cannot be used: it is nested too deeply.") from None
    except UnicodeDecodeError:
        raise BadRequest("What was sent cannot be used: it is no UTF-8.") from None
    except msgspec.ValidationError as error:
        text = str(error)[:_DETAIL_CHARS_MAX]
        raise BadRequest(f"What was sent cannot be used: {text}.") from None
    except msgspec.DecodeError:
        raise BadRequest("What was sent cannot be used: it is not one whole JSON value.") from None


def _detail(asked: msgspec.Struct | None, **more: str) -> str:
    """Say in JSON what was asked, as far as it could be read, and what came of it."""
    named = {} if asked is None else msgspec.to_builtins(asked)
    cut = {name: text[:_DETAIL_CHARS_MAX] for name, text in more.items()}
    return msgspec.json.encode({**named, **cut}).decode()
