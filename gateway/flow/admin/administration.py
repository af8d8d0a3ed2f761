"""Authorizes administrators and records each action before it is performed.

The steps: authorize, decode, plan, record, authorize again, perform. A response that shows
something and took long is sent only while the browser's session goes on. The actions themselves are
in flow/admin/actions.py.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.domain.admin_permissions import AdminGrants, AdminPermission, listed_permissions
from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    CrossSiteRequest,
    GatewayError,
    NotAdmin,
    NotAuthenticated,
    PersonLocked,
)
from gateway.domain.model import Principal
from gateway.domain.overrides import Effect
from gateway.domain.queue.pacing import Pace, spend, wait_for
from gateway.flow.admin.action_specs import ActionSpec
from gateway.flow.audit_log import AuditLog
from gateway.flow.clock import Clock

_DETAIL_CHARS_MAX: Final = 500
_RECHECK_AFTER_S: Final = 0.5
"""A read that took less is sent without another look at the session: pages poll."""
_UNAUTHENTICATED_RECORDS: Final = Pace(requests=10, per_s=60.0, burst=10)
"""Unauthenticated requests must not fill the audit log. The log and the metric have them all."""


@dataclass(frozen=True, slots=True)
class Administrator:
    """The authenticated sender of a request to the admin API."""

    principal: Principal
    by_certificate: bool
    """Authenticated by a client certificate, not by a token."""
    check: Callable[[], None] = field(repr=False)
    """Raises NotAuthenticated if the token or certificate is no longer valid."""
    request_id: str
    client_address: str
    recheck: Callable[[], Awaitable[None]] | None = field(default=None, repr=False)
    """Raises LoginRequired or LoginUnavailable if the browser's session may have ended."""


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """An action that has been validated; it is recorded before `perform` is called."""

    perform: Callable[[], Awaitable[msgspec.Struct]]
    permission: AdminPermission | None = None
    """Which one of the action's permissions the request requires; None: any of them."""
    cleared: Effect | None = None
    """The effect that the action ends, for the audit record."""
    override_id: str = ""
    target: str = ""
    """The person that the action affects, as issuer:subject."""
    project: str = ""
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdminAction:
    spec: ActionSpec
    plan: Callable[[Any, Administrator], ActionPlan] = field(repr=False)
    """Raises BadRequest."""


