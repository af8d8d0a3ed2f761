"""Parser of the policy file: returns a Policy, or every error with file, line and key. Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from gateway.config.errors import InvalidConfig, KeyPath
from gateway.config.located_yaml import Document
from gateway.config.policy_form import PolicyForm
from gateway.config.policy_names import ANY_ISSUER, KnownNames, name_problem
from gateway.config.policy_requests import RequestReader
from gateway.config.policy_schema import (
    ALL_PERMISSIONS,
    DENIAL_KEYS,
    EVERYONE,
    GRANT_KEYS,
    POLICY_KEYS,
    POLICY_PERMISSIONS,
    REQUEST_KEYS,
    ROLE_NAME,
    TO_KEYS,
)
from gateway.config.policy_targets import TargetReader
from gateway.domain.model import EXPLICIT_PERMISSIONS, RuleKind, RuleRef
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rule_index import RuleIndex, compile_rules
from gateway.domain.policy.rules import Rule

_ROLE: Final = re.compile(ROLE_NAME)
_ISSUER: Final = "issuer (not in `issuers` of the config)"
_INSTANT_EXAMPLE: Final = "2026-12-31T18:00:00+01:00"

_NO_NAMES: Final[frozenset[str]] = frozenset()


class Permissions(NamedTuple):
    """The permissions that a list means; they differ where it is `all`."""

    granted: frozenset[str]
    denied: frozenset[str]


_ALL: Final = Permissions(POLICY_PERMISSIONS - EXPLICIT_PERMISSIONS, POLICY_PERMISSIONS)


class LocatedRule(NamedTuple):
    """A rule, and where it is in the document."""

    path: KeyPath
    raw: Mapping[str, Any]
    """The rule as it is written."""
    rule: Rule


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """The content of a valid policy file."""

    document: Document
    known: KnownNames
    roles: Collection[str]
    rules: Sequence[LocatedRule]
    requests: Sequence[tuple[LocatedRule, RequestRule]]
    """Rules of access requests; the located rule is their scope."""
    groups: Mapping[str, frozenset[str]]
    """Groups of tokens by alias."""


def parse_policy(
    document: Document,
    *,
    issuers: Collection[str],
    projects: Collection[str],
    version: str,
    accounts: Mapping[str, tuple[str, ...]] | None = None,
    regions: Mapping[str, tuple[str, ...]] | None = None,
) -> Policy:
    """Parse a policy; the other arguments are names of the config.

    Raises InvalidConfig with all errors; a policy is never loaded in part.
    """
    known = KnownNames(tuple(issuers), tuple(projects), accounts or {}, regions or {})
    return make_policy(read_policy(document, known), version=version)


def make_policy(parsed: ParsedPolicy, *, version: str) -> Policy:
    return Policy(RuleIndex(compile_policy(parsed)), version=version)


def compile_policy(parsed: ParsedPolicy) -> bytes:
    """Return what `RuleIndex` reads."""
    rules = (located.rule for located in parsed.rules)
    requests = (rule for _, rule in parsed.requests)
    return compile_rules(rules, group_aliases=parsed.groups, requests=requests)


def read_policy(document: Document, known: KnownNames) -> ParsedPolicy:
    """Parse a policy; raise InvalidConfig with all errors."""
    reader = _Reader(document, known)
    rules = reader.read()
    if reader.errors:
        raise InvalidConfig(sorted(reader.errors, key=lambda error: error.line))
    return ParsedPolicy(document, known, reader.roles, rules, reader.requests, reader.groups)


class _Reader:
    def __init__(self, document: Document, known: KnownNames) -> None:
        self._document = document
        self._known = known
        self._form = PolicyForm(document)
        self._targets = TargetReader(self._form, known)
        self.roles: dict[str, Permissions] = {}
        self.groups: dict[str, frozenset[str]] = {}
        self.requests: list[tuple[LocatedRule, RequestRule]] = []
        self.errors = self._form.errors

    def read(self) -> list[LocatedRule]:
        form, data = self._form, self._document.data
        top = form.mapping((), {} if data is None else data, POLICY_KEYS)
        if "grants" not in top:  # an emptied or half-written file must not revoke all permissions
            form.error((), "`grants` is missing; write `grants: []` to forbid everything")
        for name, permissions in form.mapping(("roles",), top.get("roles", {}), None).items():
            self.roles[name] = self._permissions(("roles", name), permissions)
            if not _ROLE.fullmatch(name):
                message = "a role name may contain only a-z, 0-9, dot, dash and underscore"
                form.error(("roles", name), message)
        for alias, raw in form.mapping(("groups",), top.get("groups", {}), None).items():
            self._read_alias(("groups", alias), alias, raw)
        rules = []
        for key, kind in (("grants", RuleKind.GRANT), ("denials", RuleKind.DENIAL)):
            for i, raw in enumerate(form.items((key,), top.get(key, []))):
                keys = GRANT_KEYS if kind is RuleKind.GRANT else DENIAL_KEYS
                rule = self._rule((key, i), raw, kind, keys)
                if rule is not None:
                    rules.append(LocatedRule((key, i), raw, rule))
        self._read_requests(top.get("requests", []))
        return rules

    def _read_requests(self, raw_rules: Any) -> None:
        reader = RequestReader(self._form, self._known, self._without_aliases)
        for i, raw in enumerate(self._form.items(("requests",), raw_rules)):
            path = ("requests", i)
            scope = self._rule(path, raw, RuleKind.GRANT, REQUEST_KEYS)
            rule = reader.read(path, raw, scope) if isinstance(raw, dict) else None
            if scope is not None and rule is not None:
                self.requests.append((LocatedRule(path, raw, scope), rule))

    def _read_alias(self, path: KeyPath, alias: str, raw: Any) -> None:
        if problem := name_problem(alias):
            self._form.error(path, problem)
        self.groups[alias] = self._form.one_or_more_names(path, raw)

    def _rule(self, path: KeyPath, raw: Any, kind: RuleKind, keys: Sequence[str]) -> Rule | None:
        form, before = self._form, len(self.errors)
        body = form.mapping(path, raw, keys)
        name, permissions = self._permissions_of(path, body, kind)
        to = self._people((*path, "to"), body.get("to", {}))
        users = form.names((*path, "to", "users"), to["users"]) if "users" in to else _NO_NAMES
        groups = form.names((*path, "to", "groups"), to["groups"]) if "groups" in to else _NO_NAMES
        issuer = self._issuer((*path, "to"), to)
        targets = self._targets.read((*path, "on"), body.get("on"))
        valid_from = self._instant(path, body, "from", float("-inf"))
        valid_until = self._instant(path, body, "until", float("inf"))
        if valid_from >= valid_until:
            problem = f"{body.get('until')} must be later than `from`, {body.get('from')}"
            form.error((*path, "until"), problem)
        if not isinstance(body.get("reason", ""), str):
            form.error((*path, "reason"), "must be text")
        if len(self.errors) > before:
            return None
        everyone = [EVERYONE] if EVERYONE in to else []
        subjects = [*everyone, *sorted(users), *(f"group {group}" for group in sorted(groups))]
        return Rule(
            ref=RuleRef(
                kind=kind,
                file=self._document.file,
                line=self._document.line(path),
                label=f"{kind.value} {name} to {', '.join(subjects)}",
            ),
            permissions=permissions,
            issuer=issuer,
            users=users,
            groups=self._without_aliases(groups),
            projects=targets.projects,
            servers=targets.servers,
            selector=targets.selector,
            valid_from=valid_from,
            valid_until=valid_until,
            everyone=bool(everyone),
            excluded_projects=targets.excluded_projects,
            excluded_servers=targets.excluded_servers,
        )

    def _people(self, path: KeyPath, raw: Any) -> Mapping[str, Any]:
        if raw == EVERYONE:  # of every issuer: it says so
            return {EVERYONE: True, "issuer": ANY_ISSUER}
        to = self._form.mapping(path, raw, TO_KEYS)
        if EVERYONE in to:
            self._form.require_true((*path, EVERYONE), to[EVERYONE])
            if "users" in to or "groups" in to:
                self._form.error(path, f"`{EVERYONE}` excludes `users` and `groups`")
        elif not to.get("users") and not to.get("groups"):
            message = f"requires at least one of `users`, `groups`, `{EVERYONE}`"
            self._form.error(path, message)
        return to

    def _issuer(self, path: KeyPath, to: Mapping[str, Any]) -> str | None:
        """Return the issuer that a rule names; None if it applies to every issuer."""
        issuers = self._known.issuers
        issuer = to.get("issuer")
        if "issuer" not in to:
            if len(issuers) > 1:  # one issuer's `olga` is not another issuer's
                names = ", ".join(sorted(issuers))
                message = f"requires `issuer` with several issuers: {names}, or `{ANY_ISSUER}`"
                self._form.error(path, message)
            return None
        if issuer == ANY_ISSUER:
            return None
        if not isinstance(issuer, str) or issuer not in issuers:
            self._form.error((*path, "issuer"), self._form.unknown(_ISSUER, issuer, issuers))
            return None
        return issuer

    def _without_aliases(self, groups: frozenset[str]) -> frozenset[str]:
        if not self.groups:
            return groups
        return frozenset(one for group in groups for one in self.groups.get(group, (group,)))

    def _permissions_of(
        self, path: KeyPath, body: dict[str, Any], kind: RuleKind
    ) -> tuple[str, frozenset[str]]:
        """Return the name of the role or permissions of a rule, and the permissions."""
        is_denial = kind is RuleKind.DENIAL
        if ("role" in body) == ("permissions" in body):
            message = "requires either `role` or `permissions`" if is_denial else "requires `role`"
            self._form.error(path, message)
            return "", frozenset()
        if "permissions" in body:
            raw = body["permissions"]
            found = self._permissions((*path, "permissions"), raw).denied
            return raw if raw == ALL_PERMISSIONS else "+".join(sorted(found)), found
        role = body["role"]
        if not isinstance(role, str) or role not in self.roles:
            message = self._form.unknown("role", role, self.roles)
            self._form.error((*path, "role"), message)
            return "", frozenset()
        permissions = self.roles[role]
        return role, permissions.denied if is_denial else permissions.granted

    def _permissions(self, path: KeyPath, raw: Any) -> Permissions:
        if raw == ALL_PERMISSIONS:
            return _ALL
        found = self._form.known_names(path, raw, POLICY_PERMISSIONS, "permission")
        if not found:
            message = f"must be a list of permissions, or `{ALL_PERMISSIONS}`"
            self._form.error(path, message)
        return Permissions(found, found)

    def _instant(self, rule: KeyPath, body: dict[str, Any], key: str, default: float) -> float:
        if key not in body:
            return default
        path, raw = (*rule, key), body[key]
        try:
            instant = datetime.fromisoformat(raw if isinstance(raw, str) else "")
        except ValueError:
            self._form.error(path, f"is not an instant; write for example {_INSTANT_EXAMPLE}")
            return default
        if instant.tzinfo is None:
            self._form.error(path, f"has no time zone; write for example {_INSTANT_EXAMPLE}")
            return default
        return instant.timestamp()
