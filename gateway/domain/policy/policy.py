"""Authorization: the permissions of people on servers. Pure; a Policy is immutable.

A role is a named set of permissions. A grant gives a role on servers to people. A denial takes
permissions away and overrides every grant. Without a grant, everything is forbidden.

A decision reads only the rules for this permission that name the person or one of their groups.
Its cost does not grow with the number of rules.

A rule may select servers by attributes of the inventory. If the server or the attribute is
unknown, or the inventory has expired, the grant does not apply but the denial does.

A lock on a server or project decides before the rules: no person has a permission there.

An approved access request is a grant with an end. Denials and locks override it as well.

Writing a tag whose key a rule uses changes permissions. It requires a permission of its own.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from gateway.domain.errors import NotPermitted
from gateway.domain.model import (
    SERVER_READ,
    SERVER_TAG_POLICY,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
    ServerId,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Attributes, Inventory
from gateway.domain.policy.request_grants import NO_GRANTS, RequestGrants
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rule_index import RuleIndex, RulesByTarget, compile_rules
from gateway.domain.policy.rules import AllowedUntil, Decision, Explanation, Rule, Scope
from gateway.domain.policy.target_locks import NO_LOCKS, TargetLocks


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
    permission: str = ""
    """The permission that `rule` grants; the operation's, or `server:tag_policy`."""


@dataclass(frozen=True, slots=True)
class _CachedPermit:
    permit: Permit
    begins: float
    ends: float
    generation: object | None
    """Generation of the inventory that decided; None if attributes did not matter."""


