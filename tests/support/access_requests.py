"""Access requests, rules and people for tests."""

from typing import Any

import msgspec

from gateway.domain.model import (
    CONSOLE_OPEN,
    SERVER_READ,
    Principal,
    ProjectId,
    RuleKind,
    RuleRef,
    ServerId,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_rules import Approvers, BreakGlass, RequestRule
from gateway.domain.policy.rule_index import RuleIndex, compile_rules
from gateway.domain.policy.rules import Rule
from gateway.domain.requests.model import AccessRequest, RequestPerson

PROJECT = ProjectId("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
SERVER = ServerId("11111111-2222-4333-8444-555555555555")
OTHER_SERVER = ServerId("99999999-2222-4333-8444-555555555555")
NOW = 1_000_000.0
HOUR_S = 3_600.0


def person(
    subject: str, *groups: str, issuer: str = "corp", claim: str = "", expires_at: float = 9e9
) -> Principal:
    token_id = f"token-of-{subject}"
    return Principal(issuer, subject, frozenset(groups), 0.0, expires_at, token_id, person=claim)


ANN = person("ann", "staff")
LEA = person("lea", "leads")
LEO = person("leo", "leads")


def a_scope(**more: Any) -> Rule:
    stored: dict[str, Any] = {
        "ref": RuleRef(RuleKind.GRANT, "policy.yaml", 7, "grant op to group staff"),
        "permissions": frozenset({CONSOLE_OPEN, SERVER_READ}),
        "issuer": None,
        "users": frozenset(),
        "groups": frozenset({"staff"}),
        "projects": frozenset({PROJECT}),
        "servers": frozenset(),
        **more,
    }
    return Rule(**stored)


def a_request_rule(**more: Any) -> RequestRule:
    stored: dict[str, Any] = {
        "name": "op",
        "role": "op",
        "scope": a_scope(),
        "for_max_s": 4 * HOUR_S,
        "approvers": Approvers(None, frozenset(), frozenset({"leads"})),
        "approvals": 1,
        **more,
    }
    return RequestRule(**stored)


BREAK_GLASS = BreakGlass(per_day=2, reason_min=10)


def a_request_policy(*requests: RequestRule, rules: tuple[Rule, ...] = ()) -> Policy:
    return Policy(RuleIndex(compile_rules(rules, requests=requests)), version="v")


def an_access_request(**more: Any) -> AccessRequest:
    stored: dict[str, Any] = {
        "id": "0" * 32,
        "requester": RequestPerson("corp", "ann"),
        "rule": "op",
        "role": "op",
        "project": PROJECT,
        "servers": (SERVER,),
        "duration_s": HOUR_S,
        "reason": "disk replaced",
        "created_at": NOW,
        "pending_until": NOW + 24 * HOUR_S,
        **more,
    }
    return AccessRequest(**stored)


def changed(request: AccessRequest, **more: Any) -> AccessRequest:
    return msgspec.structs.replace(request, **more)
