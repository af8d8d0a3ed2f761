"""The policy: each allowed case has a denied twin, and a naive reading agrees."""

from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import NotPermitted
from gateway.domain.model import (
    CONSOLE_OPEN,
    SERVER_READ,
    Operation,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
    ServerId,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule

P1, P2 = ProjectId("p1"), ProjectId("p2")
S1, S2 = ServerId("s1"), ServerId("s2")
NOW = 1_000.0
_lines = count(1)


def a_rule(kind: RuleKind = RuleKind.GRANT, **changes: object) -> Rule:
    ref = RuleRef(kind, "policy.yaml", next(_lines), "a rule")
    rule = Rule(
        ref=ref,
        permissions=frozenset({CONSOLE_OPEN}),
        issuer="corp",
        users=frozenset({"ann"}),
        groups=frozenset(),
        projects=frozenset({P1}),
        servers=frozenset({S1}),
    )
    return msgspec.structs.replace(rule, **changes)


def a_principal(subject: str = "ann", issuer: str = "corp", *groups: str) -> Principal:
    return Principal(issuer, subject, frozenset(groups), 0.0, 9e9, None)


def a_call(
    *servers: ServerId, project: ProjectId = P1, permission: str = CONSOLE_OPEN
) -> ResolvedCall:
    operation = Operation("Op", "GET", "/x", permission)
    return ResolvedCall(operation, project, servers, touches_unnamed=not servers)


def allows(policy: Policy, principal: Principal, call: ResolvedCall, now: float = NOW) -> bool:
    try:
        permit = policy.permit(principal, call, now)
    except NotPermitted:
        return False
    assert (permit.principal, permit.call) == (principal, call)
    return True


def a_policy(*rules: Rule) -> Policy:
    return Policy(rules, version="test")


def test_grant_allows_exactly_what_it_names() -> None:
    policy = a_policy(a_rule())
    assert allows(policy, a_principal(), a_call(S1))
    assert not allows(policy, a_principal("bob"), a_call(S1))
    assert not allows(policy, a_principal(issuer="other"), a_call(S1))
    assert not allows(policy, a_principal(), a_call(S2))
    assert not allows(policy, a_principal(), a_call(S1, project=P2))
    assert not allows(policy, a_principal(), a_call(S1, permission=SERVER_READ))
    assert not allows(a_policy(), a_principal(), a_call(S1))


def test_group_grant_applies_to_members_only() -> None:
    policy = a_policy(a_rule(users=frozenset(), groups=frozenset({"ops"})))
    assert allows(policy, a_principal("bob", "corp", "ops", "staff"), a_call(S1))
    assert not allows(policy, a_principal("bob", "corp", "staff"), a_call(S1))
    assert not allows(policy, a_principal("ops"), a_call(S1))


def test_rule_without_issuer_applies_to_all() -> None:
    policy = a_policy(a_rule(issuer=None))
    assert allows(policy, a_principal(issuer="other"), a_call(S1))


def test_server_grant_applies_in_any_project() -> None:
    policy = a_policy(a_rule(projects=frozenset()))
    assert allows(policy, a_principal(), a_call(S1, project=P2))


def test_project_grant_applies_to_all_its_servers() -> None:
    policy = a_policy(a_rule(servers=frozenset()))
    assert allows(policy, a_principal(), a_call(S2))
    assert not allows(policy, a_principal(), a_call(S2, project=P2))


def test_denial_overrides_every_grant() -> None:
    everything = a_rule(projects=frozenset(), servers=frozenset())
    denial = a_rule(RuleKind.DENIAL)
    policy = a_policy(everything, denial)
    assert not allows(policy, a_principal(), a_call(S1))
    assert allows(policy, a_principal(), a_call(S2))
    decision = policy.decide(a_principal(), CONSOLE_OPEN, P1, S1, NOW)
    assert decision.rule == denial.ref


def test_rule_is_valid_until_its_end_exclusive() -> None:
    policy = a_policy(a_rule(valid_from=100.0, valid_until=200.0))
    person, call = a_principal(), a_call(S1)
    instants = (99.999, 100.0, 150.0, 199.999, 200.0, 150.0, 99.0)
    cached_value = [allows(policy, person, call, at) for at in instants]
    assert cached_value == [False, True, True, True, False, True, False]


def test_access_lasts_over_grants_that_overlap_and_until_a_denial() -> None:
    def until(*rules: Rule) -> float:
        found = a_policy(*rules).allowed_until(a_principal(), CONSOLE_OPEN, P1, S1, NOW)
        return found.at

    first = a_rule(valid_until=NOW + 10)
    assert until() == NOW
    assert until(first) == NOW + 10
    assert until(first, a_rule(valid_from=NOW + 10, valid_until=NOW + 30)) == NOW + 30
    assert until(first, a_rule(valid_from=NOW + 11)) == NOW + 10
    assert until(a_rule()) == float("inf")
    assert until(a_rule(), a_rule(RuleKind.DENIAL, valid_from=NOW + 5)) == NOW + 5
    assert until(first, a_rule(RuleKind.DENIAL, valid_from=NOW + 20)) == NOW + 10
    assert until(first, a_rule(RuleKind.DENIAL, valid_until=NOW + 5)) == NOW
    assert until(first, a_rule(users=frozenset({"ben"}))) == NOW + 10
    assert until(first, a_rule(RuleKind.DENIAL, servers=frozenset({S2}))) == NOW + 10


def test_starting_denial_invalidates_cached_permit() -> None:
    policy = a_policy(a_rule(), a_rule(RuleKind.DENIAL, valid_from=100.0))
    person, call = a_principal(), a_call(S1)
    assert allows(policy, person, call, 99.0)
    assert allows(policy, person, call, 99.9)
    assert not allows(policy, person, call, 100.0)


def test_call_needs_permission_on_every_server() -> None:
    policy = a_policy(a_rule(servers=frozenset({S1})))
    assert allows(policy, a_principal(), a_call(S1))
    assert not allows(policy, a_principal(), a_call(S1, S2))


def test_call_without_server_needs_grant_on_everything() -> None:
    everything = a_rule(projects=frozenset(), servers=frozenset())
    assert allows(a_policy(everything), a_principal(), a_call())
    assert not allows(a_policy(a_rule(servers=frozenset())), a_principal(), a_call())
    assert not allows(a_policy(everything, a_rule(RuleKind.DENIAL)), a_principal(), a_call())


def test_explain_includes_ended_rules() -> None:
    ended, current = a_rule(valid_until=NOW - 1), a_rule()
    explanation = a_policy(ended, current).explain(a_principal(), CONSOLE_OPEN, P1, S1, NOW)
    assert explanation.decision.rule == current.ref
    assert {rule.ref for rule in explanation.matching} == {ended.ref, current.ref}


def test_explain_includes_future_denials() -> None:
    grant, denial = a_rule(), a_rule(RuleKind.DENIAL, valid_from=NOW + 1)
    policy = a_policy(grant, denial, a_rule(users=frozenset({"bob"})))
    before = policy.explain(a_principal(), CONSOLE_OPEN, P1, S1, NOW)
    assert (before.decision.allowed, before.decision.rule) == (True, grant.ref)
    after = policy.explain(a_principal(), CONSOLE_OPEN, P1, S1, NOW + 1)
    assert (after.decision.allowed, after.decision.rule) == (False, denial.ref)
    assert before.matching == after.matching == (denial, grant)


def test_explain_lists_each_rule_once() -> None:
    rule = a_rule(groups=frozenset({"ops", "staff"}))
    person = a_principal("ann", "corp", "ops", "staff")
    assert a_policy(rule).explain(person, CONSOLE_OPEN, P1, S1, NOW).matching == (rule,)


def test_explain_without_grant_lists_nothing() -> None:
    explanation = a_policy(a_rule()).explain(a_principal("bob"), CONSOLE_OPEN, P1, S1, NOW)
    assert (explanation.decision.rule, explanation.matching) == (None, ())


def test_denial_of_one_server_denies_the_call() -> None:
    both = a_rule(servers=frozenset({S1, S2}))
    assert allows(a_policy(both), a_principal(), a_call(S1, S2))
    denial = a_rule(RuleKind.DENIAL, servers=frozenset({S2}))
    for order in ((S1, S2), (S2, S1)):
        assert not allows(a_policy(both, denial), a_principal(), a_call(*order))


def test_denial_of_other_issuers_group_is_ignored() -> None:
    denial = {"users": frozenset(), "groups": frozenset({"interns"})}
    person = a_principal("ann", "corp", "interns")
    for issuer, allowed in (("corp", False), (None, False), ("other", True)):
        policy = a_policy(a_rule(), a_rule(RuleKind.DENIAL, issuer=issuer, **denial))
        assert allows(policy, person, a_call(S1)) is allowed


_some = st.sampled_from
_rules = st.builds(
    a_rule,
    kind=_some(RuleKind),
    permissions=st.frozensets(_some([CONSOLE_OPEN, SERVER_READ]), min_size=1),
    issuer=_some([None, "corp", "other"]),
    users=st.frozensets(_some(["ann", "bob"])),
    groups=st.frozensets(_some(["ops", "staff"])),
    projects=st.frozensets(_some([P1, P2])),
    servers=st.frozensets(_some([S1, S2])),
    valid_from=_some([float("-inf"), 10.0, 20.0]),
    valid_until=_some([float("inf"), 20.0, 30.0]),
    everyone=st.booleans(),
    excluded_projects=st.frozensets(_some([P1, P2])),
    excluded_servers=st.frozensets(_some([S1, S2])),
)


def allowed_by_naive_reading(
    rules: list[Rule], who: Principal, permission: str, call: ResolvedCall, now: float
) -> bool:
    """Evaluate the rules one by one, without an index."""

    def applies_to(rule: Rule, server: ServerId | None) -> bool:
        if permission not in rule.permissions or not rule.valid_from <= now < rule.valid_until:
            return False
        if rule.issuer not in (None, who.issuer):
            return False
        is_named = who.subject in rule.users or who.groups & rule.groups
        if not rule.everyone and not is_named:
            return False
        if call.project in rule.excluded_projects or server in rule.excluded_servers:
            return False
        in_project = not rule.projects or call.project in rule.projects
        if server is None:
            excludes = rule.excluded_projects or rule.excluded_servers
            is_fleet = not rule.projects and not rule.servers and not excludes
            return is_fleet or (rule.ref.kind is RuleKind.DENIAL and in_project)
        return in_project and (not rule.servers or server in rule.servers)

    def allowed(server: ServerId | None) -> bool:
        matching = [rule for rule in rules if applies_to(rule, server)]
        kinds = {rule.ref.kind for rule in matching}
        return RuleKind.GRANT in kinds and RuleKind.DENIAL not in kinds

    return all(allowed(server) for server in call.servers or (None,))


@given(
    rules=st.lists(_rules, max_size=6),
    subject=_some(["ann", "bob", "eve"]),
    issuer=_some(["corp", "other"]),
    groups=st.frozensets(_some(["ops", "staff", "none"])),
    servers=_some([(), (S1,), (S2,), (S1, S2)]),
    project=_some([P1, P2]),
    instants=st.lists(_some([5.0, 10.0, 15.0, 20.0, 25.0, 30.0]), min_size=1, max_size=4),
)
def test_compiled_policy_agrees_with_naive_reading(
    rules: list[Rule],
    subject: str,
    issuer: str,
    groups: frozenset[str],
    servers: tuple[ServerId, ...],
    project: ProjectId,
    instants: list[float],
) -> None:
    policy = a_policy(*rules)
    who = Principal(issuer, subject, groups, 0.0, 9e9, None)
    call = a_call(*servers, project=project)
    for now in instants:
        assert allows(policy, who, call, now) == allowed_by_naive_reading(
            rules, who, CONSOLE_OPEN, call, now
        )


@pytest.mark.parametrize("groups", [0, 1, 100])
def test_permit_names_its_grant(groups: int) -> None:
    grant = a_rule()
    person = a_principal("ann", "corp", *(f"g{i}" for i in range(groups)))
    assert a_policy(grant).permit(person, a_call(S1), NOW).rule == grant.ref
