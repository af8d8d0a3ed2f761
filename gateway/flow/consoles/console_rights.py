"""Rights on live consoles: decided strictly when a console is opened, and again while it runs."""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.consoles import ends
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import ConsoleSession, ConsoleTarget, SessionMode
from gateway.domain.consoles.page_messages import MoreTime
from gateway.domain.errors import (
    NotAuthenticated,
    NotPermitted,
    Rejection,
    RevocationsUnavailable,
)
from gateway.domain.model import (
    CONSOLE_OPEN,
    CONSOLE_TAKEOVER,
    CONSOLE_VIEW,
    RECORDING_KEYS,
    RECORDING_VIEW,
    SERVER_POWER,
    Operation,
    Principal,
    ProjectId,
    ResolvedCall,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.policy.rules import AllowedUntil
from gateway.domain.requests.grants import request_of
from gateway.flow.clock import Clock
from gateway.flow.decide import Decide, DecisionVersion, Inventories, Policies
from gateway.flow.identify import Identify

_CALLS_MAX: Final = 10_000
_OWN_PERMISSIONS: Final = (
    CONSOLE_VIEW,
    CONSOLE_TAKEOVER,
    SERVER_POWER,
    RECORDING_VIEW,
    RECORDING_KEYS,
)
PERMISSION_OF: Final = {SessionMode.CONTROL: CONSOLE_OPEN, SessionMode.VIEW: CONSOLE_VIEW}


class ConsoleCalls:
    """The calls to the cloud that open a server's console, one object per server and permission.

    The policy caches permits by the identity of the call.
    """

    def __init__(self, catalogue: Catalogue, operation: Operation) -> None:
        """`operation` returns a console link and has only `{server_id}` in its path."""
        self._catalogue = catalogue
        self._operation = operation
        self._calls: OrderedDict[tuple[ConsoleTarget, str], ResolvedCall] = OrderedDict()

    def of(self, target: ConsoleTarget, permission: str = CONSOLE_OPEN) -> ResolvedCall:
        """Return the call, to be decided by this permission."""
        call = self._calls.get((target, permission))
        if call is None:
            path = self._operation.path.replace("{server_id}", target.server)
            call = self._catalogue.resolve(self._operation.method, f"/v1/{target.project}{path}")
            call = replace(call, operation=replace(call.operation, permission=permission))
            self._calls[target, permission] = call
            if len(self._calls) > _CALLS_MAX:
                self._calls.popitem(last=False)
        return call


@dataclass(frozen=True, slots=True)
class ConsolePermit:
    mode: SessionMode
    permit: Permit


@dataclass(frozen=True, slots=True)
class RightUntil:
    """Until when the rules in force let a session go on, in seconds since the epoch."""

    console: float
    control: float
    """The session becomes view-only before; infinity if it does not."""
    more: MoreTime | None
    """How to get more time; None if no rule ends the right."""


_UNLIMITED: Final = RightUntil(math.inf, math.inf, None)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the right to a running session is worth now."""

    mode: SessionMode | None
    """None: the session ends, by `end`."""
    end: SessionEnd = ends.RIGHT_ENDED
    detail: str = ""
    """Why it ends, for the audit record."""
    needs_old_inventory: bool = False
    """The session runs on an inventory that is too old to open a new one."""
    until: RightUntil = _UNLIMITED


class ConsoleRights:
    def __init__(  # noqa: PLR0913 - what decides
        self,
        *,
        decide: Decide,
        identify: Identify,
        policies: Policies,
        inventories: Inventories,
        calls: ConsoleCalls,
        clock: Clock,
        outlive_token_s: float,
    ) -> None:
        """`outlive_token_s`: how long a session goes on after the end of its token."""
        self._decide = decide
        self._identify = identify
        self._policies = policies
        self._inventories = inventories
        self._calls = calls
        self._clock = clock
        self._outlive_token_s = outlive_token_s

    @property
    def version(self) -> DecisionVersion:
        """Equal while decisions stay the same."""
        return self._decide.version

    @property
    def uses_inventories(self) -> bool:
        """Whether a rule of the policy in force selects servers by attributes."""
        return self._policies.current().selects_by_attributes

    def inventory_state(self, project: ProjectId) -> object:
        """Return a value that changes with the inventory, and when it becomes too old."""
        inventories = self._inventories
        return (
            inventories.current(project).generation,
            inventories.last_known(project).generation,
        )

    def greatest(self, person: Principal, target: ConsoleTarget) -> ConsolePermit:
        """Return the greatest mode in which the person may open the console.

        Raises NotPermitted with the reason against `console:open`.
        """
        try:
            return self.permit(person, target, SessionMode.CONTROL)
        except NotPermitted as refusal:
            try:
                return self.permit(person, target, SessionMode.VIEW)
            except NotPermitted:
                raise refusal from None

    def permit(self, person: Principal, target: ConsoleTarget, mode: SessionMode) -> ConsolePermit:
        """Return the permit for one mode; raise NotPermitted."""
        call = self._calls.of(target, PERMISSION_OF[mode])
        return ConsolePermit(mode, self._decide(person, call))

    def recheck(self, person: Principal, target: ConsoleTarget, mode: SessionMode) -> ConsolePermit:
        """Decide after a wait, and check the token; raise NotPermitted, NotAuthenticated."""
        call = self._calls.of(target, PERMISSION_OF[mode])
        return ConsolePermit(mode, self._decide.recheck(person, call))

    def check_token(self, person: Principal) -> None:
        """Raise NotAuthenticated, PersonLocked or RevocationsUnavailable."""
        self._identify.check(person)

    def has(self, person: Principal, target: ConsoleTarget, permission: str) -> bool:
        """Return whether the person has a permission that no call of the cloud requires."""
        assert permission in _OWN_PERMISSIONS
        inventory = self._inventories.current(target.project)
        decision = self._policies.current().decide(
            person, permission, target.project, target.server, self._clock.now(), inventory
        )
        return decision.allowed

    def power(self, person: Principal, target: ConsoleTarget) -> Permit:
        """Return the permit for power operations on a server; raise NotPermitted."""
        return self._decide(person, self._calls.of(target, SERVER_POWER))

    def decide(self, person: Principal, call: ResolvedCall) -> Permit:
        """Decide on a call of the gateway's own, such as a view; raise NotPermitted."""
        return self._decide(person, call)

    def view_end(self, person: Principal, call: ResolvedCall) -> SessionEnd | None:
        """Return why the view of a recording ends now; None: it goes on."""
        try:
            self._identify.check(person, outlive_s=self._outlive_token_s)
        except RevocationsUnavailable:
            pass
        except NotAuthenticated as refusal:
            return ends.TOKEN if refusal.reason is Rejection.EXPIRED else ends.RIGHT_ENDED
        inventory = self._inventories.last_known(call.project)
        try:
            self._policies.current().permit(person, call, self._clock.now(), inventory)
        except NotPermitted:
            return ends.RIGHT_ENDED
        return None

    def is_by_break_glass(self, session: ConsoleSession) -> bool:
        """Return whether break-glass alone is the right to a session; raise NotPermitted."""
        call = self._calls.of(session.target, PERMISSION_OF[session.mode])
        inventory = self._inventories.last_known(session.target.project)
        policy, now = self._policies.current(), self._clock.now()
        return policy.permit(session.person, call, now, inventory).rule.by_break_glass

    def token_ends_at(self, person: Principal) -> float:
        """Return when a session of this token ends, in seconds since the epoch."""
        return self._identify.valid_until(person) + self._outlive_token_s

    def standing(self, session: ConsoleSession) -> Standing:
        """Decide whether a running session goes on, and in which mode.

        An inventory that is only too old changes nothing, and neither do revocations that are not
        loaded yet.
        """
        person = session.person
        try:
            self._identify.check(person, outlive_s=self._outlive_token_s)
        except RevocationsUnavailable:
            pass
        except NotAuthenticated as refusal:
            is_expired = refusal.reason is Rejection.EXPIRED
            return Standing(None, ends.TOKEN if is_expired else ends.RIGHT_ENDED, str(refusal))
        try:
            mode = self._mode_now(session, is_strict=False)
        except NotPermitted as refusal:
            return Standing(None, ends.RIGHT_ENDED, str(refusal))
        until = self._until(session, mode)
        if not self.uses_inventories:
            return Standing(mode, until=until)
        try:
            needs_old = self._mode_now(session, is_strict=True) is not mode
        except NotPermitted:
            needs_old = True
        return Standing(mode, needs_old_inventory=needs_old, until=until)

    def _until(self, session: ConsoleSession, mode: SessionMode) -> RightUntil:
        policy, now, target = self._policies.current(), self._clock.now(), session.target
        if policy.unchanged_between(now)[1] == math.inf:
            return _UNLIMITED
        inventory = self._inventories.last_known(target.project)

        def allowed_until(permission: str) -> AllowedUntil:
            return policy.allowed_until(
                session.person, permission, target.project, target.server, now, inventory
            )

        until = allowed_until(PERMISSION_OF[mode])
        console_until, control_until = until.at, math.inf
        if mode is SessionMode.CONTROL and until.at != math.inf:
            view_until = allowed_until(CONSOLE_VIEW).at
            if view_until > until.at:
                console_until, control_until = view_until, until.at
        if until.grant is None or until.at == math.inf:
            return _UNLIMITED
        may_request = policy.may_request(session.person, PERMISSION_OF[mode], now)
        more = MoreTime(may_request, request_of(until.grant))
        return RightUntil(console_until, control_until, more)

    def _mode_now(self, session: ConsoleSession, *, is_strict: bool) -> SessionMode:
        """Return the session's mode, or a lower one that is left; raise NotPermitted."""
        target = session.target
        inventories = self._inventories
        read = inventories.current if is_strict else inventories.last_known
        policy, now, inventory = self._policies.current(), self._clock.now(), read(target.project)
        call = self._calls.of(target, CONSOLE_OPEN)
        try:
            policy.permit(session.person, call, now, inventory)
        except NotPermitted:
            view = self._calls.of(target, CONSOLE_VIEW)
            policy.permit(session.person, view, now, inventory)
            return SessionMode.VIEW
        return session.mode
