"""Rules of access requests: who may request which role, where and how long, and who approves. Pure.

A rule gives nothing by itself. A request that it allows, and that is approved, is a grant.
"""

from collections.abc import Collection, Sequence

import msgspec

from gateway.domain.model import Principal
from gateway.domain.policy.rules import Rule


class Approvers(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The people who decide on requests."""

    issuer: str | None
    """None: the config has one issuer."""
    users: frozenset[str]
    groups: frozenset[str]

    def contain(self, issuer: str, subject: str, groups: Collection[str]) -> bool:
        return self.issuer in (None, issuer) and (
            subject in self.users or not self.groups.isdisjoint(groups)
        )


class BreakGlass(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Access without an approval, for an emergency."""

    per_day: int
    """How often one person may use it in 24 hours."""
    reason_min: int
    """Least number of characters of the reason."""


class RequestRule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A rule of the policy's section `requests`."""

    name: str
    """Unique in the policy; a request names it."""
    role: str
    scope: Rule
    """The permissions, the people who may request them, and the servers, as in a grant."""
    for_max_s: float
    approvers: Approvers
    approvals: int
    ticket_required: bool = False
    break_glass: BreakGlass | None = None

    def may_request(self, principal: Principal, now: float) -> bool:
        """Return whether a person may make requests by this rule at `now`."""
        return self.scope.is_valid_at(now) and self.is_for(principal)

    def is_for(self, principal: Principal) -> bool:
        scope = self.scope
        return scope.issuer in (None, principal.issuer) and (
            scope.everyone
            or principal.subject in scope.users
            or not scope.groups.isdisjoint(principal.groups)
        )

    def may_decide(self, principal: Principal) -> bool:
        return self.approvers.contain(principal.issuer, principal.subject, principal.groups)

    def covers(self, project: str, servers: Sequence[str]) -> bool:
        """Return whether the IDs allow the rule to apply to these servers.

        Attributes are not considered: the result must not depend on the inventory, which a person
        who may not see the servers could otherwise learn about.
        """
        scope = self.scope
        return (
            (not scope.projects or project in scope.projects)
            and project not in scope.excluded_projects
            and (not scope.servers or scope.servers.issuperset(servers))
            and scope.excluded_servers.isdisjoint(servers)
        )
