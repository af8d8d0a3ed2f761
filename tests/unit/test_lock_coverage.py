"""Locks: whom and what they cover, and that they decide before grants on every kind of call."""

from itertools import permutations
from typing import Any

import pytest

from gateway.domain.errors import NotPermitted, PersonLocked
from gateway.domain.model import (
    Listing,
    Operation,
    Paging,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
)
from gateway.domain.overrides import (
    LOCK_TARGETS,
    UNTIL_LIFTED,
    ClearedOverride,
    Effect,
    Lock,
    Override,
    OverrideSet,
    decode_override,
    encode_override,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.target_locks import NO_LOCKS, TargetLocks
from gateway.flow.identify import Identify
from gateway.flow.locked_policies import LockedPolicies
from tests.support.clock import FakeClock
from tests.support.stages import ANN, OTHER, PROJECT, SERVER, FakePolicies, a_call
from tests.support.telemetry import RecordingTelemetry

ELSEWHERE = ProjectId("q")
LIST = Operation(
    "ListServers", "GET", "/x", "server:read", listing=Listing("servers", "id", Paging.MARKER)
)
EVERYTHING = Rule(
    RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
    permissions=frozenset({"server:read"}),
    issuer=None,
    users=frozenset({"ann"}),
    groups=frozenset(),
    projects=frozenset(),
    servers=frozenset(),
)


def an_override(name: str, effect: Effect, expires_at: float = UNTIL_LIFTED) -> Override:
    return Override(name, 1_000.0, expires_at, "corp:ada", "", effect)


def person(
    subject: str = "ann", *groups: str, issuer: str = "corp", issued_at: float = 0.0
) -> Principal:
    return Principal(issuer, subject, frozenset(groups), issued_at, 9e9, None)


@pytest.mark.parametrize(
    ("lock", "locked", "free"),
    [
        (Lock(issuer="corp", subject="ann"), person(issued_at=8e9), person("anN")),
        (Lock(issuer="corp", subject="ann"), person(), person(issuer="partner")),
        (Lock(subject="ann"), person(issuer="partner"), person("bob", "ann")),
        (Lock(group="ops"), person("x", "a", "ops", issuer="partner"), person("ops")),
        (Lock(issuer="corp", group="ops"), person("x", "ops"), person("x", "ops", issuer="p")),
        (Lock(server=SERVER), None, person(SERVER, SERVER)),
        (Lock(project=PROJECT), None, person(PROJECT, PROJECT)),
    ],
)
def test_lock_covers_its_people(lock: Lock, locked: Principal | None, free: Principal) -> None:
    overrides = OverrideSet([an_override("a", lock)])
    assert overrides.find_lock(free) is None
    assert locked is None or overrides.find_lock(locked) == "a"
    assert not overrides.is_revoked(free)
    assert lock.target in LOCK_TARGETS
    assert decode_override(encode_override(an_override("a", lock))).effect == lock


def test_lock_is_lifted_in_any_sequence_of_arrival() -> None:
    arrived = [
        an_override("a", Lock(subject="ann")),
        an_override("b", Lock(group="ops")),
        an_override("c", ClearedOverride("a")),
    ]
    for some in permutations(arrived):
        overrides = OverrideSet()
        for one in some:
            overrides = overrides.merge([one], now=1_000.0)
        assert overrides.find_lock(person()) is None
        assert overrides.find_lock(person("ann", "ops")) == "b"


def test_lock_for_a_time_ends_by_itself() -> None:
    overrides = OverrideSet([an_override("a", Lock(subject="ann"), expires_at=2_000.0)])
    assert overrides.merge((), now=1_999.0).find_lock(person()) == "a"
    assert overrides.merge((), now=2_000.0).find_lock(person()) is None
    unlimited = OverrideSet([an_override("a", Lock(subject="ann"))])
    assert unlimited.merge((), now=200e9).find_lock(person()) == "a"


def test_group_lock_concerns_the_tokens_of_its_issuers() -> None:
    of_corp = OverrideSet([an_override("a", Lock(issuer="corp", group="ops"))])
    assert (of_corp.locks_groups("corp"), of_corp.locks_groups("partner")) == (True, False)
    assert OverrideSet([an_override("a", Lock(group="ops"))]).locks_groups("partner")
    assert not OverrideSet([an_override("a", Lock(subject="ops"))]).locks_groups("corp")


def locked_policy(**locks: Any) -> Policy:
    return Policy([EVERYTHING], version="v").with_locks(TargetLocks(**locks))


@pytest.mark.parametrize("locks", [{"servers": {SERVER: "a"}}, {"projects": {PROJECT: "a"}}])
def test_lock_on_a_target_decides_before_grants(locks: dict[str, Any]) -> None:
    policy = locked_policy(**locks)
    with pytest.raises(NotPermitted, match="lock a"):
        policy.permit(ANN, a_call(), 1.0)
    with pytest.raises(NotPermitted, match="lock a") as rejected:
        policy.permit(ANN, ResolvedCall(LIST, PROJECT, (OTHER, SERVER)), 1.0)
    assert SERVER not in rejected.value.refused
    unnamed = ResolvedCall(a_call().operation, PROJECT, (), touches_unnamed=True)
    with pytest.raises(NotPermitted, match="lock a"):
        policy.permit(ANN, unnamed, 1.0)
    assert not policy.decide(ANN, "server:read", PROJECT, SERVER, 1.0).allowed
    assert not policy.scope(ANN, "server:read", PROJECT, 1.0).predicate(SERVER)


def test_list_leaves_out_a_locked_server() -> None:
    policy = locked_policy(servers={SERVER: "a"})
    scope = policy.permit(ANN, ResolvedCall(LIST, PROJECT, ()), 1.0).scope
    assert scope is not None
    assert (scope.allows(SERVER), scope.allows(OTHER), scope.total) == (False, True, False)


def test_locked_project_has_no_lists_and_no_lookups() -> None:
    policy = locked_policy(projects={PROJECT: "a"})
    assert policy.scope(ANN, "server:read", PROJECT, 1.0).rule is None
    with pytest.raises(NotPermitted, match="lock a"):
        policy.permit(ANN, ResolvedCall(LIST, PROJECT, ()), 1.0)
    assert policy.permit(ANN, ResolvedCall(LIST, ELSEWHERE, ()), 1.0).rule == EVERYTHING.ref


def test_policy_in_force_changes_with_policy_and_locks() -> None:
    locks, policies = NO_LOCKS, FakePolicies(Policy([EVERYTHING], version="v"))
    locked = LockedPolicies(policies, lambda: locks)
    assert locked.current() is policies.policy
    locks = TargetLocks(servers={SERVER: "a"})
    first = locked.current()
    assert first is not policies.policy
    assert locked.current() is first
    policies.policy = Policy([EVERYTHING], version="v2")
    assert locked.current().version == "v2"
    assert not locked.current().decide(ANN, "server:read", PROJECT, SERVER, 1.0).allowed
    locks = TargetLocks(servers={OTHER: "b"})
    assert locked.current().decide(ANN, "server:read", PROJECT, SERVER, 1.0).allowed
    locks = NO_LOCKS
    assert locked.current() is policies.policy


def test_waiting_request_of_a_locked_person_is_rejected(clock: FakeClock) -> None:
    locks: dict[str, str] = {}
    telemetry = RecordingTelemetry()
    signatures: Any = None
    rules: Any = {"corp": None}
    identify = Identify(
        revoked=lambda _: False,
        find_lock=lambda principal: locks.get(principal.subject),
        groups_required=lambda _: False,
        groups_missing=lambda _: None,
        signatures=signatures,
        rules=rules,
        clock=clock,
        telemetry=telemetry,
        tokens_max=3,
    )
    version = identify.revocations_version
    locks["ann"] = "a"
    identify.drop_revoked()
    assert identify.revocations_version != version
    with pytest.raises(PersonLocked, match="lock a") as rejected:
        identify.check(person())
    assert rejected.value.principal == person()
    assert telemetry.identifications == [("corp", "locked")]
