"""Warnings about the policy: rules that can never apply, or that do more than they seem to."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from gateway.config.errors import ConfigWarning, KeyPath
from gateway.config.policy_parser import LocatedRule, ParsedPolicy
from gateway.config.policy_schema import ALL_PERMISSIONS
from gateway.domain.model import (
    PERMISSIONS,
    SERVER_TAG,
    SERVER_TAG_POLICY,
    Operation,
    RuleKind,
)
from gateway.domain.policy.request_rules import RequestRule
from gateway.domain.policy.rules import Rule

_ENDED_AFTER_S: Final = 30 * 86_400.0
_VIEW_BY_ALL: Final = (
    "its permissions are `all`, which includes console:view: these people may watch the live"
    " consoles of others"
)


def policy_warnings(
    parsed: ParsedPolicy,
    operations: Collection[Operation],
    now: float,
    *,
    delivers_proxied: bool = False,
) -> Iterator[ConfigWarning]:
    """Yield the warnings; `operations` are those that callers may use.

    `delivers_proxied`: an account has live consoles, so that `console:view` has an effect.
    """
    review = _PolicyReview(parsed, operations, now, delivers_proxied=delivers_proxied)
    return review.warnings()


class _PolicyReview:
    def __init__(
        self,
        parsed: ParsedPolicy,
        operations: Collection[Operation],
        now: float,
        *,
        delivers_proxied: bool,
    ) -> None:
        self._parsed = parsed
        self._now = now
        roles = (parsed.document.data or {}).get("roles", {}) if delivers_proxied else {}
        self._view_by_all = {name for name, raw in roles.items() if raw == ALL_PERMISSIONS}
        self._on_fleet_only = frozenset(
            permission
            for permission in PERMISSIONS
            if (used_by := [one for one in operations if one.permission == permission])
            and not any(map(_concerns_servers, used_by))
        )
        scopes = (scope for scope, _ in parsed.requests)
        located = (*parsed.rules, *scopes)
        used = (one.rule.tag_keys for one in located if now < one.rule.valid_until)
        self._tag_keys = sorted(frozenset[str]().union(*used))

    def warnings(self) -> Iterator[ConfigWarning]:
        for located in self._parsed.rules:
            yield from self._of_rule(located)
        for located, request in self._parsed.requests:
            yield from self._of_rule(located)
            yield from self._of_request(located, request)
        yield from self._unused()

    def _of_rule(self, located: LocatedRule) -> Iterator[ConfigWarning]:
        path, raw, rule = located
        if rule.valid_until + _ENDED_AFTER_S < self._now:
            yield self._warn("rule_ended", (*path, "until"), "ended more than 30 days ago")
        if reason := self._no_effect(rule):
            yield self._warn("rule_without_effect", path, f"can never apply: {reason}")
        if rule.ref.kind is RuleKind.GRANT:
            if raw["role"] in self._view_by_all and self._now < rule.valid_until:
                yield self._warn("view_by_all", (*path, "role"), _VIEW_BY_ALL)
            yield from self._of_grant(path, rule)
        if isinstance(raw["to"], dict):
            yield from self._of_people((*path, "to"), raw["to"])

    def _no_effect(self, rule: Rule) -> str:
        is_part = not rule.is_whole or rule.projects or rule.servers or rule.excluded_projects
        if rule.ref.kind is RuleKind.GRANT and is_part and rule.permissions <= self._on_fleet_only:
            names = ", ".join(sorted(rule.permissions))
            return f"{names} is for calls without a server, which require `on: everything`"
        return ""

    def _of_grant(self, path: KeyPath, rule: Rule) -> Iterator[ConfigWarning]:
        if rule.everyone and rule.issuer is None and len(self._parsed.known.issuers) > 1:
            message = "applies to the people of every issuer; name one with `issuer`"
            yield self._warn("everyone_of_any_issuer", (*path, "to"), message)
        if not self._tag_keys:
            return
        keys = ", ".join(self._tag_keys)
        if SERVER_TAG_POLICY in rule.permissions:
            message = f"lets people change permissions: rules use the tags {keys}"
            yield self._warn("tags_change_permissions", (*path, "role"), message)
        elif SERVER_TAG in rule.permissions:
            message = f"does not permit to write the tags {keys}, which rules use"
            yield self._warn("tags_are_permissions", (*path, "role"), message)

    def _of_request(self, located: LocatedRule, request: RequestRule) -> Iterator[ConfigWarning]:
        path = (*located.path, "approvers")
        yield from self._of_people(path, located.raw["approvers"])
        approvers, scope = request.approvers, located.rule
        if approvers.groups:
            return
        if len(approvers.users) < request.approvals:
            message = f"names fewer people than `approvals: {request.approvals}` requires"
            yield self._warn("rule_without_effect", path, message)
            return
        are_requesters = approvers.users == scope.users and not (scope.groups or scope.everyone)
        if are_requesters and len(approvers.users) <= request.approvals:
            message = "people never decide on their own requests, and these are the requesters"
            yield self._warn("rule_without_effect", path, message)

    def _of_people(self, path: KeyPath, to: Mapping[str, Any]) -> Iterator[ConfigWarning]:
        for key in ("users", "groups"):
            if to.get(key) == []:
                yield self._warn("empty_list", (*path, key), "is empty; omit it")
        aliases = self._parsed.groups
        for i, group in enumerate(to.get("groups", ()) if aliases else ()):
            if group not in aliases:
                near = get_close_matches(group, aliases, n=1)
                meant = f"; did you mean {near[0]}?" if near else ""
                message = f"is not an alias, so it is compared with the groups of tokens{meant}"
                yield self._warn("group_without_alias", (*path, "groups", i), message)

    def _unused(self) -> Iterator[ConfigWarning]:
        written = [located.raw for located in self._parsed.rules]
        written += [located.raw for located, _ in self._parsed.requests]
        roles = {raw.get("role") for raw in written}
        for name in self._parsed.roles:
            if name not in roles:
                yield self._warn("role_not_used", ("roles", name), "no rule uses this role")
        people = [raw["to"] for raw in written if isinstance(raw["to"], dict)]
        people += [located.raw["approvers"] for located, _ in self._parsed.requests]
        groups = {group for to in people for group in to.get("groups", ())}
        for alias in self._parsed.groups:
            if alias not in groups:
                yield self._warn("alias_not_used", ("groups", alias), "no rule uses this alias")

    def _warn(self, code: str, path: KeyPath, message: str) -> ConfigWarning:
        return ConfigWarning(code, self._parsed.document.error(path, message))


def _concerns_servers(operation: Operation) -> bool:
    """Return whether a grant on a part of the fleet can allow the operation."""
    return (
        "{server_id}" in operation.path
        or "{instance_id}" in operation.path
        or operation.listing is not None
        or bool(operation.servers_in_query or operation.instances_in_query)
        or bool(operation.servers_in_body or operation.instances_in_body)
    )
