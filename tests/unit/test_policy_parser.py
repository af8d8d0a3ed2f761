"""The policy parser: one invalid policy per error, with its line and key."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load, parse
from gateway.config.policy_parser import parse_policy
from gateway.config.schema import policy_schema
from gateway.domain.model import CONSOLE_OPEN, SERVER_READ, Principal, ProjectId, ServerId
from gateway.domain.policy.policy import Policy

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
HEAD = """\
roles:
  op: [console:open]
"""


def read(tmp_path: Path, text: str) -> Policy:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    return parse_policy(load(file), issuers=["corp"], projects=[PROJECT], version="v")


def grant(**parts: str) -> str:
    stored = {"role": "op", "to": "{users: [ann]}", "on": "everything", **parts}
    lines = [f"{key}: {value}" for key, value in stored.items() if value]
    return HEAD + "grants:\n  - " + "\n    ".join(lines) + "\n"


def test_shipped_example_loads() -> None:
    file = Path(__file__).parents[2] / "config" / "policy.yaml"
    policy = parse_policy(load(file), issuers=["corp"], projects=[PROJECT], version="v")
    vendor = Principal("corp", "vendor-4711", frozenset(), 0.0, 9e9, None)
    during, after = 2_111_270_400.0, 2_111_702_400.0
    args = (CONSOLE_OPEN, ProjectId(PROJECT), ServerId(SERVER))
    assert policy.decide(vendor, *args, during).allowed
    assert not policy.decide(vendor, *args, after).allowed
    intern = Principal("corp", "ida", frozenset({"interns", "operators"}), 0.0, 9e9, None)
    assert not policy.decide(intern, *args, during).allowed
    assert policy.decide(intern, SERVER_READ, *args[1:], during).allowed


@pytest.mark.parametrize("text", ["", "# all gone\n", "{}\n", HEAD, "denials: []\n"])
def test_missing_grants_are_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidConfig, match="`grants` is missing") as found:
        read(tmp_path, text)
    assert len(found.value.errors) == 1


def test_empty_grants_are_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, "grants: []\n").size == 0


def test_decision_names_line_of_rule(tmp_path: Path) -> None:
    policy = read(tmp_path, grant())
    ann = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)
    decision = policy.decide(ann, CONSOLE_OPEN, ProjectId(PROJECT), ServerId(SERVER), 0.0)
    assert decision.rule is not None
    assert (decision.rule.line, decision.rule.label) == (4, "grant op to ann")


INVALID = [
    (HEAD + "grnts: []\n", 3, "grnts", "did you mean grants?"),
    (grant(role="operator"), 4, "grants[0].role", "unknown role"),
    (grant(role=""), 4, "grants[0]", "requires `role`"),
    (grant(too="x"), 7, "grants[0].too", "did you mean to?"),
    (grant(to="{}"), 5, "grants[0].to", "at least one of `users`, `groups`"),
    (grant(to="{users: []}"), 5, "grants[0].to", "at least one of"),
    (grant(to="{users: ann}"), 5, "grants[0].to.users", "must be a list"),
    (grant(to="{users: [42]}"), 5, "grants[0].to.users[0]", "must be text"),
    (grant(to="{users: [ann], issuer: crop}"), 5, "grants[0].to.issuer", "mean corp?"),
    (grant(to="ann"), 5, "grants[0].to", "must be a mapping"),
    (grant(on=""), 4, "grants[0].on", "requires one of `projects`, `servers`, `tags`"),
    (grant(on="{}"), 6, "grants[0].on", "requires one of `projects`, `servers`, `tags`"),
    (grant(to="{users: 42}"), 5, "grants[0].to.users", "must be a list"),
    (grant(to="{users: [ann], issuer: }"), 5, "grants[0].to.issuer", "unknown issuer"),
    (grant(to="{users: [ann], issuer: [corp]}"), 5, "grants[0].to.issuer", "unknown issuer"),
    (grant(on="{projects: 5}"), 6, "grants[0].on.projects", "must be a list"),
    (
        grant(on="{projects: [" + PROJECT + "], servers: []}"),
        6,
        "grants[0].on",
        "contains an empty list",
    ),
    (
        grant(on="{projects: [], servers: [" + SERVER + "]}"),
        6,
        "grants[0].on",
        "contains an empty list",
    ),
    (grant(on="all"), 6, "grants[0].on", "must be a mapping"),
    (grant(to="{everyone: false}"), 5, "grants[0].to.everyone", "must be `true`"),
    (grant(to="{everyone: true, users: [a]}"), 5, "grants[0].to", "`everyone` excludes"),
    (grant(to='{groups: ["ext-*"]}'), 5, "grants[0].to.groups[0]", "must not contain `*`"),
    (grant(to='{groups: ["ops "]}'), 5, "grants[0].to.groups[0]", "begin or end with a blank"),
    (grant(on='{tags: {env: "p*"}}'), 6, "grants[0].on.tags.env", "must not contain `*`"),
    (grant(on='{names: ["a?"]}'), 6, "grants[0].on.names[0]", "must not contain `?`"),
    (grant(on="{everything: false}"), 6, "grants[0].on.everything", "must be `true`"),
    (
        grant(on=f"{{everything: true, projects: [{PROJECT}]}}"),
        6,
        "grants[0].on",
        "`everything` excludes",
    ),
    (HEAD + "groups: {ops: []}\ngrants: []\n", 3, "groups.ops", "a text or a list of texts"),
    (grant(permissions="all"), 7, "grants[0].permissions", "unknown key"),
    (grant(until="null"), 7, "grants[0].until", "is not an instant"),
    (grant(until="1795500000"), 7, "grants[0].until", "is not an instant"),
    (grant(**{"from": "null"}), 7, "grants[0].from", "is not an instant"),
    (
        HEAD + "denials:\n  - {role: op, permissions: all, to: {users: [a]}, on: everything}\n",
        4,
        "denials[0]",
        "requires either `role` or `permissions`",
    ),
    (grant(on="{servers: [srv-1]}"), 6, "grants[0].on.servers[0]", "a UUID"),
    (
        grant(on="{projects: [other]}"),
        6,
        "grants[0].on.projects[0]",
        "not in any `accounts[].projects`",
    ),
    (grant(on="{tag: {env: prod}}"), 6, "grants[0].on.tag", "did you mean tags?"),
    (grant(until="2026-11-27T18:00:00"), 7, "grants[0].until", "no time zone"),
    (grant(until="2026-11-27"), 7, "grants[0].until", "no time zone"),
    (grant(until="tomorrow"), 7, "grants[0].until", "is not an instant"),
    (
        grant(**{"from": "2026-11-27T18:00:00Z", "until": "2026-11-27T18:00:00+00:00"}),
        8,
        "grants[0].until",
        "must be later than",
    ),
    (grant(reason="[1]"), 7, "grants[0].reason", "must be text"),
    ("roles:\n  op: [console:opn]\n", 2, "roles.op[0]", "did you mean console:open?"),
    ("roles:\n  op: []\n", 2, "roles.op", "must be a list of permissions"),
    ("roles:\n  Op!: [console:open]\n", 2, "roles.Op!", "a role name"),
    ("roles:\n  op: [console:open]\n  op: []\n", 3, "op", "duplicate key"),
    ("- grants\n", 1, "", "must be a mapping"),
    ("grants: {}\n", 1, "grants", "must be a list"),
    ("a: &x 1\nb: *x\n", 1, "", "aliases"),
    ("a: [\n", 2, "", "is not valid YAML"),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), INVALID)
def test_error_names_line_and_key(
    tmp_path: Path, text: str, line: int, key: str, message: str
) -> None:
    with pytest.raises(InvalidConfig) as found:
        read(tmp_path, text)
    matching = [error for error in found.value.errors if message in error.message]
    assert matching, found.value
    assert (matching[0].line, matching[0].key) == (line, key)
    assert matching[0].file.endswith("policy.yaml")


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    text = grant(role="x", to="{}", on="{}", until="never")
    with pytest.raises(InvalidConfig) as found:
        read(tmp_path, text)
    assert len(found.value.errors) == 4


def test_denial_accepts_permissions_instead_of_role(tmp_path: Path) -> None:
    text = HEAD + (
        "grants:\n  - {role: op, to: {users: [ann]}, on: everything}\n"
        "denials:\n  - {permissions: all, to: {users: [ann]}, on: {servers: ['" + SERVER + "']}}\n"
    )
    policy = read(tmp_path, text)
    ann = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)
    project = ProjectId(PROJECT)
    assert not policy.decide(ann, CONSOLE_OPEN, project, ServerId(SERVER), 0.0).allowed
    other = ServerId(SERVER.replace("1", "2"))
    assert policy.decide(ann, CONSOLE_OPEN, project, other, 0.0).allowed


def test_server_id_is_case_insensitive(tmp_path: Path) -> None:
    upper = SERVER.replace("1", "A")
    policy = read(tmp_path, grant(on=f"{{servers: ['{upper}']}}"))
    ann = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)
    server = ServerId(upper.lower())
    assert policy.decide(ann, CONSOLE_OPEN, ProjectId(PROJECT), server, 0.0).allowed


NOT_IN_SCHEMA = (
    "unknown role", "unknown issuer", "mean corp?", "not in any", "must be later", "duplicate key",
    "aliases", "not valid YAML",
)  # fmt: skip
"""Errors that depend on other keys, on the config or on the text."""


@pytest.mark.parametrize(("text", "line", "key", "message"), INVALID)
def test_schema_rejects_what_the_parser_rejects(
    text: str, line: int, key: str, message: str
) -> None:
    validator = Draft202012Validator(policy_schema())
    if not any(part in message for part in NOT_IN_SCHEMA):
        data = parse(Path("policy.yaml"), text.encode()).data
        assert not validator.is_valid(data if data is not None else {})


@pytest.mark.parametrize(
    "text",
    [
        "grants: []\n",
        grant(),
        grant(to="{groups: [ops], issuer: corp}", reason="ticket"),
        grant(on="{tags: {env: [prod, dev]}, not: {locations: [{dc: a}], models: [B]}}"),
        grant(on=f"{{projects: [{PROJECT}], servers: [{SERVER.upper()}]}}"),
        grant(to="everyone"),
        grant(to="{everyone: true, issuer: any}"),
        grant(on=f"{{everything: true, not: {{servers: [{SERVER}], projects: [{PROJECT}]}}}}"),
        grant(on='{names: ["web-*", db-1], not: {names: ["*-test"]}}'),
        "groups: {ops: 5c3d, both: [5c3d, 6d4e]}\n" + grant(to="{groups: [ops]}"),
        grant(**{"from": "2026-11-27T18:00:00Z", "until": "2026-11-28 18:00+01:00"}),
        HEAD + "grants: []\ndenials: [{permissions: all, to: {users: [a]}, on: everything}]\n",
    ],
)
def test_schema_accepts_what_the_parser_accepts(tmp_path: Path, text: str) -> None:
    read(tmp_path, text)
    data = parse(Path("policy.yaml"), text.encode()).data
    assert list(Draft202012Validator(policy_schema()).iter_errors(data)) == []
