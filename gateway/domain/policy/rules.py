"""Rules of the policy, what is decided by them, and the servers that a person may list. Pure."""

from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import msgspec

from gateway.domain.model import ProjectId, RuleKind, RuleRef, ServerId
from gateway.domain.policy.inventory import Attributes, Facet
from gateway.domain.policy.selectors import Selector


class Rule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A grant or a denial."""

    ref: RuleRef
    permissions: frozenset[str]
    issuer: str | None
    """None: any issuer."""
    users: frozenset[str]
    groups: frozenset[str]
    projects: frozenset[str]
    """Empty: any project."""
    servers: frozenset[str]
    """Empty: any server in the projects."""
    selector: Selector | None = None
    """None: attributes do not matter."""
    valid_from: float = float("-inf")
    valid_until: float = float("inf")
    """Seconds since the epoch; exclusive."""
    everyone: bool = False
    """Every person of the issuer, besides `users` and `groups`."""
    excluded_projects: frozenset[str] = frozenset()
    excluded_servers: frozenset[str] = frozenset()

    def with_permissions(self, permissions: frozenset[str]) -> "Rule":
        return msgspec.structs.replace(self, permissions=permissions)

    def is_valid_at(self, now: float) -> bool:
        return self.valid_from <= now < self.valid_until

    @property
    def tag_keys(self) -> frozenset[str]:
        """Return the key of each tag that decides where the rule applies."""
        return frozenset() if self.selector is None else self.selector.tag_keys

    @property
    def is_whole(self) -> bool:
        """Return whether the rule applies to all servers of its projects or its list."""
        return self.selector is None and not self.excluded_servers

    def applies_to(self, project: str, server: ServerId | None, known: Attributes | None) -> bool:
        """Return whether exclusions and attributes let the rule apply to a server of its targets.

        `known` are the server's attributes. If they are unknown, or if the call names no server, a
        grant does not apply and a denial does.
        """
        if project in self.excluded_projects:
            return False
        if self.selector is None and not self.excluded_projects and not self.excluded_servers:
            return True
        is_denial = self.ref.kind is RuleKind.DENIAL
        if server is None:
            return is_denial
        if server in self.excluded_servers:
            return False
        if self.selector is None:
            return True
        return is_denial if known is None else self.selector.matches(known, if_unknown=is_denial)


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    rule: RuleRef | None
    """The denial or grant that decided; None if no grant applies."""


@dataclass(frozen=True, slots=True)
class AllowedUntil:
    """Until when the rules allow something, if nothing but time changes."""

    at: float
    """Seconds since the epoch; infinity if no rule ends it."""
    grant: RuleRef | None
    """The grant that lasts longest; None if nothing is allowed now."""


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    matching: tuple[Rule, ...]
    """Every rule about this person, permission and server, including those not valid now."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The servers of one project on which a person has a permission, at one instant.

    Built once per list, then queried for each server of the list.
    """

    project: ProjectId
    rule: RuleRef | None
    """A grant that covers a part of the project; None if there is none.

    It must not depend on known servers: a caller could infer their existence from it.
    """
    everywhere: bool
    """A grant covers the whole project or everything."""
    granted: frozenset[ServerId]
    """Servers that grants name by ID."""
    granting: tuple[Rule, ...]
    """Grants on a part of the project, by attributes or with exclusions."""
    denied_everywhere: bool
    """A denial covers the whole project or everything."""
    denied: frozenset[ServerId]
    """Servers that denials name by ID."""
    denying: tuple[Rule, ...]
    """Denials on a part of the project, by attributes or with exclusions."""
    attributes: Callable[[ServerId], Attributes | None]
    with_facets: Callable[[Sequence[Sequence[Facet]]], Sequence[ServerId] | None] = lambda _: None
    """`Inventory.with_facets` of now."""

    @property
    def key(self) -> Hashable:
        """Equal for scopes that allow the same servers of the same inventory."""
        return (
            self.everywhere,
            self.granted,
            self.granting,
            self.denied_everywhere,
            self.denied,
            self.denying,
        )

    @property
    def candidates(self) -> AbstractSet[ServerId] | None:
        """Return at least the servers that are allowed; None: any may be."""
        if self.everywhere:
            return None
        found = set(self.granted)
        for rule in self.granting:
            servers = None if rule.selector is None else self.with_facets(rule.selector.choices)
            if servers is None:
                return None
            found.update(servers)
        return found

    @property
    def total(self) -> bool:
        """Return whether every server of the project is allowed, including future ones."""
        denied = self.denied_everywhere or self.denied or self.denying
        return self.everywhere and not denied

    @property
    def predicate(self) -> Callable[[ServerId], bool]:
        """Return the fastest function that is equivalent to `allows`."""
        denied = self.denied_everywhere or self.denied or self.denying
        if self.everywhere or self.granting or denied:
            return self.allows
        return self.granted.__contains__

    def allows(self, server: ServerId) -> bool:
        if self.denied_everywhere or server in self.denied:
            return False
        granted = self.everywhere or server in self.granted
        if not self.denying and (granted or not self.granting):
            return granted
        known = self.attributes(server)
        if any(rule.applies_to(self.project, server, known) for rule in self.denying):
            return False
        return granted or any(
            rule.applies_to(self.project, server, known) for rule in self.granting
        )