class Administration:
    def __init__(
        self,
        actions: Sequence[AdminAction],
        *,
        grants: AdminGrants,
        find_lock: Callable[[Principal], str | None],
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        """`find_lock` returns the ID of a lock on the person."""
        self._find_lock = find_lock
        self.actions = actions
        self._grants = grants
        self._audit_log = audit_log
        self._clock = clock
        self._unauthenticated_tat = 0.0

    async def perform(
        self, action: AdminAction, admin: Administrator, read: Callable[[], Awaitable[bytes]]
    ) -> msgspec.Struct:
        """Return the response; `read` returns the body and is called once `admin` is authorized.

        Raises NotAuthenticated, PersonLocked, NotAdmin, BadRequest, AuditLogUnavailable,
        LoginRequired, LoginUnavailable.
        """
        began = self._clock.monotonic()
        request: msgspec.Struct | None = None
        try:
            permissions = action.spec.permissions
            self._authorize(admin, permissions)
            body = await read()
            # Again: reading the body, and below the disk, may take time.
            self._authorize(admin, permissions)
            request = _decode(body, action.spec.request_type)
            plan = action.plan(request, admin)
            if plan.permission is not None:
                permissions = (plan.permission,)
                self._authorize(admin, permissions)
            await self._audit_log.record(self._allowed(action, admin, request, plan))
            if not action.spec.is_read:
                await _recheck(admin)
            self._authorize(admin, permissions)
            response = await plan.perform()
            # A write was done, and its response says so.
            if action.spec.is_read and self._clock.monotonic() - began >= _RECHECK_AFTER_S:
                await _recheck(admin)
                self._authorize(admin, permissions)
        except GatewayError as error:
            await self._record_refusal(action, admin, str(error), request)
            raise
        return response

    async def record_failure(self, action: AdminAction, admin: Administrator) -> None:
        """Record that an internal error kept the action from being performed completely."""
        await self._record_refusal(action, admin, "internal error", None)

    def permissions_of(self, principal: Principal) -> frozenset[AdminPermission]:
        """Return the permissions of a person; a person with a certificate has others."""
        return self._grants.permissions_of(principal, by_certificate=False)

    async def record_unauthenticated(
        self,
        action: AdminAction,
        error: NotAuthenticated | CrossSiteRequest,
        request_id: str,
        client_address: str,
    ) -> None:
        """Record an unauthenticated request, up to a limit per minute."""
        now = self._clock.monotonic()
        if wait_for(self._unauthenticated_tat, now, _UNAUTHENTICATED_RECORDS) > 0:
            return
        self._unauthenticated_tat = spend(self._unauthenticated_tat, now, _UNAUTHENTICATED_RECORDS)
        record = AuditRecord(
            event="admin_refused",
            at=self._clock.now(),
            request_id=request_id,
            issuer=(error.issuer or "") if isinstance(error, NotAuthenticated) else "",
            operation=action.spec.name,
            permission=" or ".join(action.spec.permissions),
            rule="admin.api",
            client_address=client_address,
            decision="denied",
            detail=_detail(None, refused=str(error)[:_DETAIL_CHARS_MAX]),
        )
        try:
            await self._audit_log.record(record)
        except AuditLogUnavailable:
            return  # the request is rejected in any case

    def _authorize(self, admin: Administrator, permissions: tuple[AdminPermission, ...]) -> None:
        """Require one of the permissions."""
        admin.check()
        # Also keeps administrators from lifting a lock that covers themselves.
        lock = self._find_lock(admin.principal)
        if lock is not None:
            raise PersonLocked(admin.principal, lock)
        granted = self._grants.permissions_of(admin.principal, by_certificate=admin.by_certificate)
        if granted.isdisjoint(permissions):
            raise NotAdmin(listed_permissions(permissions))

    def _allowed(
        self,
        action: AdminAction,
        admin: Administrator,
        request: msgspec.Struct,
        plan: ActionPlan,
    ) -> AuditRecord:
        record = self._record(action.spec.event, action, admin)
        record.decision = "allowed"
        record.permission = plan.permission or record.permission
        record.target, record.project, record.servers = plan.target, plan.project, plan.servers
        more: dict[str, object] = {}
        if plan.override_id:
            more["override_id"] = plan.override_id
        if plan.cleared is not None:
            more["cleared"] = plan.cleared
        record.detail = _detail(request, **more)
        return record

    async def _record_refusal(
        self, action: AdminAction, admin: Administrator, reason: str, request: msgspec.Struct | None
    ) -> None:
        record = self._record("admin_refused", action, admin)
        record.decision = "denied"
        record.detail = _detail(request, refused=reason[:_DETAIL_CHARS_MAX])
        await self._audit_log.record(record)

    def _record(self, event: str, action: AdminAction, admin: Administrator) -> AuditRecord:
        principal = admin.principal
        return AuditRecord(
            event=event,
            at=self._clock.now(),
            request_id=admin.request_id,
            issuer=principal.issuer,
            subject=principal.subject,
            groups=principal.groups,
            operation=action.spec.name,
            permission=" or ".join(action.spec.permissions),
            rule="admin.api",
            client_address=admin.client_address,
        )


async def _recheck(admin: Administrator) -> None:
    if admin.recheck is not None:
        await admin.recheck()


def _decode(body: bytes, request_type: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.json.decode(body or b"{}", type=request_type)
    except RecursionError:
        raise BadRequest("Invalid request: JSON is nested too deeply.") from None
    except UnicodeDecodeError:
        raise BadRequest("Invalid request: not UTF-8.") from None
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid request: {str(error)[:_DETAIL_CHARS_MAX]}.") from None
    except msgspec.DecodeError:
        raise BadRequest("Invalid request: not one complete JSON value.") from None


def _detail(request: msgspec.Struct | None, **more: object) -> str:
    """Return the decoded request and `more` as JSON."""
    fields = {} if request is None else msgspec.to_builtins(request)
    return msgspec.json.encode({**fields, **more}).decode()
