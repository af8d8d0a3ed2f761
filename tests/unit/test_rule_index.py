"""RuleIndex: compiled rules are those it was made of, and the rules of one person are found."""

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.model import CONSOLE_OPEN, SERVER_READ, Principal, RuleKind, RuleRef
from gateway.domain.policy.rule_index import RuleIndex, compile_rules
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Location, NamePattern, Selector

NAMES = st.frozensets(st.sampled_from(["a", "b", "ga", "1:a", "é", "\ud800"]), max_size=3)
SELECTORS = st.builds(
    Selector,
    tags=st.just((("env", frozenset({"prod"})),)) | st.just(()),
    locations=st.just((Location("dc", "r"),)) | st.just(()),
    names=st.just((NamePattern("web-*"),)) | st.just(()),
    excluded=st.none() | st.just(Selector(models=frozenset({"B1"}))),
)
RULES = st.lists(
    st.builds(
        Rule,
        ref=st.builds(
            RuleRef, st.sampled_from(RuleKind), st.just("p.yaml"), st.integers(1, 9), st.just("x")
        ),
        permissions=st.frozensets(st.sampled_from([CONSOLE_OPEN, SERVER_READ]), min_size=1),
        issuer=st.sampled_from([None, "corp", "1"]),
        users=NAMES.map(lambda names: names - {"\ud800"}),
        groups=NAMES.map(lambda names: names - {"\ud800"}),
        projects=st.frozensets(st.sampled_from(["p", "q"])),
        servers=st.frozensets(st.sampled_from(["s", "t"]))
        | st.just(frozenset(f"s{i}" for i in range(40))),
        selector=st.none() | SELECTORS,
        valid_from=st.sampled_from([float("-inf"), 1.0]),
        valid_until=st.sampled_from([float("inf"), 2.0]),
        everyone=st.booleans(),
        excluded_projects=st.frozensets(st.sampled_from(["p"])),
        excluded_servers=st.frozensets(st.sampled_from(["s"])),
    ),
    max_size=8,
)


@given(RULES)
def test_compiled_rules_equal_their_source(rules: list[Rule]) -> None:
    index = RuleIndex(compile_rules(rules))
    assert list(index.rules) == rules
    assert index.rules[-3:] == rules[-3:]
    times = [time for rule in rules for time in (rule.valid_from, rule.valid_until)]
    assert list(index.instants) == sorted({float("-inf"), float("inf"), *times})
    assert index.selects_by_attributes == any(rule.selector is not None for rule in rules)


@given(RULES, st.sampled_from(["corp", "1"]), st.sampled_from(["a", "ga", "\ud800"]), NAMES)
def test_rules_of_a_person_are_found_by_target(
    rules: list[Rule], issuer: str, subject: str, groups: frozenset[str]
) -> None:
    index = RuleIndex(compile_rules(rules))
    person = Principal(issuer, subject, groups, 0.0, 1.0, None)
    concerned = {
        rule
        for rule in rules
        if rule.issuer in (None, issuer)
        and (rule.everyone or subject in rule.users or groups & rule.groups)
        and CONSOLE_OPEN in rule.permissions
    }
    for project, server in (("p", "s"), ("p", "s7"), ("q", "u"), ("p", None)):
        expected = {
            rule
            for rule in concerned
            if (not rule.projects or project in rule.projects)
            and (not rule.servers or server in rule.servers or server is None)
        }
        denials = [
            rule
            for one in index.denials(person, CONSOLE_OPEN)
            for rule in one.denying(project, server)
        ]
        assert set(denials) == {one for one in expected if one.ref.kind is RuleKind.DENIAL}
        grants = [
            rule
            for one in index.grants(person, CONSOLE_OPEN)
            for rule in one.granting(project, server)
        ]
        granted = {one for one in expected if one.ref.kind is RuleKind.GRANT}
        if server is None:  # requires a grant on everything
            granted = {one for one in granted if not one.projects and not one.servers}
        assert set(grants) == granted


def test_decisions_stay_right_when_caches_overflow() -> None:
    rules = [
        Rule(
            RuleRef(RuleKind.GRANT, "p.yaml", i, "x"),
            frozenset({CONSOLE_OPEN}),
            None,
            frozenset({f"u{i}"}),
            frozenset(),
            frozenset(),
            frozenset({f"s{i}"}),
        )
        for i in range(5_000)
    ]
    index = RuleIndex(compile_rules(rules))
    for _ in range(2):
        for i in range(0, 5_000, 7):
            person = Principal("corp", f"u{i}", frozenset(), 0.0, 1.0, None)
            (found,) = index.grants(person, CONSOLE_OPEN)
            assert list(found.granting("p", f"s{i}")) == [rules[i]]
            assert list(found.granting("p", "s0")) == [rules[0]][: i == 0]


def test_old_index_is_freed_in_slices_and_without_the_collector() -> None:
    """A full collection would hold a worker for a tenth of a second or more."""
    rule = Rule(
        RuleRef(RuleKind.GRANT, "p.yaml", 1, "x"),
        *(frozenset({CONSOLE_OPEN}), None),
        *(frozenset({"ann"}), frozenset(), frozenset(), frozenset()),
    )
    index = RuleIndex(compile_rules([rule] * 50))
    person = Principal("corp", "ann", frozenset(), 0.0, 1.0, None)
    assert index.grants(person, CONSOLE_OPEN)
    assert list(index.rules) == [rule] * 50
    assert index.forget(20)
    assert index.forget(20)
    assert not index.forget(20)
    (found,) = index.grants(person, CONSOLE_OPEN)
    assert len(list(found.granting("p", "s"))) == 50
    reference = weakref.ref(index)
    gc.disable()
    try:
        del index
        assert reference() is None
    finally:
        gc.enable()
