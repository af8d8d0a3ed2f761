"""Parsing of the policy's section `requests`: what a rule has besides those of a grant. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.config.errors import KeyPath
from gateway.config.policy_form import PolicyForm
from gateway.config.policy_names import ANY_ISSUER, KnownNames
from gateway.config.policy_schema import (
    APPROVER_KEYS,
    BREAK_GLASS_KEYS,
    BREAK_GLASS_PER_DAY_MAX,
    BREAK_GLASS_REASON_MAX,
    BREAK_GLASS_REASON_MIN,
    DURATION,
    DURATION_MAX_S,
    ROLE_NAME,
)
from gateway.domain.policy.request_rules import Approvers, BreakGlass, RequestRule
from gateway.domain.policy.rules import Rule

_NAME: Final = re.compile(ROLE_NAME)
_DURATION: Final = re.compile(DURATION)
_UNITS_S: Final = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}
_APPROVALS: Final = (1, 2)
_NO_NAMES: Final[frozenset[str]] = frozenset()


def parse_duration(text: object) -> float | None:
    """Return the seconds of a time such as `30m`, `4h` or `7d`; None if it is none."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        return None
    return int(text[:-1]) * _UNITS_S[text[-1]]


class RequestReader:
    """Reads the rules of one policy."""

    def __init__(
        self,
        form: PolicyForm,
        known: KnownNames,
        without_aliases: Callable[[frozenset[str]], frozenset[str]],
    ) -> None:
        self._form = form
        self._known = known
        self._without_aliases = without_aliases
        self._names: dict[str, int] = {}
        """Lines of the rules by name."""

    def read(
        self, path: KeyPath, body: Mapping[str, Any], scope: Rule | None
    ) -> RequestRule | None:
        """Return the rule; None and errors if it is invalid. `scope`: None if that is invalid."""
        before = len(self._form.errors)
        name = self._name(path, body)
        for_max_s = self._for_max((*path, "for_max"), body.get("for_max"))
        approvers = self._approvers((*path, "approvers"), body.get("approvers", {}))
        approvals = body.get("approvals", 1)
        if approvals not in _APPROVALS or isinstance(approvals, bool):
            self._form.error((*path, "approvals"), "must be 1 or 2")
        ticket_required = body.get("ticket_required", False)
        if not isinstance(ticket_required, bool):
            self._form.error((*path, "ticket_required"), "must be `true` or `false`")
        break_glass = None
        if "break_glass" in body:
            break_glass = self._break_glass((*path, "break_glass"), body["break_glass"])
        if scope is None or len(self._form.errors) > before:
            return None
        return RequestRule(
            name,
            str(body.get("role")),
            scope,
            for_max_s,
            approvers,
            approvals,
            ticket_required,
            break_glass,
        )

    def _name(self, path: KeyPath, body: Mapping[str, Any]) -> str:
        name = body.get("name", body.get("role"))
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            if "name" in body:
                message = "may contain only a-z, 0-9, dot, dash and underscore"
                self._form.error((*path, "name"), message)
            return ""  # the role is unknown, which is an error already
        line = self._form.document.line(path)
        first = self._names.setdefault(name, line)
        if first != line:
            message = f"is the name of the rule on line {first} too; give each a `name` of its own"
            self._form.error((*path, "name") if "name" in body else path, message)
        return name

    def _for_max(self, path: KeyPath, raw: Any) -> float:
        found = parse_duration(raw)
        if found is None:
            self._form.error(path, "must be a time such as `30m`, `4h` or `7d`")
            return 0.0
        if found > DURATION_MAX_S:
            self._form.error(path, f"must be at most {DURATION_MAX_S / 86_400:g} days")
        return found

    def _approvers(self, path: KeyPath, raw: Any) -> Approvers:
        form = self._form
        body = form.mapping(path, raw, APPROVER_KEYS)
        users = form.names((*path, "users"), body["users"]) if "users" in body else _NO_NAMES
        groups = form.names((*path, "groups"), body["groups"]) if "groups" in body else _NO_NAMES
        if not users and not groups:
            form.error(path, "requires at least one of `users`, `groups`")
        return Approvers(self._issuer(path, body), users, self._without_aliases(groups))

    def _issuer(self, path: KeyPath, body: Mapping[str, Any]) -> str | None:
        """Return the issuer of the approvers; None if the config has only one."""
        issuers, issuer = self._known.issuers, body.get("issuer")
        if "issuer" not in body:
            if len(issuers) > 1:
                names = ", ".join(sorted(issuers))
                self._form.error(path, f"requires `issuer` with several issuers: {names}")
            return None
        if issuer == ANY_ISSUER and len(issuers) > 1:
            self._form.error((*path, "issuer"), "must be one issuer: approvers have power")
        elif not isinstance(issuer, str) or issuer not in issuers:
            what = "issuer (not in `issuers` of the config)"
            self._form.error((*path, "issuer"), self._form.unknown(what, issuer, issuers))
        return str(issuer)

    def _break_glass(self, path: KeyPath, raw: Any) -> BreakGlass:
        body = self._form.mapping(path, raw, BREAK_GLASS_KEYS)
        per_day = self._count((*path, "per_day"), body.get("per_day"), BREAK_GLASS_PER_DAY_MAX)
        least = body.get("reason_min", BREAK_GLASS_REASON_MIN)
        return BreakGlass(
            per_day, self._count((*path, "reason_min"), least, BREAK_GLASS_REASON_MAX)
        )

    def _count(self, path: KeyPath, raw: Any, largest: int) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool) and 1 <= raw <= largest:
            return raw
        self._form.error(path, f"must be a whole number from 1 to {largest}")
        return 1
