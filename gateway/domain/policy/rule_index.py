"""Index of rules by permission, person and target, so that a decision reads only what it needs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.model import Principal, RuleKind, ServerId
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import tag_key_form


@dataclass(slots=True)
class RulesByTarget:
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
        """Yield the rules on everything and on the project, if it is not excluded."""
        for rule in (*self.everything, *self.by_project.get(project, ())):
            if project not in rule.excluded_projects:
                yield rule

    def on_servers(self, project: str) -> Iterator[tuple[ServerId, Rule]]:
        for server in self.by_server:
            for rule in self._on_server(project, server):
                if project not in rule.excluded_projects:
                    yield ServerId(server), rule

    def _on_server(self, project: str, server: str) -> Iterator[Rule]:
        for rule in self.by_server.get(server, ()):
            if not rule.projects or project in rule.projects:
                yield rule


@dataclass(slots=True)
class _RulesByGroup:
    names: set[str] = field(default_factory=set)
    rules: dict[str, RulesByTarget] = field(default_factory=dict)


@dataclass(slots=True)
class RulesBySubject:
    """Rules of one kind and permission, indexed by issuer (None: any) and by user or group."""

    everyone: dict[str | None, RulesByTarget] = field(default_factory=dict)
    users: dict[str | None, dict[str, RulesByTarget]] = field(default_factory=dict)
    groups: dict[str | None, _RulesByGroup] = field(default_factory=dict)

    def add(self, rule: Rule) -> None:
        if rule.everyone:
            self.everyone.setdefault(rule.issuer, RulesByTarget()).add(rule)
        if rule.users:
            by_user = self.users.setdefault(rule.issuer, {})
            for user in rule.users:
                by_user.setdefault(user, RulesByTarget()).add(rule)
        if rule.groups:
            by_group = self.groups.setdefault(rule.issuer, _RulesByGroup())
            for group in rule.groups:
                by_group.names.add(group)
                by_group.rules.setdefault(group, RulesByTarget()).add(rule)

    def rules_for(self, principal: Principal) -> Iterator[RulesByTarget]:
        for issuer in (principal.issuer, None):
            if (everyone := self.everyone.get(issuer)) is not None:
                yield everyone
            by_user = self.users.get(issuer)
            if by_user is not None and principal.subject in by_user:
                yield by_user[principal.subject]
            by_group = self.groups.get(issuer)
            if by_group is not None:
                # Set intersection iterates over the smaller set.
                for group in principal.groups & by_group.names:
                    yield by_group.rules[group]


NO_ALIASES: Final[Mapping[str, frozenset[str]]] = {}


class RuleIndex:
    """All rules of a policy. Rules may be added until a Policy is made of it."""

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        group_aliases: Mapping[str, frozenset[str]] = NO_ALIASES,
    ) -> None:
        """`group_aliases`: the groups of tokens that each alias of the policy stands for."""
        self.rules: list[Rule] = []
        self.group_aliases = group_aliases
        self.instants = {float("-inf"), float("inf")}
        """Instants at which a rule begins or ends, in seconds since the epoch."""
        self.selects_by_attributes = False
        self.group_denials_end = float("-inf")
        """The instant from which no denial of a group applies."""
        self._grants: dict[str, RulesBySubject] = {}
        self._denials: dict[str, RulesBySubject] = {}
        self._tag_keys: dict[str, float] = {}
        """Form of each tag key that rules use, and the instant from which none of them applies."""
        self.add(rules)

    def add(self, rules: Iterable[Rule]) -> None:
        for rule in rules:
            self.rules.append(rule)
            self.instants.add(rule.valid_from)
            self.instants.add(rule.valid_until)
            self.selects_by_attributes |= rule.selector is not None
            if rule.ref.kind is RuleKind.DENIAL and rule.groups:
                self.group_denials_end = max(self.group_denials_end, rule.valid_until)
            index = self._grants if rule.ref.kind is RuleKind.GRANT else self._denials
            for permission in rule.permissions:
                if permission not in index:
                    index[permission] = RulesBySubject()
                index[permission].add(rule)
            for form in map(tag_key_form, rule.tag_keys):
                self._tag_keys[form] = max(rule.valid_until, self._tag_keys.get(form, 0.0))

    def uses_any_tag_of(self, keys: Iterable[str] | None, now: float) -> bool:
        """Return whether a rule that has not ended uses one of these tag keys.

        None: the keys are unknown and may be any.
        """
        if keys is None:
            return any(now < until for until in self._tag_keys.values())
        return any(now < self._tag_keys.get(tag_key_form(key), 0.0) for key in keys)

    def grants(self, principal: Principal, permission: str) -> Iterator[RulesByTarget]:
        return _rules_for(self._grants, principal, permission)

    def denials(self, principal: Principal, permission: str) -> Iterator[RulesByTarget]:
        return _rules_for(self._denials, principal, permission)


def _rules_for(
    index: dict[str, RulesBySubject], principal: Principal, permission: str
) -> Iterator[RulesByTarget]:
    named = index.get(permission)
    return iter(()) if named is None else named.rules_for(principal)
