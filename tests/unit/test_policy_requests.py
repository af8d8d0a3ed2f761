"""The policy's section `requests`: parser, located errors, warnings, and the compiled form."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gateway.config.errors import InvalidConfig
from gateway.config.located_yaml import load, parse
from gateway.config.policy_names import KnownNames
from gateway.config.policy_parser import make_policy, parse_policy, read_policy
from gateway.config.policy_warnings import policy_warnings
from gateway.config.schema import policy_schema
from gateway.domain.model import CONSOLE_OPEN, SERVER_READ
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.request_rules import Approvers, BreakGlass

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
HEAD = """\
roles:
  op: [console:open, server:read]
groups:
  leads: [f3b1, f3b2]
grants: []
requests:
"""


def rule(**parts: str) -> str:
    stored = {
        "role": "op",
        "to": "{groups: [staff]}",
        "on": f"{{projects: ['{PROJECT}']}}",
        "for_max": "4h",
        "approvers": "{groups: [leads]}",
        **parts,
    }
    lines = [f"{key}: {value}" for key, value in stored.items() if value]
    return "  - " + "\n    ".join(lines) + "\n"


def read(tmp_path: Path, *rules: str, issuers: tuple[str, ...] = ("corp",)) -> Policy:
    file = tmp_path / "policy.yaml"
    file.write_text(HEAD + "".join(rules))
    return parse_policy(load(file), issuers=issuers, projects=[PROJECT], version="v")


def test_rule_is_read_whole(tmp_path: Path) -> None:
    more = {"name": "prod", "approvals": "2", "ticket_required": "true"}
    policy = read(tmp_path, rule(**more, break_glass="{per_day: 2, reason_min: 20}"), rule())
    assert list(policy.request_rules) == ["prod", "op"]
    prod = policy.request_rules["prod"]
    assert prod.scope.permissions == {CONSOLE_OPEN, SERVER_READ}
    assert (prod.for_max_s, prod.approvals, prod.ticket_required) == (14_400.0, 2, True)
    assert prod.approvers == Approvers(None, frozenset(), frozenset({"f3b1", "f3b2"}))
    assert prod.break_glass == BreakGlass(2, 20)
    assert policy.request_rules["op"].break_glass is None


def test_rule_alone_grants_nothing(tmp_path: Path) -> None:
    policy = read(tmp_path, rule())
    assert policy.size == 0
    assert not policy.rules


def test_tags_of_request_rules_count_as_tags_of_the_policy(tmp_path: Path) -> None:
    policy = read(tmp_path, rule(on="{tags: {env: prod}}"))
    assert policy.selects_by_attributes


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"for_max": ""}, "7: requests[0].for_max: must be a time such as"),
        ({"for_max": "4 hours"}, "10: requests[0].for_max: must be a time such as"),
        ({"for_max": "31d"}, "10: requests[0].for_max: must be at most 30 days"),
        ({"approvers": ""}, "approvers: requires at least one of `users`, `groups`"),
        ({"approvers": "{users: []}"}, "requires at least one of `users`, `groups`"),
        ({"approvers": "{everyone: true}"}, "unknown key 'everyone'"),
        ({"approvers": "{users: [ann], issuer: korp}"}, "did you mean corp"),
        ({"approvals": "3"}, "approvals: must be 1 or 2"),
        ({"approvals": "true"}, "approvals: must be 1 or 2"),
        ({"ticket_required": "1"}, "ticket_required: must be `true` or `false`"),
        ({"break_glass": "{}"}, "per_day: must be a whole number from 1 to 100"),
        ({"break_glass": "{per_day: 1, reason_min: 0}"}, "reason_min: must be a whole number"),
        ({"break_glass": "{per_day: 1, max: 2}"}, "unknown key 'max'"),
        ({"name": "Prod!"}, "name: may contain only"),
        ({"role": "oq"}, "unknown role 'oq'; known: op"),
        ({"role": ""}, "requires `role`"),
        ({"on": ""}, "requires one of"),
        ({"to": "{}"}, "requires at least one of"),
        ({"approver": "{users: [a]}"}, "unknown key 'approver'; did you mean approvers"),
    ],
)
def test_error_names_line_and_key(tmp_path: Path, parts: dict[str, str], error: str) -> None:
    with pytest.raises(InvalidConfig) as found:
        read(tmp_path, rule(**parts))
    assert error in "\n".join(map(str, found.value.errors))


def test_two_rules_of_one_name_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="is the name of the rule on line 7 too"):
        read(tmp_path, rule(), rule())


def test_several_issuers_require_the_issuer_of_approvers(tmp_path: Path) -> None:
    to = "{groups: [staff], issuer: corp}"
    issuers = ("corp", "other")
    with pytest.raises(InvalidConfig, match="requires `issuer` with several issuers"):
        read(tmp_path, rule(to=to), issuers=issuers)
    with pytest.raises(InvalidConfig, match="must be one issuer"):
        read(tmp_path, rule(to=to, approvers="{users: [a], issuer: any}"), issuers=issuers)
    policy = read(tmp_path, rule(to=to, approvers="{users: [a], issuer: other}"), issuers=issuers)
    assert policy.request_rules["op"].approvers.issuer == "other"


@pytest.mark.parametrize(
    ("parts", "is_valid"),
    [
        ({}, True),
        ({"break_glass": "{per_day: 1}", "approvals": "2", "ticket_required": "true"}, True),
        ({"for_max": "4x"}, False),
        ({"approvers": "{groups: []}"}, False),
        ({"approvals": "3"}, False),
        ({"break_glass": "{reason_min: 3}"}, False),
    ],
)
def test_schema_agrees_with_parser(parts: dict[str, str], is_valid: bool) -> None:  # noqa: FBT001
    document = parse(Path("policy.yaml"), (HEAD + rule(**parts)).encode())
    assert Draft202012Validator(policy_schema()).is_valid(document.data) is is_valid


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"approvers": "{users: [ann]}", "approvals": "2"}, "rule_without_effect"),
        ({"to": "{users: [ann]}", "approvers": "{users: [ann]}"}, "rule_without_effect"),
        ({"approvers": "{groups: [leaders]}"}, "group_without_alias"),
        ({"until": "2001-01-01T00:00:00Z"}, "rule_ended"),
    ],
)
def test_warning_names_the_rule(tmp_path: Path, parts: dict[str, str], code: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(HEAD + rule(**parts))
    parsed = read_policy(load(file), KnownNames(("corp",), (PROJECT,)))
    found = list(policy_warnings(parsed, (), 2e9))
    assert code in {one.code for one in found}
    assert all("requests[0]" in str(one.at) for one in found if one.code == code)


def test_role_and_alias_of_requests_are_used(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(HEAD + rule())
    parsed = read_policy(load(file), KnownNames(("corp",), (PROJECT,)))
    assert not {one.code for one in policy_warnings(parsed, (), 0.0)} & {
        "role_not_used",
        "alias_not_used",
    }
    assert list(make_policy(parsed, version="v").request_rules) == ["op"]
