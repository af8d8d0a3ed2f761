"""Index of rules by person, permission and target, so that a decision reads only what it needs.

The index is one immutable block of bytes, so that one process can compile a policy for others: they
open it at once, and decode a rule when a decision first needs it.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from struct import Struct
from typing import Any, Final, overload

import msgspec

from gateway.domain.constant_map import ConstantMap, build_map
from gateway.domain.model import Principal, RuleKind, ServerId
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import tag_key_form

NO_ALIASES: Final[Mapping[str, frozenset[str]]] = {}
_INLINE_SERVERS_MAX: Final = 16
_RULES_CACHED_MAX: Final = 20_000
_TARGETS_CACHED_MAX: Final = 4_096
_PEOPLE_CACHED_MAX: Final = 4_096
_SECTIONS: Final = Struct("=6Q")
_NO_PERMISSIONS: Final[frozenset[str]] = frozenset()


class _Summary(msgspec.Struct, array_like=True):
    """What concerns all rules of a policy."""

    group_aliases: dict[str, frozenset[str]]
    permissions: list[frozenset[str]]
    """Each set of permissions that rules have; rules refer to it by its number."""
    selects_by_attributes: bool = False
    group_denials_end: float = float("-inf")
    tag_keys: dict[str, float] = {}
    """Form of each tag key that rules use, and the instant from which none of them applies."""
    requests: list[RequestRule] = []

    def use(self, rule: Rule) -> None:
        """Add the attributes that a rule selects servers by."""
        self.selects_by_attributes |= rule.selector is not None
        for form in map(tag_key_form, rule.tag_keys):
            self.tag_keys[form] = max(rule.valid_until, self.tag_keys.get(form, 0.0))


class _Targets(msgspec.Struct, array_like=True, gc=False):
    """Rules of one kind and one set of permissions for one user, group or everyone.

    Rules are numbers, in the order of the policy.
    """

    number: int
    is_denial: bool
    permissions: int
    everything: list[int] = []
    by_project: dict[str, list[int]] = {}
    on_servers: list[int] = []
    """The rules that name servers."""
    by_server: dict[str, list[int]] | None = {}
    """None: too many to decode at once; the map of servers has them."""
    selects_by_attributes: bool = False

    def add(self, number: int, rule: Rule) -> None:
        self.selects_by_attributes |= rule.selector is not None
        if rule.servers:
            self.on_servers.append(number)
            assert self.by_server is not None
            for server in rule.servers:
                self.by_server.setdefault(server, []).append(number)
        elif rule.projects:
            for project in rule.projects:
                self.by_project.setdefault(project, []).append(number)
        else:
            self.everything.append(number)


_ENCODER: Final = msgspec.msgpack.Encoder()
_SUMMARY: Final = msgspec.msgpack.Decoder(_Summary)
_TARGETS: Final = msgspec.msgpack.Decoder(list[_Targets])
_NUMBERS: Final = msgspec.msgpack.Decoder(list[int])
_RULE: Final = msgspec.msgpack.Decoder(Rule)


def compile_rules(
    rules: Iterable[Rule],
    *,
    group_aliases: Mapping[str, frozenset[str]] = NO_ALIASES,
    requests: Iterable[RequestRule] = (),
) -> bytes:
    """Return the block of an index of these rules.

    `group_aliases`: the groups of tokens that each alias of the policy means. `requests`: the rules
    of access requests.
    """
    summary = _Summary(dict(group_aliases), [], requests=list(requests))
    for one in summary.requests:
        summary.use(one.scope)
    permissions: dict[frozenset[str], int] = {}
    subjects: dict[bytes, dict[tuple[bool, int], _Targets]] = {}
    instants = {float("-inf"), float("inf")}
    encoded, permission_numbers, count = [], array("Q"), 0
    for number, rule in enumerate(rules):
        is_denial = rule.ref.kind is RuleKind.DENIAL
        granted = permissions.setdefault(rule.permissions, len(permissions))
        permission_numbers.append(granted)
        encoded.append(_ENCODER.encode(rule.with_permissions(_NO_PERMISSIONS)))
        instants.add(rule.valid_from)
        instants.add(rule.valid_until)
        summary.use(rule)
        if is_denial and rule.groups:
            summary.group_denials_end = max(summary.group_denials_end, rule.valid_until)
        for subject in _subjects_of(rule):
            by_kind = subjects.setdefault(subject, {})
            targets = by_kind.get((is_denial, granted))
            if targets is None:
                targets = _Targets(count, is_denial, granted)
                by_kind[is_denial, granted] = targets
                count += 1
            targets.add(number, rule)
    summary.permissions = list(permissions)
    servers = _take_servers(subjects.values())
    sections = (
        _ENCODER.encode(summary),
        array("d", sorted(instants)).tobytes(),
        array("Q", accumulate(map(len, encoded), initial=0)).tobytes()
        + permission_numbers.tobytes(),
        b"".join(encoded),
        build_map({key: _ENCODER.encode(list(of.values())) for key, of in subjects.items()}),
        build_map(servers),
    )
    return b"".join((_SECTIONS.pack(*map(len, sections)), *sections))


def _take_servers(
    subjects: Iterable[Mapping[tuple[bool, int], _Targets]],
) -> dict[bytes, bytes]:
    """Move the servers of targets that have many into a map of their own, and return it."""
    found: dict[bytes, bytes] = {}
    for by_kind in subjects:
        for targets in by_kind.values():
            servers = targets.by_server
            if servers is not None and len(servers) > _INLINE_SERVERS_MAX:
                targets.by_server = None
                for server, numbers in servers.items():
                    found[_server_key(targets.number, server)] = _ENCODER.encode(numbers)
    return found


def _subjects_of(rule: Rule) -> Iterator[bytes]:
    if rule.everyone:
        yield _subject_key(rule.issuer, "e", "")
    for user in rule.users:
        yield _subject_key(rule.issuer, "u", user)
    for group in rule.groups:
        yield _subject_key(rule.issuer, "g", group)


def _subject_key(issuer: str | None, kind: str, name: str) -> bytes:
    """Return a key that differs for different subjects; the length separates issuer and name."""
    text = f"{kind}{name}" if issuer is None else f"{len(issuer)}:{issuer}{kind}{name}"
    return text.encode("utf-8", "surrogatepass")


def _server_key(targets: int, server: str) -> bytes:
    return f"{targets}:{server}".encode("utf-8", "surrogatepass")


class RulesByTarget:
    """Rules of one kind, permission and person or group, indexed by their targets."""

    __slots__ = (
        *("_many_servers", "_rules", "_targets"),
        *("is_denial", "permissions", "selects_by_attributes"),
    )

    def __init__(self, rules: Sequence[Rule], many_servers: ConstantMap, targets: _Targets) -> None:
        """Take parts of a RuleIndex, and not itself: an old one is then freed at once.

        `many_servers`: the servers of targets that have many.
        """
        self._rules = rules
        self._many_servers = many_servers
        self._targets = targets
        self.is_denial = targets.is_denial
        self.permissions = targets.permissions
        """The number of the set of permissions."""
        self.selects_by_attributes = targets.selects_by_attributes

    def granting(self, project: str, server: str | None) -> Iterator[Rule]:
        rules, targets = self._rules, self._targets
        for number in targets.everything:
            yield rules[number]
        if server is None:
            return  # a call that names no server requires a grant on everything
        for number in targets.by_project.get(project, ()):
            yield rules[number]
        yield from self._on_server(project, server)

    def denying(self, project: str, server: str | None) -> Iterator[Rule]:
        rules, targets = self._rules, self._targets
        for number in targets.everything:
            yield rules[number]
        for number in targets.by_project.get(project, ()):
            yield rules[number]
        if server is not None:
            yield from self._on_server(project, server)
            return
        # A call that names no server may touch every server.
        yield from self._in_project(targets.on_servers, project)

    def on_whole(self, project: str) -> Iterator[Rule]:
        """Yield the rules on everything and on the project, if it is not excluded."""
        rules, targets = self._rules, self._targets
        for number in (*targets.everything, *targets.by_project.get(project, ())):
            if project not in rules[number].excluded_projects:
                yield rules[number]

    def on_servers(self, project: str) -> Iterator[tuple[ServerId, Rule]]:
        for rule in self._in_project(self._targets.on_servers, project):
            if project not in rule.excluded_projects:
                for server in rule.servers:
                    yield ServerId(server), rule

    def _on_server(self, project: str, server: str) -> Iterator[Rule]:
        targets = self._targets
        if targets.by_server is None:
            found = self._many_servers.get(_server_key(targets.number, server))
            numbers: Sequence[int] = () if found is None else _NUMBERS.decode(found)
        else:
            numbers = targets.by_server.get(server, ())
        yield from self._in_project(numbers, project)

    def _in_project(self, numbers: Iterable[int], project: str) -> Iterator[Rule]:
        rules = self._rules
        for number in numbers:
            rule = rules[number]
            if not rule.projects or project in rule.projects:
                yield rule


_Found = tuple[tuple[RulesByTarget, ...], tuple[RulesByTarget, ...]]
"""Grants and denials."""


class _Person:
    """The rules about one person, and those of each permission that was decided on."""

    __slots__ = ("by_permission", "rules")

    def __init__(self, rules: tuple[RulesByTarget, ...]) -> None:
        self.rules = rules
        self.by_permission: dict[str, _Found] = {}


class _StoredRules(Sequence[Rule]):
    """All rules; one is decoded when it is first read."""

    def __init__(
        self, numbers: memoryview, encoded: memoryview, permissions: Sequence[frozenset[str]]
    ) -> None:
        """`numbers`: where each rule begins and the last one ends, then their permissions."""
        self._count = len(numbers) // 2
        self._numbers = numbers
        self._encoded = encoded
        self._permissions = permissions
        self.cached: dict[int, Rule] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Rule: ...
    @overload
    def __getitem__(self, number: slice) -> list[Rule]: ...
    def __getitem__(self, number: int | slice) -> Rule | list[Rule]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(self._count))]
        number = number if number >= 0 else number + self._count
        rule = self.cached.get(number)
        return self._decode(number) if rule is None else rule

    def _decode(self, number: int) -> Rule:
        if not 0 <= number < self._count:
            raise IndexError(number)
        begin, end = self._numbers[number], self._numbers[number + 1]
        rule = _RULE.decode(self._encoded[begin:end])
        granted = self._permissions[self._numbers[self._count + 1 + number]]
        rule = rule.with_permissions(granted)
        if len(self.cached) >= _RULES_CACHED_MAX:
            self.cached.clear()
        self.cached[number] = rule
        return rule


class RuleIndex:
    """All rules of a policy, in a block of `compile_rules`."""

    def __init__(self, compiled: bytes | memoryview) -> None:
        block = memoryview(compiled)
        sizes = _SECTIONS.unpack_from(block)
        ends = list(accumulate(sizes, initial=_SECTIONS.size))
        summary, instants, numbers, encoded, subjects, servers = (
            block[begin:end] for begin, end in pairwise(ends)
        )
        self._summary = _SUMMARY.decode(summary)
        self.instants: Sequence[float] = instants.cast("d")
        """Instants at which a rule begins or ends, in seconds since the epoch, sorted."""
        self.rules = _StoredRules(numbers.cast("Q"), encoded, self._summary.permissions)
        self._subjects = ConstantMap(subjects)
        self._servers = ConstantMap(servers)
        self._people: OrderedDict[tuple[str, str, frozenset[str]], _Person] = OrderedDict()
        self._targets_cached: dict[bytes, tuple[RulesByTarget, ...]] = {}

    @property
    def group_aliases(self) -> Mapping[str, frozenset[str]]:
        return self._summary.group_aliases

    @property
    def requests(self) -> Sequence[RequestRule]:
        """The rules of access requests, in the order of the policy."""
        return self._summary.requests

    @property
    def selects_by_attributes(self) -> bool:
        return self._summary.selects_by_attributes

    @property
    def group_denials_end(self) -> float:
        """The instant from which no denial of a group applies."""
        return self._summary.group_denials_end

    def uses_any_tag_of(self, keys: Iterable[str] | None, now: float) -> bool:
        """Return whether a rule that has not ended uses one of these tag keys.

        None: the keys are unknown and may be any.
        """
        tag_keys = self._summary.tag_keys
        if keys is None:
            return any(now < until for until in tag_keys.values())
        return any(now < tag_keys.get(tag_key_form(key), 0.0) for key in keys)

    def grants(self, principal: Principal, permission: str) -> Sequence[RulesByTarget]:
        return self._rules_for(principal, permission)[0]

    def denials(self, principal: Principal, permission: str) -> Sequence[RulesByTarget]:
        return self._rules_for(principal, permission)[1]

    def forget(self, count: int) -> bool:
        """Remove up to `count` entries of each cache; return whether more are left."""
        caches: list[dict[Any, Any]] = [self._people, self._targets_cached, self.rules.cached]
        for cache in caches:
            for _ in range(min(count, len(cache))):
                cache.popitem()
        return any(caches)

    def _rules_for(self, principal: Principal, permission: str) -> _Found:
        key = (principal.issuer, principal.subject, principal.groups)
        person = self._people.get(key)
        if person is None:
            person = self._people[key] = _Person(tuple(self._targets_of(principal)))
            if len(self._people) > _PEOPLE_CACHED_MAX:
                self._people.popitem(last=False)
        found = person.by_permission.get(permission)
        if found is None:
            sets = self._summary.permissions
            having = [one for one in person.rules if permission in sets[one.permissions]]
            found = person.by_permission[permission] = (
                tuple(one for one in having if not one.is_denial),
                tuple(one for one in having if one.is_denial),
            )
        return found

    def _targets_of(self, principal: Principal) -> Iterator[RulesByTarget]:
        for issuer in (principal.issuer, None):
            yield from self._targets(_subject_key(issuer, "e", ""))
            yield from self._targets(_subject_key(issuer, "u", principal.subject))
            for group in principal.groups:
                yield from self._targets(_subject_key(issuer, "g", group))

    def _targets(self, subject: bytes) -> Sequence[RulesByTarget]:
        known = self._targets_cached.get(subject)
        if known is not None:
            return known
        found = self._subjects.get(subject)
        if found is None:
            return ()
        if len(self._targets_cached) >= _TARGETS_CACHED_MAX:
            self._targets_cached.clear()
        made = tuple(
            RulesByTarget(self.rules, self._servers, one) for one in _TARGETS.decode(found)
        )
        self._targets_cached[subject] = made
        return made