class Policy:
    def __init__(
        self,
        rules: Iterable[Rule] | RuleIndex,
        *,
        version: str,
        locks: TargetLocks = NO_LOCKS,
        requested: RequestGrants = NO_GRANTS,
    ) -> None:
        """`version` identifies the text that the rules were parsed from.

        `requested`: the grants of approved access requests.
        """
        index = rules if isinstance(rules, RuleIndex) else RuleIndex(compile_rules(rules))
        self.version = version
        self.rules: Sequence[Rule] = index.rules
        self.selects_by_attributes = index.selects_by_attributes
        self._index = index
        self._locks = locks
        self._requested = requested
        self._instants = index.instants
        if requested:
            self._instants = sorted({*index.instants, *requested.instants})
        self._permits: OrderedDict[tuple[int, int], _CachedPermit] = OrderedDict()

    @property
    def size(self) -> int:
        return len(self.rules)

    def forget(self, count: int) -> bool:
        """Remove up to `count` entries of each cache; return whether more are left.

        To free all of a large policy's at once would hold the event loop.
        """
        for _ in range(min(count, len(self._permits))):
            self._permits.popitem()
        return self._index.forget(count) or bool(self._permits)

    def with_locks(self, locks: TargetLocks) -> "Policy":
        """Return a policy of the same rules under these locks."""
        return Policy(self._index, version=self.version, locks=locks, requested=self._requested)

    def with_requested(self, requested: RequestGrants) -> "Policy":
        """Return a policy of the same rules and locks, with the grants of access requests."""
        return Policy(self._index, version=self.version, locks=self._locks, requested=requested)

    @property
    def request_rules(self) -> Mapping[str, RequestRule]:
        """The rules of access requests, by name."""
        return {rule.name: rule for rule in self._index.requests}

    def may_request(self, principal: Principal, permission: str, now: float) -> bool:
        """Return whether a person may request the permission somewhere.

        It depends on the person and the rules only, not on servers.
        """
        return any(
            permission in rule.scope.permissions and rule.may_request(principal, now)
            for rule in self._index.requests
        )

    @property
    def group_aliases(self) -> Mapping[str, frozenset[str]]:
        """The groups of tokens that each alias of the policy means."""
        return self._index.group_aliases

    def denies_groups(self, now: float) -> bool:
        """Return whether a denial of a group applies at `now` or later."""
        return now < self._index.group_denials_end

    def unchanged_between(self, now: float) -> tuple[float, float]:
        """Return the time around `now` in which no rule begins or ends; the end is excluded."""
        after = bisect_right(self._instants, now)
        return self._instants[after - 1], self._instants[after]

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
        writes_tags = call.tag_keys is None or call.tag_keys
        # There are too many of these calls to cache them.
        if call.body or call.instances or call.query or is_list or writes_tags:
            return self._permit(principal, call, now, inventory)
        known = self._permits.get((id(principal), id(call)))
        if (
            known is not None
            and known.begins <= now < known.ends
            and (known.generation is None or known.generation is inventory.generation)
        ):
            return known.permit
        permit = self._permit(principal, call, now, inventory)
        begins, ends = self.unchanged_between(now)
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
        if not self.selects_by_attributes:
            return False
        grants = self._grants(principal, permission)
        denials = self._index.denials(principal, permission)
        return any(rules.selects_by_attributes for rules in chain(grants, denials))

    def _grants(self, principal: Principal, permission: str) -> Sequence[RulesByTarget]:
        """Return the grants of the policy, then those of access requests."""
        grants = self._index.grants(principal, permission)
        requested = self._requested.of(principal)
        if requested is None:
            return grants
        return (*grants, *requested.grants(principal, permission))

    def _permit(
        self, principal: Principal, call: ResolvedCall, now: float, inventory: Inventory
    ) -> Permit:
        permission, project = call.operation.permission, call.project
        servers: tuple[ServerId | None, ...] = call.servers
        if call.touches_unnamed:
            servers = (*servers, None)
        if self._locks:
            self._raise_if_locked(project, servers, permission)
        scope = None
        if call.operation.listing is not None:
            scope = self.scope(principal, permission, project, now, inventory)
        if not servers:
            if scope is None or scope.rule is None:
                raise NotPermitted("no grant applies", permission=permission)
            return Permit(principal, call, scope.rule, scope, self.version, permission)
        rule = self._rule_of(principal, call, servers, permission, now, inventory)
        if self._index.uses_any_tag_of(call.tag_keys, now):
            permission = SERVER_TAG_POLICY
            rule = self._rule_of(principal, call, servers, permission, now, inventory)
        return Permit(principal, call, rule, scope, self.version, permission)

    def _raise_if_locked(
        self, project: ProjectId, servers: Sequence[ServerId | None], permission: str
    ) -> None:
        lock = self._locks.projects.get(project)
        for server in servers:
            lock = lock or self._locks.find(project, server)
        if lock is not None:
            raise NotPermitted(f"lock {lock}", permission=permission)

    def _rule_of(
        self,
        principal: Principal,
        call: ResolvedCall,
        servers: Sequence[ServerId | None],
        permission: str,
        now: float,
        inventory: Inventory,
    ) -> RuleRef:
        """Return the grant of the permission on the first server; raise NotPermitted."""
        decisions = [
            self.decide(principal, permission, call.project, server, now, inventory)
            for server in servers
        ]
        for decision in decisions:
            if not decision.allowed:
                rule = decision.rule
                raise NotPermitted(
                    "no grant applies" if rule is None else rule.label,
                    rule="" if rule is None else rule.location,
                    refused=self._visible_rejections(principal, call, decisions, now, inventory),
                    permission=permission,
                )
        assert decisions[0].rule is not None
        return decisions[0].rule

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
        project: ProjectId,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Scope:
        """Return the servers of `project` on which a person has the permission at `now`."""
        grants = self._grants(principal, permission)
        denials = self._index.denials(principal, permission)
        whole = [rule for rules in grants for rule in rules.on_whole(project)]
        denied = [rule for rules in denials for rule in rules.on_whole(project)]
        named = (rule for rules in grants for _, rule in rules.on_servers(project))
        covering = next((rule.ref for rule in chain(whole, named) if rule.is_valid_at(now)), None)
        is_locked = project in self._locks.projects
        denied_servers = frozenset(_named_servers(denials, project, now, inventory))
        return Scope(
            project=project,
            rule=None if is_locked else covering,
            everywhere=any(rule.is_whole and rule.is_valid_at(now) for rule in whole),
            granted=frozenset(_named_servers(grants, project, now, inventory)),
            granting=_partial_rules(whole, now),
            denied_everywhere=is_locked
            or any(rule.is_whole and rule.is_valid_at(now) for rule in denied),
            denied=denied_servers.union(map(ServerId, self._locks.servers)),
            denying=_partial_rules(denied, now),
            attributes=lambda server: inventory.attributes(server, now),
            with_facets=lambda choices: inventory.with_facets(choices, now),
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
        if self._locks and self._locks.find(project, server) is not None:
            return Decision(allowed=False, rule=None)
        known = inventory.attributes(server, now) if self.selects_by_attributes else None
        for rules in self._index.denials(principal, permission):
            for rule in rules.denying(project, server):
                if rule.is_valid_at(now) and rule.applies_to(project, server, known):
                    return Decision(allowed=False, rule=rule.ref)
        for rules in self._grants(principal, permission):
            for rule in rules.granting(project, server):
                if rule.is_valid_at(now) and rule.applies_to(project, server, known):
                    return Decision(allowed=True, rule=rule.ref)
        return Decision(allowed=False, rule=None)

    def allowed_until(
        self,
        principal: Principal,
        permission: str,
        project: ProjectId,
        server: ServerId,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> AllowedUntil:
        """Return until when the permission that `decide` gives at `now` lasts."""
        if not self.decide(principal, permission, project, server, now, inventory).allowed:
            return AllowedUntil(now, None)
        known = inventory.attributes(server, now) if self.selects_by_attributes else None
        until, last = now, None
        grants = (
            rule
            for rules in self._grants(principal, permission)
            for rule in rules.granting(project, server)
            if rule.valid_until > now and rule.applies_to(project, server, known)
        )
        for rule in sorted(grants, key=lambda one: one.valid_from):
            if rule.valid_from > until:
                break
            if rule.valid_until > until:
                until, last = rule.valid_until, rule.ref
        for rules in self._index.denials(principal, permission):
            for rule in rules.denying(project, server):
                if now < rule.valid_from < until and rule.applies_to(project, server, known):
                    until = rule.valid_from
        return AllowedUntil(until, last)

    def rules_on(
        self,
        permission: str,
        project: ProjectId,
        server: ServerId | None,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Iterator[Rule]:
        """Yield every rule that applies to this permission and server, for whomever it is."""
        known = inventory.attributes(server, now)
        for rule in chain(self.rules, self._requested.rules):
            if _applies(rule, permission, project, server, known, now):
                yield rule

    def requests_on(
        self,
        permission: str,
        project: ProjectId,
        server: ServerId | None,
        now: float,
        inventory: Inventory = NO_INVENTORY,
    ) -> Iterator[RequestRule]:
        """Yield the rules by which this permission may be requested on this server."""
        known = inventory.attributes(server, now)
        for rule in self._index.requests:
            if _applies(rule.scope, permission, project, server, known, now):
                yield rule

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
            for rules in self._index.denials(principal, permission)
            for rule in rules.denying(project, server)
        ] + [
            rule
            for rules in self._grants(principal, permission)
            for rule in rules.granting(project, server)
        ]
        decision = self.decide(principal, permission, project, server, now, inventory)
        return Explanation(decision, tuple(dict.fromkeys(matching)))


def _concerns(rule: Rule, project: str, server: ServerId | None) -> bool:
    """Return whether a rule's targets contain the server, or the call that names none."""
    in_project = not rule.projects or project in rule.projects
    if server is not None:
        return in_project and (not rule.servers or server in rule.servers)
    is_fleet = not rule.projects and not rule.servers
    return is_fleet or (rule.ref.kind is RuleKind.DENIAL and in_project)


def _applies(
    rule: Rule,
    permission: str,
    project: str,
    server: ServerId | None,
    known: Attributes | None,
    now: float,
) -> bool:
    """Return whether a rule applies to this permission and server, for any person."""
    return (
        permission in rule.permissions
        and rule.is_valid_at(now)
        and _concerns(rule, project, server)
        and rule.applies_to(project, server, known)
    )


def _named_servers(
    all_rules: Sequence[RulesByTarget], project: str, now: float, inventory: Inventory
) -> Iterator[ServerId]:
    """Yield the servers that rules valid at `now` name by ID."""
    for rules in all_rules:
        for server, rule in rules.on_servers(project):
            if rule.is_valid_at(now) and (
                rule.is_whole or rule.applies_to(project, server, inventory.attributes(server, now))
            ):
                yield server


def _partial_rules(rules: Sequence[Rule], now: float) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if not rule.is_whole and rule.is_valid_at(now))


PERMITS_MAX = 4_096
"""Most cached permits belong to expired tokens. A cache miss costs some microseconds."""
