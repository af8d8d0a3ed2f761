"""Names in the policy: every name can match, belongs to one issuer, and may be an alias."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.config.errors import ConfigError, InvalidConfig
from gateway.config.located_yaml import parse
from gateway.config.policy_names import KnownNames, name_problem
from gateway.config.policy_parser import make_policy, parse_policy, read_policy
from gateway.domain.model import (
    CONSOLE_OPEN,
    EXPLICIT_PERMISSIONS,
    PERMISSIONS,
    SERVER_TAG_POLICY,
    Principal,
    ProjectId,
    ServerId,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Attributes, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.selectors import NamePattern

EAST, WEST, LAB = (ProjectId(name) for name in ("east-1", "west-1", "lab-1"))
S1 = ServerId("11111111-2222-4333-8444-555555555555")
S2 = ServerId("22222222-2222-4333-8444-555555555555")
KNOWN = KnownNames(
    ("corp",), (EAST, WEST, LAB),
    accounts={"prod": (EAST, WEST), "test": (LAB,)},
    regions={"cn-east-3": (EAST, LAB), "cn-north-4": (WEST,)},
)  # fmt: skip


def read(text: str, known: KnownNames = KNOWN) -> Policy:
    return make_policy(read_policy(parse(Path("policy.yaml"), text.encode()), known), version="v")


def rules(to: str = "{users: [ann]}", on: str = "everything", kind: str = "grants") -> str:
    grants = "grants: []\n" if kind == "denials" else ""
    return f"roles: {{op: [console:open]}}\n{grants}{kind}:\n  - {{role: op, to: {to}, on: {on}}}\n"


def errors(text: str, known: KnownNames = KNOWN) -> Sequence[ConfigError]:
    with pytest.raises(InvalidConfig) as found:
        read(text, known)
    return found.value.errors


def allows(
    policy: Policy,
    who: Principal,
    project: ProjectId = EAST,
    server: ServerId | None = S1,
    inventory: Inventory = NO_INVENTORY,
) -> bool:
    return policy.decide(who, CONSOLE_OPEN, project, server, 0.0, inventory).allowed


def person(subject: str = "ann", *groups: str, issuer: str = "corp") -> Principal:
    return Principal(issuer, subject, frozenset(groups), 0.0, 9e9, None)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ext-*", "must not contain `*`"),
        ("ext-?", "must not contain `*` or `?`"),
        ("interns ", "must not begin or end with a blank"),
        (" interns", "must not begin or end with a blank"),
        ("\u00a0interns", "must not begin or end with a blank"),
        ("x" * 256, "at most 255 characters"),
        ("a\tb", "control characters"),
        ("a\u0000b", "control characters"),
        ("a\ud800b", "control characters"),
    ],
)
def test_name_that_matches_nothing_has_a_problem(name: str, problem: str) -> None:
    assert problem in name_problem(name)


@pytest.mark.parametrize(
    "name",
    [
        "interns",
        "x" * 255,
        "CN=Ops,OU=Teams",
        "/realm/ops",
        "équipe réseau",
        "a\u200cb",
        "a@b",
        "x",
    ],
)
def test_possible_name_has_no_problem(name: str) -> None:
    assert name_problem(name) == ""


@pytest.mark.parametrize("kind", ["grants", "denials"])
@pytest.mark.parametrize(
    ("to", "on", "key"),
    [
        ('{groups: ["ext-*"]}', "everything", "to.groups[0]"),
        ('{groups: [ops, "interns "]}', "everything", "to.groups[1]"),
        ('{users: ["ol?a"]}', "everything", "to.users[0]"),
        (f"{{users: [{'u' * 256}]}}", "everything", "to.users[0]"),
        ("{users: [ann]}", '{tags: {env: "prod-*"}}', "on.tags.env"),
        ("{users: [ann]}", '{tags: {env: [prod, "dev "]}}', "on.tags.env[1]"),
        ("{users: [ann]}", '{tags: {"env ": prod}}', "on.tags.env "),
        ("{users: [ann]}", '{locations: [{dc: "dc-*"}]}', "on.locations[0].dc"),
        ("{users: [ann]}", '{models: ["B*"]}', "on.models[0]"),
        ("{users: [ann]}", '{names: ["web-?"]}', "on.names[0]"),
        ("{users: [ann]}", '{models: [B1], not: {names: ["db "]}}', "on.not.names[0]"),
        ("{users: [ann]}", "{accounts: [prd]}", "on.accounts[0]"),
        ("{users: [ann]}", "{regions: [cn-east-33]}", "on.regions[0]"),
        ("{users: [ann]}", "{everything: true, not: {projects: [east]}}", "on.not.projects[0]"),
    ],
)
def test_rule_with_an_impossible_name_is_rejected(kind: str, to: str, on: str, key: str) -> None:
    found = errors(rules(to, on, kind))
    assert [(error.line, error.key) for error in found] == [
        (4 if kind == "denials" else 3, f"{kind}[0].{key}")
    ]


def test_rule_names_its_issuer_beside_others() -> None:
    two = KnownNames(("corp", "partners"), (EAST,))
    for to in ("{users: [olga]}", "{groups: [ops]}"):
        (error,) = errors(rules(to), two)
        assert (error.line, error.key) == (3, "grants[0].to")
        assert "requires `issuer` with several issuers: corp, partners, or `any`" in error.message
        assert errors(rules(to, kind="denials"), two)
    named = read(rules("{users: [olga], issuer: corp}"), two)
    assert allows(named, person("olga"))
    assert not allows(named, person("olga", issuer="partners"))
    anyones = read(rules("{users: [olga], issuer: any}"), two)
    assert allows(anyones, person("olga"))
    assert allows(anyones, person("olga", issuer="partners"))
    assert allows(read(rules("{users: [olga]}")), person("olga"))


def test_everyone_is_every_person() -> None:
    policy = read(rules("everyone", f"{{servers: [{S1}]}}"))
    assert allows(policy, person("nobody knows her"))
    assert not allows(policy, person("nobody knows her"), server=S2)
    assert policy.rules[0].ref.label == "grant op to everyone"
    denied = read(rules() + "denials: [{permissions: all, to: everyone, on: everything}]\n")
    assert not allows(denied, person())


def test_everyone_of_an_issuer() -> None:
    two = KnownNames(("corp", "partners"), (EAST,))
    policy = read(rules("{everyone: true, issuer: corp}"), two)
    assert allows(policy, person("x"))
    assert not allows(policy, person("x", issuer="partners"))
    assert allows(read(rules("everyone"), two), person("x", issuer="partners"))
    assert "requires `issuer`" in errors(rules("{everyone: true}"), two)[0].message


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("{everyone: true, users: [ann]}", "`everyone` excludes `users` and `groups`"),
        ("{everyone: false}", "must be `true`"),
        ("everybody", "must be a mapping"),
    ],
)
def test_everyone_in_a_wrong_form_is_rejected(to: str, message: str) -> None:
    assert message in errors(rules(to))[0].message


@pytest.mark.parametrize(
    ("on", "allowed"),
    [
        ("{accounts: [prod]}", {EAST, WEST}),
        ("{regions: [cn-east-3]}", {EAST, LAB}),
        ("{accounts: [prod], regions: [cn-east-3]}", {EAST}),
        ("{accounts: [prod], regions: [cn-east-3], projects: [east-1, west-1]}", {EAST}),
        ("{everything: true}", {EAST, WEST, LAB}),
        ("{everything: true, not: {projects: [east-1]}}", {WEST, LAB}),
        ("{everything: true, not: {accounts: [test], regions: [cn-north-4]}}", {EAST}),
        ("{accounts: [prod], not: {regions: [cn-north-4]}}", {EAST}),
    ],
)
def test_projects_by_account_and_region(on: str, allowed: set[ProjectId]) -> None:
    policy = read(rules(on=on))
    assert {one for one in (EAST, WEST, LAB) if allows(policy, person(), one)} == allowed
    denied = read(rules() + f"denials: [{{role: op, to: everyone, on: {on}}}]\n")
    assert {one for one in (EAST, WEST, LAB) if not allows(denied, person(), one)} == allowed
    for one in (EAST, WEST, LAB):
        for some in (policy, denied):
            scope = some.scope(person(), CONSOLE_OPEN, one, 0.0)
            assert scope.allows(S1) == scope.predicate(S1) == allows(some, person(), one)


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("{accounts: [test], regions: [cn-north-4]}", "no project matches all of"),
        ("{projects: [east-1], not: {regions: [cn-east-3]}}", "excludes all projects"),
        (f"{{servers: [{S1}], not: {{servers: [{S1}]}}}}", "excludes all servers"),
        ("{everything: true, projects: [east-1]}", "`everything` excludes every other key"),
        ("{everything: false, not: {projects: [east-1]}}", "must be `true`"),
        ("{not: {projects: [east-1]}}", "requires one of"),
    ],
)
def test_selection_of_nothing_is_rejected(on: str, message: str) -> None:
    assert any(message in error.message for error in errors(rules(on=on)))


def test_excluded_servers() -> None:
    policy = read(rules(on=f"{{everything: true, not: {{servers: ['{S1.upper()}']}}}}"))
    assert not allows(policy, person(), server=S1)
    assert allows(policy, person(), server=S2)
    assert not allows(policy, person(), server=None), "it is not a grant on everything"
    scope = policy.scope(person(), CONSOLE_OPEN, EAST, 0.0)
    assert (scope.allows(S1), scope.allows(S2), scope.total) == (False, True, False)
    on = f"{{projects: [east-1], not: {{servers: [{S1}]}}}}"
    denied = read(f"{rules()}denials: [{{role: op, to: everyone, on: {on}}}]\n")
    assert allows(denied, person(), server=S1)
    assert not allows(denied, person(), server=S2)
    assert not allows(denied, person(), server=None)
    assert allows(denied, person(), WEST, server=S2)


def test_exclusion_of_an_attribute_or_a_server() -> None:
    policy = read(rules(on=f"{{everything: true, not: {{servers: [{S1}], tags: {{tier: db}}}}}}"))
    web, db = (Attributes(frozenset({("tier", tier)})) for tier in ("web", "db"))
    for first, second, expected in ((web, web, [False, True]), (web, db, [False, False])):
        known = Inventory({S1: first, S2: second}, taken_at=0.0, good_until=9.0)
        assert [allows(policy, person(), EAST, one, known) for one in (S1, S2)] == expected


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("web-*", "web-1", True),
        ("web-*", "web-", True),
        ("web-*", "Web-1", False),
        ("web-*", "my-web-1", False),
        ("*-db", "prod-db", True),
        ("*-db", "prod-db-1", False),
        ("web-1", "web-1", True),
        ("web-1", "web-10", False),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*b*b*", "abab", True),
        ("*b*b*", "ab", False),
        ("a*b*c", "a-c-b-c", True),
        ("a*b*bc", "abc", False),
        ("*", "x", True),
        ("**", "x", True),
        ("web.[0-9]", "web.1", False),
    ],
)
def test_name_pattern(pattern: str, name: str, matches: bool) -> None:  # noqa: FBT001
    assert NamePattern(pattern).matches(name) is matches


def test_grant_and_denial_by_name() -> None:
    granting, denying = (
        read(rules(on='{names: ["web-*"]}')),
        rules() + ('denials: [{role: op, to: everyone, on: {names: ["web-*"]}}]\n'),
    )
    for name, granted in (("web-1", True), ("db-1", False), ("", False)):
        known = Inventory({S1: Attributes(name=name)}, taken_at=0.0, good_until=9.0)
        assert allows(granting, person(), inventory=known) is granted
        is_denied = granted or not name  # an unknown name may be the denied one
        assert allows(read(denying), person(), inventory=known) is not is_denied
    assert not allows(granting, person())


def test_alias_stands_for_groups_of_the_token() -> None:
    guid, other = "5c3d8a0e-0000-4000-8000-000000000001", "5c3d8a0e-0000-4000-8000-000000000002"
    text = f"groups: {{Server operators: {guid}, both: [{guid}, {other}]}}\n"
    policy = read(text + rules("{groups: [Server operators]}"))
    assert allows(policy, person("x", guid))
    assert not allows(policy, person("x", other))
    assert not allows(policy, person("x", "Server operators")), "only the value in the token counts"
    assert policy.rules[0].ref.label == "grant op to group Server operators"
    both = read(text + rules("{groups: [both, raw]}"))
    assert [allows(both, person("x", group)) for group in (guid, other, "raw", "both")] == [
        True, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("alias", ["{ops: []}", "{ops: 7}", '{ops: "a*"}', '{"ops ": a}', "[ops]"])
def test_alias_in_a_wrong_form_is_rejected(alias: str) -> None:
    assert errors(f"groups: {alias}\n" + rules())


def test_all_in_a_role_excludes_explicit_permissions() -> None:
    text = "roles: {admin: all}\ngrants: [{role: admin, to: {users: [ann]}, on: everything}]\n"
    (grant,) = read(text).rules
    assert SERVER_TAG_POLICY not in grant.permissions
    assert not {one for one in grant.permissions if one.startswith("recording:")}
    assert grant.permissions >= PERMISSIONS - EXPLICIT_PERMISSIONS
    for denial in ("permissions: all", "role: admin"):
        more = f"denials: [{{{denial}, to: {{users: [ann]}}, on: everything}}]\n"
        assert read(text + more).rules[-1].permissions == PERMISSIONS


def test_explicit_permissions_are_accepted_by_name() -> None:
    names = ", ".join(sorted(EXPLICIT_PERMISSIONS))
    text = f"roles: {{r: [{names}]}}\ngrants: [{{role: r, to: everyone, on: everything}}]\n"
    assert read(text).rules[0].permissions == EXPLICIT_PERMISSIONS


def test_parse_policy_takes_names_of_accounts_and_regions() -> None:
    document = parse(Path("policy.yaml"), rules(on="{accounts: [prod]}").encode())
    policy = parse_policy(
        document, issuers=["corp"], projects=[EAST], accounts={"prod": (EAST,)}, version="v"
    )
    assert allows(policy, person())
