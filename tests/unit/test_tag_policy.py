"""Tags that rules use: writing them requires `server:tag_policy`, in whatever way they are sent."""

from typing import Any

import orjson
import pytest

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import Catalogue, resolve_body
from gateway.domain.errors import BadRequest, NotPermitted
from gateway.domain.model import (
    EXPLICIT_PERMISSIONS,
    PERMISSIONS,
    SERVER_TAG,
    SERVER_TAG_POLICY,
    Operation,
    Principal,
    ResolvedCall,
    RuleKind,
    RuleRef,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Selector

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
DAN = Principal("corp", "dan", frozenset(), 0.0, 9e9, None)
NOW = 1_000.0
ALL = PERMISSIONS - EXPLICIT_PERMISSIONS


def rule(*permissions: str, kind: RuleKind = RuleKind.GRANT, **changes: Any) -> Rule:
    return Rule(
        ref=RuleRef(kind, "policy.yaml", 1, "rule"),
        permissions=frozenset(permissions),
        issuer=None,
        users=frozenset({"dan"}),
        groups=frozenset(),
        projects=frozenset(),
        servers=frozenset(),
        **changes,
    )


def on_tag(key: str, **changes: Any) -> Rule:
    selector = Selector(tags=((key, frozenset({"x"})),))
    return rule("console:open", selector=selector, **changes)


def call(path: str, body: object, *more: Operation, method: str = "POST") -> ResolvedCall:
    found = Catalogue((*built_in_operations(), *more)).resolve(method, f"/v1/{PROJECT}{path}")
    return resolve_body(found, orjson.dumps(body))


def tag(*keys: str, change: str = "create") -> ResolvedCall:
    tags = [{"key": key, "value": "x"} for key in keys]
    return call(f"/physicalservers/{SERVER}/tags/{change}", {"tags": tags})


def allows(policy: Policy, write: ResolvedCall, now: float = NOW) -> bool:
    try:
        permit = policy.permit(DAN, write, now)
    except NotPermitted:
        return False
    return permit.call is write


@pytest.mark.parametrize("change", ["create", "delete"])
@pytest.mark.parametrize(
    "keys",
    [("env",), ("owner", "env"), ("Env",), ("ENV",), (" env",), ("e\u200bnv",), ("\uff45nv",)],
)
def test_tag_of_a_rule_requires_the_explicit_permission(keys: tuple[str, ...], change: str) -> None:
    write = tag(*keys, change=change)
    assert not allows(Policy([rule(*ALL), on_tag("env")], version="v"), write)
    both = rule(*ALL, SERVER_TAG_POLICY)
    assert allows(Policy([both, on_tag("env")], version="v"), write)
    assert not allows(Policy([rule(SERVER_TAG_POLICY), on_tag("env")], version="v"), write)


def test_other_tags_require_the_tag_permission_only() -> None:
    policy = Policy([rule(SERVER_TAG), on_tag("env")], version="v")
    assert allows(policy, tag("owner", "environment"))
    assert allows(Policy([rule(SERVER_TAG)], version="v"), tag("env"))


@pytest.mark.parametrize(
    ("changes", "protected"),
    [
        ({"kind": RuleKind.DENIAL}, True),
        ({"valid_from": NOW + 1}, True),
        ({"valid_until": NOW + 1}, True),
        ({"valid_until": NOW}, False),
    ],
)
def test_tag_is_protected_until_the_last_rule_ends(
    changes: dict[str, Any],
    protected: bool,  # noqa: FBT001
) -> None:
    policy = Policy([rule(SERVER_TAG), on_tag("env", **changes)], version="v")
    assert allows(policy, tag("env")) is not protected


def test_excluded_tag_is_protected() -> None:
    excluding = Selector(
        models=frozenset({"B1"}), excluded=Selector(tags=(("tier", frozenset({"db"})),))
    )
    policy = Policy([rule(SERVER_TAG), rule("console:open", selector=excluding)], version="v")
    assert not allows(policy, tag("tier"))


def test_denial_of_the_tag_permission_applies() -> None:
    rules = [rule(SERVER_TAG, SERVER_TAG_POLICY), on_tag("env")]
    denial = rule(SERVER_TAG_POLICY, kind=RuleKind.DENIAL)
    assert not allows(Policy([*rules, denial], version="v"), tag("env"))


def test_configured_operation_without_tags_in_body_may_write_any_tag() -> None:
    bulk = Operation(
        "TagAction", "POST", "/physicalservers/{server_id}/tags/action", SERVER_TAG,
        body_bytes_max=1_000, writes=True,
    )  # fmt: skip
    write = call(f"/physicalservers/{SERVER}/tags/action", {"anything": []}, bulk)
    assert not allows(Policy([rule(SERVER_TAG), on_tag("env")], version="v"), write)
    assert allows(Policy([rule(SERVER_TAG)], version="v"), write)


@pytest.mark.parametrize("member", ["tags", "Tags", "server_tags", "tag-list", "tagSpecifications"])
def test_tags_in_another_operation_count_as_any_tag(member: str) -> None:
    body = {"image_id": "i", "placement": {"server_id": SERVER}, "x": {member: []}}
    write = call("/instances", body)
    assert not allows(Policy([rule(*ALL), on_tag("env")], version="v"), write)
    assert allows(Policy([rule(*ALL)], version="v"), write)
    assert allows(Policy([rule(*ALL), on_tag("env")], version="v"), call("/instances", {
        "image_id": "i", "placement": {"server_id": SERVER},
    }))  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tags": []},
        {"tags": {"key": "env"}},
        {"tags": ["env"]},
        {"tags": [{"value": "x"}]},
        {"tags": [{"key": 1}]},
        {"tags": [{"key": "owner", "Key": "env"}]},
        {"tags": [{"key": "owner"}], "Tags": [{"key": "env"}]},
        {"tags": [{"key": "owner"}], "sys_tags": [{"key": "env"}]},
        {"tags": [{"key": "owner"}], "action": "delete"},
    ],
)
def test_body_that_may_name_other_tags_is_rejected(body: object) -> None:
    with pytest.raises(BadRequest):
        call(f"/physicalservers/{SERVER}/tags/create", body)
    with pytest.raises(BadRequest):
        call(f"/physicalservers/{SERVER}/tags/delete", body)
