"""Who may do what to which server. Pure: a Policy is built whole and never changes.

The words: a role is a named set of permissions; a grant gives a role to somebody on something;
a denial takes permissions away and always wins; what no grant gives is not allowed.

A decision looks only at the rules that name this person or one of their groups and this very
permission, so it does not grow with the number of rules.

A rule may select servers by what an inventory tells of them. Of a server that it does not know,
or no longer, a grant by attributes gives nothing, and a denial by attributes denies; so it is
where a rule goes by an attribute that is not known of the server.
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
    """None: of any issuer."""
    users: frozenset[str]
    groups: frozenset[str]
    projects: frozenset[str]
    """Empty: any project."""
    servers: frozenset[str]
    """Empty: any server of the projects."""
    selector: Selector | None = None
    """None: whatever is known of the server."""
    valid_from: float = float("-inf")
    valid_until: float = float("inf")
    """Seconds since the epoch; the first instant at which the rule no longer holds."""

    def is_valid_at(self, now: float) -> bool:
        return self.valid_from <= now < self.valid_until

    def applies_to(self, known: Attributes | None) -> bool:
        """Tell whether it selects a server of which this is known; when in doubt it denies."""
        if self.selector is None:
            return True
        if_unknown = self.ref.kind is RuleKind.DENIAL
        return if_unknown if known is None else self.selector.matches(known, if_unknown=if_unknown)


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    rule: RuleRef | None
    """The denial or the grant that decided; None: no grant applies."""


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    matching: tuple[Rule, ...]
    """Every rule about this person, permission and server, also those not valid now."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What one person may do one thing to, in one project, at one time.

    Built once and asked for each server of a list.
    """

    rule: RuleRef | None
    """Some grant that reaches into this project, whatever is there now: what is known of servers
    must not show in it. None: this person has no business here."""
    everywhere: bool
    """There is a grant on the whole project or on everything."""
    granted: frozenset[ServerId]
    """Servers that are granted one by one."""
    granting: tuple[Rule, ...]
    """Grants by attributes."""
    denied_everywhere: bool
    denied: frozenset[ServerId]
    denying: tuple[Rule, ...]
    attributes: Callable[[ServerId], Attributes | None]

    @property
    def total(self) -> bool:
        """Tell whether every server of the project is allowed, also one that is not there yet."""
        denied = self.denied_everywhere or self.denied or self.denying
        return self.everywhere and not denied

    @property
    def predicate(self) -> Callable[[ServerId], bool]:
        """The quickest that answers as `allows` does."""
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

    Only this module makes one (a test greps for it); later stages ask for a Permit, so nothing
    unchecked can reach them.
    """

    principal: Principal
    call: ResolvedCall
    rule: RuleRef
    scope: Scope | None = None
    """Of a list: it shows no more than this."""
    policy_version: str = ""


@dataclass(slots=True)
class _RulesByTarget:
    """The rules of one kind for one person or group and one permission, by what they are on."""

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
            return  # only a right on everything reaches a call that names no server
        yield from self.by_project.get(project, ())
        yield from self._on_server(project, server)

    def denying(self, project: str, server: str | None) -> Iterator[Rule]:
        yield from self.everything
        yield from self.by_project.get(project, ())
        if server is not None:
            yield from self._on_server(project, server)
            return
        for one in self.by_server:  # a call that names no server may touch any
            yield from self._on_server(project, one)

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
    """The rules of one kind for one permission, by whom they name; issuer None: of any."""

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
    """Of the inventory; None: none has a part in it. Inventories are too large to hold on to."""


class Policy:
    def __init__(self, rules: Sequence[Rule], *, version: str) -> None:
        """`version` is a digest of the text that the rules were read from."""
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
        """Return the proof that all of `call` is allowed at `now`; raise NotPermitted.

        A call that touches what it does not name needs a grant on everything; a list needs any
        that reaches into the project, and shows no more than that. What was decided stays so until
        the next instant at which a rule begins or ends, or, where a rule by attributes is about
        this person, the inventory is another or too old, and is remembered until then; the keys
        are identities, kept valid by holding the objects themselves.
        """
        is_list = call.operation.listing is not None
        if call.body or call.instances or call.query or is_list:  # too many, too large to keep
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
        """Return those of the refused servers that the caller may know of, if it is not plain.

        Of instances nothing is said: which server a hidden one is on must not show.
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
        """Return what this person may do this to in `project` at `now`."""
        grants = list(self._rules_for(self._grants, principal, permission))
        denials = list(self._rules_for(self._denials, principal, permission))
        whole = [rule for rules in grants for rule in rules.on_whole(project)]
        denied = [rule for rules in denials for rule in rules.on_whole(project)]
        named = (rule for rules in grants for _, rule in rules.on_servers(project))
        some = next((rule.ref for rule in chain(whole, named) if rule.is_valid_at(now)), None)
        return Scope(
            rule=some,
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
        """Say whether it is allowed at `now` (seconds since the epoch), and what decided."""
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
        """Say what decides, and name every rule that is about this, valid at `now` or not."""
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
                # The set operation looks at the smaller side only.
                for group in principal.groups & by_group.names:
                    yield by_group.rules[group]


def _named_servers(
    some: Sequence[_RulesByTarget], project: str, now: float, inventory: Inventory
) -> Iterator[ServerId]:
    """Yield the servers that rules which hold name one by one."""
    for rules in some:
        for server, rule in rules.on_servers(project):
            if rule.is_valid_at(now) and (
                rule.selector is None or rule.applies_to(inventory.attributes(server, now))
            ):
                yield server


def _attribute_rules(rules: Sequence[Rule], now: float) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if rule.selector is not None and rule.is_valid_at(now))


PERMITS_MAX = 4_096
"""Most are of tokens that have ended; one that is missed costs some microseconds."""
