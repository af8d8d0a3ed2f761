"""Rules by attributes in the policy file: valid forms, and errors with line and key."""

from pathlib import Path

import pytest

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load
from gateway.config.policy_parser import parse_policy
from gateway.domain.model import CONSOLE_OPEN, Principal, ProjectId, ServerId
from gateway.domain.policy.inventory import Attributes, Inventory
from gateway.domain.policy.policy import Policy

PROJECT = ProjectId("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
SERVER = ServerId("11111111-2222-4333-8444-555555555555")
ANN = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)


def read(tmp_path: Path, on: str) -> Policy:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "roles: {op: [console:open]}\n"
        f"grants:\n  - role: op\n    to: {{users: [ann]}}\n    on: {on}\n"
    )
    return parse_policy(load(file), issuers=["corp"], projects=[PROJECT], version="v")


def allows(policy: Policy, known: Attributes) -> bool:
    inventory = Inventory({SERVER: known}, taken_at=0.0, good_until=9.0)
    return policy.decide(ANN, CONSOLE_OPEN, PROJECT, SERVER, 1.0, inventory).allowed


def an(*, tier: str = "web", dc: str = "dc-1", model: str = "B1") -> Attributes:
    return Attributes(frozenset({("env", "prod"), ("tier", tier)}), dc, "r1", "u1", model)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("{tags: {env: prod}}", [True, True, True]),
        ("{tags: {env: [prod, live], tier: web}}", [True, False, True]),
        ("{tags: {env: prod}, not: {tags: {tier: db}}}", [True, False, True]),
        ("{locations: [{dc: dc-1, rack: r1}, {dc: dc-9}]}", [True, True, False]),
        (f"{{models: [B1, B3], projects: [{PROJECT}]}}", [True, True, True]),
        ("{models: [B3]}", [False, False, False]),
        (f"{{servers: [{SERVER}], tags: {{tier: web}}}}", [True, False, True]),
        (f"{{projects: [{PROJECT}], not: {{locations: [{{dc: dc-1}}]}}}}", [False, False, True]),
    ],
)
def test_servers_are_selected_by_attributes(on: str, expected: list[bool], tmp_path: Path) -> None:
    policy = read(tmp_path, on)
    assert policy.selects_by_attributes
    worlds = [an(), an(tier="db"), an(dc="dc-2")]
    assert [allows(policy, known) for known in worlds] == expected


@pytest.mark.parametrize(
    ("on", "key", "message"),
    [
        ("{tag: {env: prod}}", "grants[0].on.tag", "did you mean tags"),
        ("{tags: {}}", "grants[0].on", "requires one of"),
        (f"{{projects: [{PROJECT}], tags: {{}}}}", "grants[0].on", "empty list or mapping"),
        ("{tags: prod}", "grants[0].on.tags", "mapping"),
        ("{tags: {env: []}}", "grants[0].on.tags.env", "text"),
        ("{tags: {env: 7}}", "grants[0].on.tags.env", "text"),
        ("{tags: {env: " + "x" * 256 + "}}", "grants[0].on.tags.env", "255"),
        ("{tags: {" + "k" * 129 + ": x}}", "grants[0].on.tags." + "k" * 129, "128"),
        ("{locations: {dc: x}}", "grants[0].on.locations", "list"),
        ("{locations: [{}]}", "grants[0].on.locations[0]", "`dc`, `rack`, `unit`"),
        ("{locations: [{room: x}]}", "grants[0].on.locations[0].room", "unknown key"),
        ("{locations: [{rack: 7}]}", "grants[0].on.locations[0].rack", "quotes"),
        ("{models: B1}", "grants[0].on.models", "list"),
        ("{not: {tags: {env: x}}}", "grants[0].on", "requires one of"),
        ("{models: [B1], not: {}}", "grants[0].on.not", "requires at least one of"),
        ("{models: [B1], not: {tags: {}}}", "grants[0].on.not", "empty list or mapping"),
        ("{models: [B1], not: {models: []}}", "grants[0].on.not", "empty list or mapping"),
        ("{models: [B1], not: {servers: [x]}}", "grants[0].on.not.servers[0]", "a UUID"),
    ],
)  # fmt: skip
def test_error_names_key(on: str, key: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as found:
        read(tmp_path, on)
    by_key = {error.key: error for error in found.value.errors}
    assert key in by_key, list(by_key)
    assert message in by_key[key].message
    assert by_key[key].line == 5
