"""Authorization: the permissions of people on servers. Pure; a Policy is immutable.

A role is a named set of permissions. A grant gives a role on servers to people. A denial takes
permissions away and overrides every grant. Without a grant, everything is forbidden.

A decision reads only the rules for this permission that name the person or one of their groups.
Its cost does not grow with the number of rules.

A rule may select servers by attributes of the inventory. If the server or the attribute is
unknown, or the inventory has expired, the grant does not apply but the denial does.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from gateway.domain.errors import NotPermitted
from gateway.domain.model import (
    SERVER_READ,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
    ServerId,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Attributes, Inventory, Selector


@dataclass(frozen=True, slots=True)
class Rule:
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

    def is_valid_at(self, now: float) -> bool:
        return self.valid_from <= now < self.valid_until

    def applies_to(self, known: Attributes | None) -> bool:
        """Return whether the rule is about a server with these attributes; unknown ones deny."""
        if self.selector is None:
            return True
        if_unknown = self.ref.kind is RuleKind.DENIAL
        return if_unknown if known is None else self.selector.matches(known, if_unknown=if_unknown)


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    rule: RuleRef | None
    """The denial or grant that decided; None if no grant applies."""


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

    rule: RuleRef | None
    """A grant that covers a part of the project; None if there is none.

    It must not depend on known servers: a caller could infer their existence from it.
    """
    everywhere: bool
    """A grant covers the whole project or everything."""
    granted: frozenset[ServerId]
    """Servers that grants name by ID."""
    granting: tuple[Rule, ...]
    """Grants by attributes."""
    denied_everywhere: bool
    """A denial covers the whole project or everything."""
    denied: frozenset[ServerId]
    """Servers that denials name by ID."""
    denying: tuple[Rule, ...]
    """Denials by attributes."""
    attributes: Callable[[ServerId], Attributes | None]

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
        if any(rule.applies_to(known) for rule in self.denying):
            return False
        return granted or any(rule.applies_to(known) for rule in self.granting)


@dataclass(frozen=True, slots=True)
class Permit:
    """Proof that the policy in force allows this principal this call.

    Only this module constructs it (a test enforces that). Later stages require a Permit, so that
    no unauthorized call can reach them.
    """

    principal: Principal
    call: ResolvedCall
    rule: RuleRef
    scope: Scope | None = None
    """For a list: the servers that it may contain."""
    policy_version: str = ""


@dataclass(slots=True)
class _RulesByTarget:
    """Rules of one kind, permission and person or group, indexed by their targets."""

    everything: list[Rule] = field(default_factory=list)
    by_project: dict[str, list[Rule]] = field(default_factory=dict)
    by_server: dict[str, list[Rule]] = field(default_factory=dict)
    selects_by_attributes: bool = False

    def add(self, rule: Rule) -> None:
        self.selects_by_attributes |= rule.selector is not None
        if rule.servers:
            for server in rule.servers:
                self.by_server.setdefault(server, []).append(rule)
        elif rule.projects:
            for project in rule.projects:
                self.by_project.setdefault(project, []).append(rule)
        else:
            self.everything.append(rule)

    def granting(self, project: str, server: str | None) -> Iterator[Rule]:
        yield from self.everything
        if server is None:
            return  # a call that names no server requires a grant on everything
        yield from self.by_project.get(project, ())
        yield from self._on_server(project, server)

    def denying(self, project: str, server: str | None) -> Iterator[Rule]:
        yield from self.everything
        yield from self.by_project.get(project, ())
        if server is not None:
            yield from self._on_server(project, server)
            return
        for each in self.by_server:  # a call that names no server may touch every server
            yield from self._on_server(project, each)

    def on_whole(self, project: str) -> Iterator[Rule]:
        yield from self.everything
        yield from self.by_project.get(project, ())

    def on_servers(self, project: str) -> Iterator[tuple[ServerId, Rule]]:
        for server in self.by_server:
            for rule in self._on_server(project, server):
                yield ServerId(server), rule

    def _on_server(self, project: str, server: str) -> Iterator[Rule]:
        for rule in self.by_server.get(server, ()):
            if not rule.projects or project in rule.projects:
                yield rule


@dataclass(slots=True)
class _RulesByGroup:
    names: set[str] = field(default_factory=set)
    rules: dict[str, _RulesByTarget] = field(default_factory=dict)


@dataclass(slots=True)
class _RulesBySubject:
    """Rules of one kind and permission, indexed by issuer (None: any) and by user or group."""

    users: dict[str | None, dict[str, _RulesByTarget]] = field(default_factory=dict)
    groups: dict[str | None, _RulesByGroup] = field(default_factory=dict)

    def add(self, rule: Rule) -> None:
        if rule.users:
            by_user = self.users.setdefault(rule.issuer, {})
            for user in rule.users:
                by_user.setdefault(user, _RulesByTarget()).add(rule)
        if rule.groups:
            by_group = self.groups.setdefault(rule.issuer, _RulesByGroup())
            for group in rule.groups:
                by_group.names.add(group)
                by_group.rules.setdefault(group, _RulesByTarget()).add(rule)


@dataclass(frozen=True, slots=True)
class _CachedPermit:
    permit: Permit
    begins: float
    ends: float
    generation: object | None
    """Generation of the inventory that decided; None if attributes did not matter."""


class Policy:
    def __init__(self, rules: Sequence[Rule], *, version: str) -> None:
        """`version` identifies the text that the rules were parsed from."""
        self.version = version
        self.size = len(rules)
        self._grants: dict[str, _RulesBySubject] = {}
        self._denials: dict[str, _RulesBySubject] = {}
        for rule in rules:
            index = self._grants if rule.ref.kind is RuleKind.GRANT else self._denials
            for permission in rule.permissions:
                index.setdefault(permission, _RulesBySubject()).add(rule)
        ends = {rule.valid_from for rule in rules} | {rule.valid_until for rule in rules}
        self._instants = sorted(ends | {float("-inf"), float("inf")})
        self.selects_by_attributes = any(rule.selector is not None for rule in rules)
        self._permits: OrderedDict[tuple[int, int], _CachedPermit] = OrderedDict()

    def permit(
        self,
        principal: Principal,
        call: ResolvedCall,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Permit:
        """Return a Permit if all of `call` is allowed at `now`; raise NotPermitted otherwise.

        A call that may touch servers it does not name requires a grant on everything. A list
        requires a grant in the project and contains only permitted servers.

        Permits are cached by the identity of principal and call, which the permit keeps alive. A
        cached permit is valid until a rule begins or ends. Where a rule by attributes concerns the
        person, it is valid for the same inventory only, until that expires.
        """
        is_list = call.operation.listing is not None
        if call.body or call.instances or call.query or is_list:  # too many to cache
            return self._permit(principal, call, now, inventory)
        known = self._permits.get((id(principal), id(call)))
        if (
            known is not None
            and known.begins <= now < known.ends
            and (known.generation is None or known.generation is inventory.generation)
        ):
            return known.permit
        permit = self._permit(principal, call, now, inventory)
        after = bisect_right(self._instants, now)
        begins, ends = self._instants[after - 1], self._instants[after]
        generation = None
        if self._depends_on_attributes(principal, call.operation.permission):
            generation = inventory.generation
            if now < inventory.good_until < ends:
                ends = inventory.good_until
        self._permits[id(principal), id(call)] = _CachedPermit(permit, begins, ends, generation)
        if len(self._permits) > PERMITS_MAX:
            self._permits.popitem(last=False)
        return permit

    def _depends_on_attributes(self, principal: Principal, permission: str) -> bool:
        return self.selects_by_attributes and any(
            scope.selects_by_attributes
            for index in (self._grants, self._denials)
            for scope in self._rules_for(index, principal, permission)
        )

    def _permit(
        self, principal: Principal, call: ResolvedCall, now: float, inventory: Inventory
    ) -> Permit:
        permission, project = call.operation.permission, call.project
        servers: tuple[ServerId | None, ...] = call.servers
        if call.touches_unnamed:
            servers = (*servers, None)
        scope = None
        if call.operation.listing is not None:
            scope = self.scope(principal, permission, project, now, inventory)
        if not servers:
            if scope is None or scope.rule is None:
                raise NotPermitted("no grant applies")
            return Permit(principal, call, scope.rule, scope, self.version)
        decisions = [
            self.decide(principal, permission, project, server, now, inventory)
            for server in servers
        ]
        for decision in decisions:
            if not decision.allowed:
                rule = decision.rule
                raise NotPermitted(
                    "no grant applies" if rule is None else rule.label,
                    rule="" if rule is None else rule.place,
                    refused=self._visible_rejections(principal, call, decisions, now, inventory),
                )
        assert decisions[0].rule is not None
        return Permit(principal, call, decisions[0].rule, scope, self.version)

    def _visible_rejections(
        self,
        principal: Principal,
        call: ResolvedCall,
        decisions: Sequence[Decision],
        now: float,
        inventory: Inventory,
    ) -> tuple[ServerId, ...]:
        """Return the denied servers that the caller may see, if the call names several.

        For instances the result is empty: it would reveal the server of a hidden instance.
        """
        if len(call.servers) == 1 or call.instances:
            return ()
        return tuple(
            server
            for server, decision in zip(call.servers, decisions, strict=False)
            if not decision.allowed
            and self.decide(principal, SERVER_READ, call.project, server, now, inventory).allowed
        )

    def scope(
        self,
        principal: Principal,
        permission: str,
        project: str,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Scope:
        """Return the servers of `project` on which a person has the permission at `now`."""
        grants = list(self._rules_for(self._grants, principal, permission))
        denials = list(self._rules_for(self._denials, principal, permission))
        whole = [rule for rules in grants for rule in rules.on_whole(project)]
        denied = [rule for rules in denials for rule in rules.on_whole(project)]
        named = (rule for rules in grants for _, rule in rules.on_servers(project))
        covering = next((rule.ref for rule in chain(whole, named) if rule.is_valid_at(now)), None)
        return Scope(
            rule=covering,
            everywhere=any(rule.selector is None and rule.is_valid_at(now) for rule in whole),
            granted=frozenset(_named_servers(grants, project, now, inventory)),
            granting=_attribute_rules(whole, now),
            denied_everywhere=any(
                rule.selector is None and rule.is_valid_at(now) for rule in denied
            ),
            denied=frozenset(_named_servers(denials, project, now, inventory)),
            denying=_attribute_rules(denied, now),
            attributes=lambda server: inventory.attributes(server, now),
        )

    def decide(
        self,
        principal: Principal,
        permission: str,
        project: ProjectId,
        server: ServerId | None,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Decision:
        """Decide one permission on one server at `now` (seconds since the epoch)."""
        known = inventory.attributes(server, now) if self.selects_by_attributes else None
        for rules in self._rules_for(self._denials, principal, permission):
            for rule in rules.denying(project, server):
                if rule.is_valid_at(now) and rule.applies_to(known):
                    return Decision(allowed=False, rule=rule.ref)
        for rules in self._rules_for(self._grants, principal, permission):
            for rule in rules.granting(project, server):
                if rule.is_valid_at(now) and rule.applies_to(known):
                    return Decision(allowed=True, rule=rule.ref)
        return Decision(allowed=False, rule=None)

    def explain(
        self,
        principal: Principal,
        permission: str,
        project: ProjectId,
        server: ServerId | None,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Explanation:
        """Decide, and list every rule about this question, whether valid at `now` or not."""
        matching = [
            rule
            for rules in self._rules_for(self._denials, principal, permission)
            for rule in rules.denying(project, server)
        ] + [
            rule
            for rules in self._rules_for(self._grants, principal, permission)
            for rule in rules.granting(project, server)
        ]
        decision = self.decide(principal, permission, project, server, now, inventory)
        return Explanation(decision, tuple(dict.fromkeys(matching)))

    def _rules_for(
        self, index: dict[str, _RulesBySubject], principal: Principal, permission: str
    ) -> Iterator[_RulesByTarget]:
        named = index.get(permission)
        if named is None:
            return
        for issuer in (principal.issuer, None):
            by_user = named.users.get(issuer)
            if by_user is not None and principal.subject in by_user:
                yield by_user[principal.subject]
            by_group = named.groups.get(issuer)
            if by_group is not None:
                # Set intersection iterates over the smaller set.
                for group in principal.groups & by_group.names:
                    yield by_group.rules[group]


def _named_servers(
    all_rules: Sequence[_RulesByTarget], project: str, now: float, inventory: Inventory
) -> Iterator[ServerId]:
    """Yield the servers that rules valid at `now` name by ID."""
    for rules in all_rules:
        for server, rule in rules.on_servers(project):
            if rule.is_valid_at(now) and (
                rule.selector is None or rule.applies_to(inventory.attributes(server, now))
            ):
                yield server


def _attribute_rules(rules: Sequence[Rule], now: float) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.selector is not None and rule.is_valid_at(now))


PERMITS_MAX = 4_096
"""Most cached permits belong to expired tokens. A cache miss costs some microseconds."""
