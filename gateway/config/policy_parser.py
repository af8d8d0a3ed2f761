"""Parser of the policy file: returns a Policy, or every error with file, line and key. Pure."""

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from gateway.config.errors import ConfigError, InvalidConfig, KeyPath
from gateway.config.located_yaml import Document, hint
from gateway.config.policy_schema import (
    ALL_PERMISSIONS,
    DENIAL_KEYS,
    EVERYTHING,
    GRANT_KEYS,
    LOCATION_KEYS,
    NOT_KEYS,
    POLICY_KEYS,
    ROLE_NAME,
    TAG_KEY_CHARS_MAX,
    TAG_VALUE_CHARS_MAX,
    TARGET_KEYS,
    TO_KEYS,
)
from gateway.domain.model import PERMISSIONS, SERVER_ID, RuleKind, RuleRef
from gateway.domain.policy.inventory import Location, Selector
from gateway.domain.policy.policy import Policy, Rule

_NAME = re.compile(ROLE_NAME)
_PROJECT = "project (not in any `accounts[].projects` of the config)"
_ISSUER = "issuer (not in `issuers` of the config)"
_INSTANT_EXAMPLE = "2026-12-31T18:00:00+01:00"


def parse_policy(
    document: Document, *, issuers: Collection[str], projects: Collection[str], version: str
) -> Policy:
    """Parse a policy; `issuers` and `projects` are those of the config.

    Raises InvalidConfig with all errors; a policy is never loaded in part.
    """
    reader = _Reader(document, frozenset(issuers), frozenset(projects))
    rules = reader.read()
    if reader.errors:
        raise InvalidConfig(sorted(reader.errors, key=lambda error: error.line))
    return Policy(rules, version=version)


