"""Stage decide: Principal and call -> Permit, by the policy and the inventory now in force.

A decision holds for the moment at which it is made. A request that has waited since then is
decided again before it has an effect: `recheck` also sees a revoked or expired token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gateway.domain.errors import NotPermitted
from gateway.domain.model import Principal, ProjectId, ResolvedCall, ServerId
from gateway.domain.policy.inventory import Inventory
from gateway.domain.policy.own_permissions import permissions_on
from gateway.domain.policy.policy import Permit, Policy
from gateway.flow.clock import Clock
from gateway.flow.identify import Identify
from gateway.flow.telemetry import Telemetry


class Policies(Protocol):
    def current(self) -> Policy:
        """Return the policy in force. A decision takes it once and uses it throughout."""


class Inventories(Protocol):
    def current(self, project: ProjectId) -> Inventory:
        """Return the project's servers and their attributes; NO_INVENTORY if unknown."""

    def last_known(self, project: ProjectId) -> Inventory:
        """Return the newest inventory, however old, without an end: for running sessions."""

    def refresh_soon(self, project: ProjectId) -> None:
        """List the servers again as soon as the budget allows, because attributes changed."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The preliminary decision on a call that names instances.

    A grant for the operation reaches into the project. That permits looking up the servers of the
    instances; the call itself is decided when they are known.
    """

    principal: Principal
    call: ResolvedCall
    allows: Callable[[ServerId], bool]
    """Whether the operation is allowed on a server."""


class DecisionVersion(NamedTuple):
    """While it is current, a decision of the same principal and call stays the same."""

    policy: Policy
    revocations: int
    """`Identify.revocations_version`."""
    since: float
    """When a rule began or ended last, in seconds since the epoch."""
    until: float
    """When the next rule begins or ends."""


class Decide:
    def __init__(
        self,
        *,
        policies: Policies,
        inventories: Inventories,
        identify: Identify,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._policies = policies
        self._inventories = inventories
        self._identify = identify
        self._clock = clock
        self._telemetry = telemetry
        self._version: DecisionVersion | None = None
        """The last one: each cache hit needs it."""

    @property
    def version(self) -> DecisionVersion:
        """What decisions of this moment depend on, besides the token and the inventory.

        The same object until it changes.
        """
        known = self._version
        if known is not None and self.is_current(known):
            return known
        policy, revocations = self._policies.current(), self._identify.revocations_version
        since, until = policy.unchanged_between(self._clock.now())
        self._version = DecisionVersion(policy, revocations, since, until)
        return self._version

    def __call__(self, principal: Principal, call: ResolvedCall) -> Permit:
        """Decide on a call with known servers; raise NotPermitted."""
        permission = call.operation.permission
        try:
            permit = self._permit(principal, call)
        except NotPermitted:
            self._telemetry.decided(permission, allowed=False)
            raise
        self._telemetry.decided(permission, allowed=True)
        return permit

    def first(self, principal: Principal, call: ResolvedCall) -> Permit | Lookup:
        """Decide on a call, preliminarily if it names instances; raise NotPermitted.

        A caller without a grant in the project causes no look-up, whose duration could reveal
        whether an instance exists.
        """
        if not call.instances:
            return self(principal, call)
        permission = call.operation.permission
        scope = self._policies.current().scope(
            principal,
            permission,
            call.project,
            self._clock.now(),
            self._inventories.current(call.project),
        )
        if scope.rule is None:
            self._telemetry.decided(permission, allowed=False)
            raise NotPermitted("no grant applies")
        return Lookup(principal, call, scope.allows)

    def still_holds(self, principal: Principal, version: DecisionVersion) -> bool:
        """Return whether a decision made at `version` holds after a wait; if not, `recheck`."""
        return self.is_current(version) and not self._identify.is_expired(principal)

    def is_current(self, version: DecisionVersion) -> bool:
        """Return whether the policy, revocations and the rules valid now are those of `version`."""
        policy, revocations, since, until = version
        return (
            self._policies.current() is policy
            and self._identify.revocations_version == revocations
            and since <= self._clock.now() < until
        )

    def preview(self, policy: Policy, principal: Principal, call: ResolvedCall) -> Permit | None:
        """Decide on a call with known servers, and count nothing; None: not allowed.

        `policy` is that of `version` at this moment.
        """
        inventory = self._inventories.current(call.project)
        try:
            return policy.permit(principal, call, self._clock.now(), inventory)
        except NotPermitted:
            return None

    def may_request(self, principal: Principal, permission: str) -> bool:
        """Return whether the person may request the permission (access requests)."""
        return self._policies.current().may_request(principal, permission, self._clock.now())

    def recheck(self, principal: Principal, call: ResolvedCall) -> Permit:
        """Decide again after a wait; raise NotAuthenticated or NotPermitted."""
        self._identify.check(principal)
        return self._permit(principal, call)

    def permissions(self, principal: Principal, call: ResolvedCall) -> bytes:
        """Return the caller's permissions on the named servers, as a JSON document."""
        policy, inventory = self._policies.current(), self._inventories.current(call.project)
        return permissions_on(principal, call, policy, self._clock.now(), inventory)

    def _permit(self, principal: Principal, call: ResolvedCall) -> Permit:
        inventory = self._inventories.current(call.project)
        return self._policies.current().permit(principal, call, self._clock.now(), inventory)
