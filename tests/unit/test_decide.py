"""Stage decide: first decision, preliminary decision on instances, re-check."""

from math import inf
from typing import Any

import msgspec
import pytest

from gateway.domain.errors import NotAuthenticated, NotPermitted
from gateway.domain.model import InstanceId, Operation, ResolvedCall
from gateway.domain.policy.policy import Permit, Policy
from gateway.flow.decide import Decide, Lookup
from tests.support.clock import FakeClock
from tests.support.hit_world import grant
from tests.support.stages import (
    ANN,
    OTHER,
    PROJECT,
    READ,
    SERVER,
    FakeIdentify,
    FakeInventories,
    FakePolicies,
    a_call,
    a_grant,
)
from tests.support.telemetry import RecordingTelemetry

REINSTALL = Operation("Reinstall", "PUT", "/x", "instance:reinstall", writes=True)


class Scene:
    def __init__(self, clock: FakeClock, policies: FakePolicies) -> None:
        self.policies, self.telemetry = policies, RecordingTelemetry()
        identify: Any = FakeIdentify()
        self.identify = identify
        self.decide = Decide(
            policies=policies,
            inventories=FakeInventories(),
            identify=identify,
            clock=clock,
            telemetry=self.telemetry,
        )


@pytest.fixture
def scene(clock: FakeClock) -> Scene:
    return Scene(clock, FakePolicies(a_grant(SERVER)))


def an_instance_call() -> ResolvedCall:
    return ResolvedCall(REINSTALL, PROJECT, (), instances=(InstanceId("i-1"),))


def test_version_is_one_object_until_it_changes(scene: Scene, clock: FakeClock) -> None:
    since, until = clock.now() - 10, clock.now() + 10
    scene.policies.policy = Policy(
        [grant(users=["ann"], since=since, until=until)], version="timed"
    )
    first = scene.decide.version
    assert (first.since, first.until) == (since, until)
    assert scene.decide.version is first
    scene.identify.revocations_version += 1
    second = scene.decide.version
    assert second is not first
    assert not scene.decide.is_current(first)
    clock.step_wall(-20)  # the wall clock was set back to before the rule began
    assert not scene.decide.is_current(second)
    assert scene.decide.version.until == since


def test_decide_returns_permit_and_counts(scene: Scene) -> None:
    permit = scene.decide(ANN, a_call())
    assert (permit.principal, permit.policy_version) == (ANN, "v")
    assert scene.telemetry.decisions == [("server:read", True)]


def test_decide_rejects_other_server_and_counts(scene: Scene) -> None:
    with pytest.raises(NotPermitted):
        scene.decide(ANN, a_call(READ, OTHER))
    assert scene.telemetry.decisions == [("server:read", False)]


def test_first_decides_call_without_instances(scene: Scene) -> None:
    assert isinstance(scene.decide.first(ANN, a_call()), Permit)


def test_first_permits_lookup_of_instances(scene: Scene) -> None:
    scene.policies.policy = a_grant(SERVER, permission="instance:reinstall")
    lookup = scene.decide.first(ANN, an_instance_call())
    assert isinstance(lookup, Lookup)
    assert lookup.allows(SERVER)
    assert not lookup.allows(OTHER)
    assert scene.telemetry.decisions == [], "the call itself is not decided yet"


def test_first_rejects_lookup_without_any_grant(scene: Scene) -> None:
    with pytest.raises(NotPermitted):
        scene.decide.first(ANN, an_instance_call())
    assert scene.telemetry.decisions == [("instance:reinstall", False)]


def test_recheck_applies_the_policy_now_in_force(scene: Scene) -> None:
    scene.policies.policy = a_grant()
    with pytest.raises(NotPermitted):
        scene.decide.recheck(ANN, a_call())
    assert scene.telemetry.decisions == [], "a re-check is not a decision more"


def test_recheck_rejects_revoked_token(scene: Scene) -> None:
    assert scene.decide.recheck(ANN, a_call()).principal is ANN
    scene.identify.is_revoked = True
    with pytest.raises(NotAuthenticated):
        scene.decide.recheck(ANN, a_call())


def test_version_changes_with_policy_and_revocations(scene: Scene) -> None:
    version = scene.decide.version
    assert scene.decide.version == version
    scene.identify.revocations_version += 1
    assert scene.decide.version != version
    scene.identify.revocations_version -= 1
    scene.policies.policy = a_grant(SERVER)
    assert scene.decide.version != version


def test_version_follows_rules_that_begin_and_end(scene: Scene, clock: FakeClock) -> None:
    """Also if the wall clock is set back: the last version is not used again then."""
    (rule,) = a_grant(SERVER).rules
    now = clock.now()
    limited = msgspec.structs.replace(rule, valid_from=now + 10, valid_until=now + 20)
    scene.policies.policy = Policy([limited], version="v")
    ends = []
    for step in (0, 10, 5, 5, -10, -10):
        clock.step_wall(step)
        assert scene.decide.version is scene.decide.version
        ends.append(scene.decide.version.until - now)
    assert ends == [10, 20, 20, inf, 20, 10]