class _Reader:
    def __init__(
        self, document: Document, issuers: frozenset[str], projects: frozenset[str]
    ) -> None:
        self._document = document
        self._issuers = issuers
        self._projects = projects
        self._roles: dict[str, frozenset[str]] = {}
        self.errors: list[ConfigError] = []

    def read(self) -> list[Rule]:
        data = self._document.data
        top = self._mapping((), {} if data is None else data, POLICY_KEYS)
        if "grants" not in top:  # an emptied or half-written file must not revoke all permissions
            self._error((), "`grants` is missing; write `grants: []` to forbid everything")
        for name, permissions in self._mapping(("roles",), top.get("roles", {}), None).items():
            self._roles[name] = self._permissions(("roles", name), permissions)
            if not _NAME.fullmatch(name):
                self._error(
                    ("roles", name),
                    "a role name may contain only a-z, 0-9, dot, dash and underscore",
                )
        rules = []
        for key, kind in (("grants", RuleKind.GRANT), ("denials", RuleKind.DENIAL)):
            for i, raw in enumerate(self._list((key,), top.get(key, []))):
                rule = self._rule((key, i), raw, kind)
                if rule is not None:
                    rules.append(rule)
        return rules

    def _rule(self, path: KeyPath, raw: Any, kind: RuleKind) -> Rule | None:
        before = len(self.errors)
        keys = GRANT_KEYS if kind is RuleKind.GRANT else DENIAL_KEYS
        body = self._mapping(path, raw, keys)
        name, permissions = self._permissions_of(path, body, kind)
        to = self._mapping((*path, "to"), body.get("to", {}), TO_KEYS)
        users = self._names((*path, "to", "users"), to.get("users", []))
        groups = self._names((*path, "to", "groups"), to.get("groups", []))
        if not users and not groups:
            self._error((*path, "to"), "requires at least one of `users`, `groups`")
        issuer = to.get("issuer")
        if "issuer" in to and (not isinstance(issuer, str) or issuer not in self._issuers):
            self._error((*path, "to", "issuer"), self._unknown(_ISSUER, issuer, self._issuers))
        projects, servers, selector = self._targets((*path, "on"), body.get("on"))
        valid_from = self._instant(path, body, "from", float("-inf"))
        valid_until = self._instant(path, body, "until", float("inf"))
        if valid_from >= valid_until:
            self._error((*path, "until"), "must be later than `from`")
        if not isinstance(body.get("reason", ""), str):
            self._error((*path, "reason"), "must be text")
        if len(self.errors) > before:
            return None
        subjects = ", ".join([*sorted(users), *(f"group {group}" for group in sorted(groups))])
        return Rule(
            ref=RuleRef(
                kind=kind,
                file=self._document.file,
                line=self._document.line(path),
                label=f"{kind.value} {name} to {subjects}",
            ),
            permissions=permissions,
            issuer=issuer,
            users=users,
            groups=groups,
            projects=projects,
            servers=servers,
            selector=selector,
            valid_from=valid_from,
            valid_until=valid_until,
        )

    def _permissions_of(
        self, path: KeyPath, body: dict[str, Any], kind: RuleKind
    ) -> tuple[str, frozenset[str]]:
        if ("role" in body) == ("permissions" in body):
            is_denial = kind is RuleKind.DENIAL
            message = "requires either `role` or `permissions`" if is_denial else "requires `role`"
            self._error(path, message)
            return "", frozenset()
        if "permissions" in body:
            found = self._permissions((*path, "permissions"), body["permissions"])
            return "+".join(sorted(found)), found
        role = body["role"]
        if not isinstance(role, str) or role not in self._roles:
            self._error((*path, "role"), self._unknown("role", role, self._roles))
            return "", frozenset()
        return role, self._roles[role]

    def _targets(
        self, path: KeyPath, raw: Any
    ) -> tuple[frozenset[str], frozenset[str], Selector | None]:
        if raw == EVERYTHING:
            return frozenset(), frozenset(), None
        on = self._mapping(path, raw if raw is not None else {}, (*TARGET_KEYS, "not"))
        if not any(on.get(key) for key in TARGET_KEYS):
            keys = "`projects`, `servers`, `tags`, `locations`, `models`"
            self._error(path, f"requires one of {keys}; write `on: {EVERYTHING}` for all servers")
        elif _has_empty_value(on):
            self._error(path, "contains an empty list or mapping; omit the key to select all")
        projects = self._names((*path, "projects"), on.get("projects", []))
        for i, project in _text_items(on.get("projects")):
            if project not in self._projects:
                message = self._unknown(_PROJECT, project, self._projects)
                self._error((*path, "projects", i), message)
        servers = frozenset(
            name.lower() for name in self._names((*path, "servers"), on.get("servers", []))
        )
        for i, server in _text_items(on.get("servers")):
            if not SERVER_ID.fullmatch(server.lower()):
                self._error((*path, "servers", i), "must be a server ID (a UUID)")
        return projects, servers, self._selector(path, on)

    def _selector(self, path: KeyPath, on: dict[str, Any]) -> Selector | None:
        """Return the selector by attributes; None if no attribute is named."""
        excluded = None
        if "not" in on:
            inner = self._mapping((*path, "not"), on["not"], NOT_KEYS)
            excluded = self._selector((*path, "not"), inner)
            if excluded is None:
                self._error((*path, "not"), _requires_one_of(NOT_KEYS))
            elif _has_empty_value(inner):
                message = "contains an empty list or mapping; omit the key or name values"
                self._error((*path, "not"), message)
        if not excluded and not any(key in on for key in NOT_KEYS):
            return None
        return Selector(
            tags=self._tags((*path, "tags"), on.get("tags", {})),
            locations=tuple(
                self._location((*path, "locations", i), location)
                for i, location in enumerate(
                    self._list((*path, "locations"), on.get("locations", []))
                )
            ),
            models=self._names((*path, "models"), on.get("models", [])),
            excluded=excluded,
        )

    def _tags(self, path: KeyPath, raw: Any) -> tuple[tuple[str, frozenset[str]], ...]:
        tags = []
        for key, value in self._mapping(path, raw, None).items():
            values = self._names((*path, key), value if isinstance(value, list) else [value])
            if not values:
                self._error((*path, key), "must be a text or a list of texts")
            if len(key) > TAG_KEY_CHARS_MAX:
                self._error((*path, key), f"must have at most {TAG_KEY_CHARS_MAX} characters")
            if any(len(value) > TAG_VALUE_CHARS_MAX for value in values):
                message = f"values must have at most {TAG_VALUE_CHARS_MAX} characters"
                self._error((*path, key), message)
            tags.append((key, values))
        return tuple(tags)

    def _location(self, path: KeyPath, raw: Any) -> Location:
        location = self._mapping(path, raw, LOCATION_KEYS)
        if not location:
            self._error(path, _requires_one_of(LOCATION_KEYS))
        for key, value in location.items():
            if not isinstance(value, str) or not value:
                self._error((*path, key), "must be text (put it in quotes)")
        return Location(
            **{key: str(value) for key, value in location.items() if key in LOCATION_KEYS}
        )

    def _permissions(self, path: KeyPath, raw: Any) -> frozenset[str]:
        if raw == ALL_PERMISSIONS:
            return PERMISSIONS
        found = self._names(path, raw)
        if not found:
            self._error(path, f"must be a list of permissions, or `{ALL_PERMISSIONS}`")
        for i, name in _text_items(raw):
            if name not in PERMISSIONS:
                self._error((*path, i), self._unknown("permission", name, PERMISSIONS))
        return found

    def _instant(self, rule: KeyPath, body: dict[str, Any], key: str, default: float) -> float:
        if key not in body:
            return default
        path, raw = (*rule, key), body[key]
        try:
            instant = datetime.fromisoformat(raw if isinstance(raw, str) else "")
        except ValueError:
            self._error(path, f"is not an instant; write for example {_INSTANT_EXAMPLE}")
            return default
        if instant.tzinfo is None:
            self._error(path, f"has no time zone; write for example {_INSTANT_EXAMPLE}")
            return default
        return instant.timestamp()

    def _names(self, path: KeyPath, raw: Any) -> frozenset[str]:
        names = self._list(path, raw)
        for i, name in enumerate(names):
            if not isinstance(name, str) or not name:
                self._error((*path, i), "must be text (put it in quotes)")
        return frozenset(name for name in names if isinstance(name, str))

    def _list(self, path: KeyPath, raw: Any) -> Sequence[Any]:
        if isinstance(raw, list):
            return raw
        self._error(path, "must be a list")
        return []

    def _mapping(self, path: KeyPath, raw: Any, keys: Sequence[str] | None) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self._error(path, "must be a mapping")
            return {}
        for key in raw:
            if keys is not None and key not in keys:
                self._error((*path, key), self._unknown("key", key, keys))
        return raw

    def _unknown(self, what: str, name: object, known: Collection[str]) -> str:
        return f"unknown {what} {str(name)[:80]!r}; {hint(name, known)}"

    def _error(self, path: KeyPath, message: str) -> None:
        self.errors.append(self._document.error(path, message))


def _has_empty_value(mapping: dict[str, Any]) -> bool:
    return [] in mapping.values() or {} in mapping.values()


def _requires_one_of(keys: Sequence[str]) -> str:
    return f"requires at least one of {', '.join(f'`{key}`' for key in keys)}"


def _text_items(raw: Any) -> Iterator[tuple[int, str]]:
    for i, item in enumerate(raw if isinstance(raw, list) else ()):
        if isinstance(item, str):
            yield i, item
