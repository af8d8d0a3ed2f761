"""Steps of access requests over replicas: recorded first, stored once, gone when they must be."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import (
    AccessRequestConflict,
    AccessRequestForbidden,
    AccessRequestLimited,
    AccessRequestNotFound,
    AccessRequestsUnavailable,
    AuditLogUnavailable,
    BadRequest,
    GatewayError,
    NotAuthenticated,
)
from gateway.domain.model import RuleKind
from gateway.domain.policy.request_rules import Approvers
from gateway.domain.requests.model import AccessRequest
from gateway.flow.requests.request_telemetry import RequestStep
from tests.support.access_requests import (
    ANN,
    BREAK_GLASS,
    HOUR_S,
    LEA,
    LEO,
    NOW,
    OTHER_SERVER,
    SERVER,
    a_request_policy,
    a_request_rule,
    a_scope,
    an_access_request,
    changed,
    person,
)
from tests.support.clock import FakeClock
from tests.support.request_world import KEEP_S, RequestReplica, RequestWorld
from tests.support.snapshot_file import FakeSnapshotFile

EVE = person("eve", "staff")


@pytest.fixture
def world() -> RequestWorld:
    return RequestWorld(FakeClock(NOW))


@pytest.fixture
def here(world: RequestWorld) -> RequestReplica:
    return world.replica()


@pytest.fixture
def there(world: RequestWorld) -> RequestReplica:
    return world.replica()


def clock_of(replica: RequestReplica) -> FakeClock:
    clock = replica.world.clock
    assert isinstance(clock, FakeClock)
    return clock


async def test_request_and_approval_give_access_everywhere(
    here: RequestReplica, there: RequestReplica
) -> None:
    made = await here.make()
    assert not here.is_allowed()
    approved = await there.approve(made, LEA)
    assert approved.started_at == NOW
    assert there.is_allowed()
    await here.active.sync()
    assert here.is_allowed()
    assert here.world.audit_log.events == ["requested", "approved"]
    assert here.world.steps == [RequestStep.REQUESTED, RequestStep.APPROVED]
    await clock_of(here).advance(HOUR_S)
    assert not here.is_allowed()
    assert not there.is_allowed()


async def test_policy_is_another_object_when_a_grant_begins_and_ends(
    here: RequestReplica, there: RequestReplica
) -> None:
    before = here.policies.current()
    made = await here.make()
    assert here.policies.current() is before
    await here.approve(made, LEA)
    granted = here.policies.current()
    assert granted is not before
    assert here.policies.current() is granted
    await there.requests.end(made.id, LEA, there.context(), "")
    await here.active.sync()
    assert here.policies.current() is not granted
    assert not here.is_allowed()


async def test_record_is_durable_before_the_effect(here: RequestReplica) -> None:
    made = await here.make()
    stored: list[Any] = []
    audit_log = here.world.audit_log
    audit_log.before = lambda _: stored.append(here.world.store.stored(made.id).approvals)
    await here.approve(made, LEA)
    assert stored == [()]
    audit_log.is_unavailable = True
    with pytest.raises(AuditLogUnavailable):
        await here.make(EVE)
    with pytest.raises(AuditLogUnavailable):
        await here.requests.end(made.id, LEA, here.context(), "")
    assert here.is_allowed()
    assert len(here.active) == 1


async def test_record_says_what_was_approved(here: RequestReplica) -> None:
    made = await here.make(ticket="OPS-7")
    await here.approve(made, LEA)
    record = here.world.audit_log.records[-1]
    assert (record.subject, record.target, record.rule) == (
        "lea",
        "corp:ann",
        f"request:{made.id}",
    )
    assert record.servers == (SERVER,)
    for text in (made.content_hash, "OPS-7", "a disk is replaced", '"begins":true'):
        assert text in record.detail


async def test_two_approvers_at_once_begin_the_access_once(
    here: RequestReplica, there: RequestReplica
) -> None:
    made = await here.make()
    await there.active.sync()
    await here.approve(made, LEA)
    with pytest.raises(AccessRequestConflict, match="is active"):
        await there.approve(made, LEO)
    assert here.world.store.stored(made.id).version == 2
    assert [one.by.subject for one in here.world.store.stored(made.id).approvals] == ["lea"]
    assert here.world.audit_log.events[-1] != "denied"


async def test_second_approver_is_needed_where_the_rule_says_two(
    here: RequestReplica, there: RequestReplica
) -> None:
    here.world.policy = a_request_policy(a_request_rule(approvals=2))
    made = await here.make()
    await here.approve(made, LEA)
    assert not here.is_allowed()
    with pytest.raises(AccessRequestConflict, match="another person"):
        await here.approve(made, LEA)
    await there.active.sync()
    await there.approve(made, LEO)
    assert there.is_allowed()


async def test_request_changed_between_two_approvals_starts_over(here: RequestReplica) -> None:
    here.world.policy = a_request_policy(a_request_rule(approvals=2))
    made = await here.make()
    once = await here.approve(made, LEA)
    longer = changed(once, version=once.version + 1, duration_s=4 * HOUR_S)
    here.world.store.set(longer)  # as only a defect could: the seal keeps others from it
    await here.active.sync()
    with pytest.raises(AccessRequestConflict, match="hash"):
        await here.approve(made, LEO)
    twice = await here.approve(longer, LEO)
    assert twice.started_at is None
    assert not here.is_allowed()


async def test_approver_without_the_group_cannot_approve(here: RequestReplica) -> None:
    made = await here.make()
    with pytest.raises(AccessRequestNotFound):
        await here.approve(made, person("lea"))
    assert here.world.audit_log.events == ["requested"]


@pytest.mark.parametrize(
    ("requester_claim", "approver_claim", "is_allowed"),
    [
        ("ann@example.com", "lea@example.com", True),
        ("ann@example.com", "ANN@example.com", False),
        ("", "lea@example.com", False),
        ("ann@example.com", "", False),
    ],
)
async def test_approver_of_a_second_issuer_must_be_another_person(
    world: RequestWorld, requester_claim: str, approver_claim: str, *, is_allowed: bool
) -> None:
    rule = a_request_rule(approvers=Approvers("partner", frozenset(), frozenset({"leads"})))
    world.policy = a_request_policy(rule)
    here, there = world.replica(), world.replica()
    made = await here.make(person("ann", "staff", claim=requester_claim))
    approver = person("lea", "leads", issuer="partner", claim=approver_claim)
    if is_allowed:
        assert (await there.approve(made, approver)).state(world.clock.now()) == "active"
    else:
        with pytest.raises((AccessRequestForbidden, AccessRequestNotFound)):
            await there.approve(made, approver)
    with pytest.raises((AccessRequestForbidden, AccessRequestNotFound)):
        await here.approve(made, person("leo", "leads", claim="leo@example.com"))
    await here.active.sync()
    assert here.is_allowed(person("ann", "staff")) is is_allowed


async def test_rule_removed_after_the_approval_ends_the_access(here: RequestReplica) -> None:
    made = await here.make()
    await here.approve(made, LEA)
    allowed = here.policies.current()
    here.world.policy = a_request_policy()
    assert not here.is_allowed()
    assert here.policies.current() is not allowed
    here.world.policy = a_request_policy(a_request_rule())
    assert here.is_allowed()


async def test_rule_removed_while_the_record_is_written(here: RequestReplica) -> None:
    made = await here.make()

    def remove(record: AuditRecord) -> None:
        if record.event.endswith("approved"):
            here.world.policy = a_request_policy()

    here.world.audit_log.before = remove
    with pytest.raises(AccessRequestNotFound):
        await here.approve(made, LEA)
    assert here.world.audit_log.events == ["requested", "approved", "failed"]
    here.world.policy = a_request_policy(a_request_rule())
    assert not here.is_allowed()


async def test_approver_revoked_while_the_record_is_written(here: RequestReplica) -> None:
    made = await here.make()
    here.world.audit_log.before = lambda _: here.world.refused.add("lea")
    with pytest.raises(NotAuthenticated):
        await here.approve(made, LEA)
    assert here.world.audit_log.events == ["requested", "approved", "failed"]
    assert not here.is_allowed()


@pytest.mark.parametrize("step", ["deny", "withdraw", "end"])
async def test_older_state_put_back_gives_nothing(here: RequestReplica, step: str) -> None:
    made = await here.make()
    if step == "end":
        await here.approve(made, LEA)
    older = here.world.store.requests[made.id]
    by = ANN if step == "withdraw" else LEA
    close: Callable[..., Awaitable[object]] = getattr(here.requests, step)
    await close(made.id, by, here.context(), "no longer needed")
    assert not here.is_allowed()

    here.world.store.lose_data()
    here.world.store.set(made, older)
    fresh = here.world.replica()
    await fresh.active.sync()
    assert not fresh.is_allowed()
    with pytest.raises(AccessRequestConflict):
        await fresh.approve(made, LEO)
    assert not fresh.is_allowed()
    (listed,) = fresh.requests.all()
    assert not listed.is_open(NOW)

    await here.active.sync()  # a replica that knows better writes the later state again
    assert here.world.store.stored(made.id).closing is not None


async def test_ends_that_are_not_loaded_give_no_access(here: RequestReplica) -> None:
    made = await here.make()
    await here.approve(made, LEA)
    here.world.ends.is_loaded = False
    assert not here.is_allowed()
    with pytest.raises(AccessRequestsUnavailable):
        await here.make(EVE)
    with pytest.raises(AccessRequestsUnavailable):
        await here.approve(made, LEO)


async def test_unavailable_redis_stops_new_access_only(
    here: RequestReplica, there: RequestReplica
) -> None:
    made = await here.make()
    await here.approve(made, LEA)
    pending = await here.make(EVE)
    await there.active.sync()
    here.world.store.is_unavailable = True
    assert here.is_allowed()
    for step in (here.make(person("bob", "staff")), here.approve(pending, LEA)):
        with pytest.raises(AccessRequestsUnavailable):
            await step
    assert here.world.audit_log.events[-1] == "failed"
    assert not here.is_allowed(EVE)

    await here.requests.end(made.id, LEA, here.context(), "")
    await here.requests.deny(pending.id, LEA, here.context(), "")
    assert not here.is_allowed()
    assert not there.is_allowed()  # the override reaches all when it can
    here.world.store.is_unavailable = False
    await here.active.sync()
    await there.active.sync()
    assert here.world.store.stored(made.id).closing is not None
    assert there.requests.as_known(pending).state(NOW) != "pending"


async def test_lost_redis_is_restored_by_replicas_and_file(world: RequestWorld) -> None:
    file = FakeSnapshotFile()
    here = world.replica(file)
    made = await here.make()
    await here.approve(made, LEA)
    world.store.lose_data()
    await here.active.sync()
    assert world.store.stored(made.id).started_at == NOW

    file.text = here.active._encode_snapshot((), here.active.all)
    world.store.is_unavailable = True
    fresh = world.replica(file)
    assert fresh.is_allowed()
    assert world.replica(FakeSnapshotFile(b"damaged")).active.all == []


async def test_unreadable_copy_is_replaced_by_a_replica_that_knows(
    here: RequestReplica,
) -> None:
    made = await here.make()
    here.world.store.set(made, b"forged")
    await here.active.sync()
    assert here.world.store.stored(made.id) == made
    here.world.store.set(made, b"forged")
    fresh = here.world.replica()
    await fresh.active.sync()
    assert len(fresh.active) == 0


async def test_finished_request_is_forgotten_after_its_time(here: RequestReplica) -> None:
    made = await here.make()
    await here.approve(made, LEA)
    clock = clock_of(here)
    await clock.advance(KEEP_S)
    await here.active.sync()
    assert len(here.active) == 1
    await clock.advance(KEEP_S)
    await here.active.sync()
    assert len(here.active) == 0
    assert here.world.store.requests == {}


async def test_approval_after_expiry_is_refused(here: RequestReplica) -> None:
    made = await here.make()
    await clock_of(here).advance(86_400.0)
    with pytest.raises(AccessRequestConflict, match="is expired"):
        await here.approve(made, LEA)


async def test_denial_at_the_same_time_as_an_approval_wins(
    here: RequestReplica, there: RequestReplica
) -> None:
    made = await here.make()
    await there.active.sync()
    await there.requests.deny(made.id, LEO, there.context(), "no")
    with pytest.raises(AccessRequestConflict):
        await here.approve(made, LEA)
    assert not here.is_allowed()
    await here.active.sync()
    assert here.active.find(made.id) == here.world.store.stored(made.id)


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"reason": "x" * 10_240}, BadRequest, "at most 2000 characters"),
        ({"reason": "  \n"}, BadRequest, "say why"),
        ({"reason": "a\x00b"}, BadRequest, "plain text"),
        ({"reason": "a\ud800"}, BadRequest, "plain text"),
        ({"ticket": "a b"}, BadRequest, "`ticket`"),
        ({"ticket": "x" * 65}, BadRequest, "`ticket`"),
        ({"servers": ()}, BadRequest, "1 to 20"),
        ({"servers": (SERVER,) * 21}, BadRequest, "1 to 20"),
        ({"duration_s": 59.0}, BadRequest, "at least 60"),
        ({"duration_s": 4 * HOUR_S + 1}, BadRequest, "at most 14400"),
        ({"role": "root"}, AccessRequestForbidden, "No rule"),
        ({"rule": "other"}, AccessRequestForbidden, "No rule"),
        ({"break_glass": True}, AccessRequestForbidden, "by break-glass"),
        ({"project": "f" * 32}, AccessRequestForbidden, "these servers"),
    ],
)
async def test_bad_request_is_refused_before_anything_is_stored(
    here: RequestReplica, more: dict[str, Any], error: type[GatewayError], text: str
) -> None:
    with pytest.raises(error, match=text):
        await here.make(**more)
    assert here.world.audit_log.events == []
    assert here.world.store.requests == {}


async def test_reason_of_html_is_stored_as_it_is(here: RequestReplica) -> None:
    text = '<script>alert("x")</script>\n<b>& \u202edisk'
    made = await here.make(reason=text)
    assert made.reason == text
    assert here.world.store.stored(made.id).reason == text


async def test_person_without_a_rule_may_not_request(here: RequestReplica) -> None:
    with pytest.raises(AccessRequestForbidden):
        await here.make(person("bob"))
    assert here.requests.rules_for(person("bob")) == []
    assert [one.name for one in here.requests.rules_for(ANN)] == ["op"]


async def test_several_rules_require_the_name_of_one(here: RequestReplica) -> None:
    here.world.policy = a_request_policy(
        a_request_rule(), a_request_rule(name="two", approvals=2, ticket_required=True)
    )
    with pytest.raises(BadRequest, match="as `rule`: op, two"):
        await here.make(ticket="T-1")
    assert (await here.make(ticket="T-1", rule="two")).rule == "two"
    assert (await here.make(servers=(OTHER_SERVER,))).rule == "op"
    here.world.policy = a_request_policy(a_request_rule(ticket_required=True))
    with pytest.raises(BadRequest, match="`ticket` is required"):
        await here.make(EVE)


async def test_pending_requests_are_limited(here: RequestReplica) -> None:
    await here.make()
    with pytest.raises(AccessRequestConflict, match="pending request for one of these"):
        await here.make()
    for i in range(2):
        await here.make(servers=(f"{i:08x}-0000-4000-8000-000000000000",))
    with pytest.raises(AccessRequestLimited, match="as many as you may"):
        await here.make(servers=(OTHER_SERVER,))
    await here.make(EVE)


async def test_limit_applies_over_replicas_at_once(
    here: RequestReplica, there: RequestReplica
) -> None:
    made = await there.make(EVE)
    await here.active.sync()
    first = await there.make()
    here.world.store.before_put = lambda: here.world.store.set(made)
    with pytest.raises(AccessRequestConflict):
        await here.make()
    assert set(here.world.store.requests) == {made.id, first.id}


async def test_one_person_does_not_fill_the_store(world: RequestWorld) -> None:
    """By requests that are withdrawn at once; break-glass stays possible, also for that person."""
    world.policy = a_request_policy(a_request_rule(break_glass=BREAK_GLASS))
    here = world.replica(stored_max=16)
    for _ in range(4):
        made = await here.make()
        await here.requests.withdraw(made.id, ANN, here.context(), "")
    with pytest.raises(AccessRequestLimited, match="4 requests that are still listed"):
        await here.make()
    await here.make(break_glass=True)
    await here.make(EVE)


async def test_full_store_takes_no_more(world: RequestWorld) -> None:
    here = world.replica(stored_max=1)
    await here.make()
    with pytest.raises(AccessRequestLimited, match="as many access requests"):
        await here.make(EVE)
    assert world.audit_log.events == ["requested", "requested", "failed"]


async def test_request_is_visible_to_requester_and_approvers_only(here: RequestReplica) -> None:
    made = await here.make()
    for one in (ANN, LEA):
        assert (await here.requests.find(made.id, one)).id == made.id
    for one in (EVE, person("ann", "staff", issuer="other")):
        with pytest.raises(AccessRequestNotFound):
            await here.requests.find(made.id, one)
    await here.requests.deny(made.id, LEA, here.context(), "no")
    here.world.policy = a_request_policy()
    assert (await here.requests.find(made.id, LEA)).id == made.id
    with pytest.raises(AccessRequestNotFound):
        await here.requests.find(made.id, LEO)


@pytest.fixture
def glass(here: RequestReplica) -> RequestReplica:
    here.world.policy = a_request_policy(a_request_rule(break_glass=BREAK_GLASS))
    return here


async def test_break_glass_begins_at_once_after_its_record(glass: RequestReplica) -> None:
    seen: list[bool] = []
    glass.world.audit_log.before = lambda _: seen.append(glass.is_allowed())
    used = await glass.make(break_glass=True)
    assert seen == [False]
    assert used.broken_glass
    assert glass.is_allowed()
    assert glass.world.audit_log.events == ["break_glass"]
    assert glass.world.steps == [RequestStep.BREAK_GLASS]


async def test_break_glass_is_one_at_a_time_and_n_a_day(
    glass: RequestReplica, there: RequestReplica
) -> None:
    first = await glass.make(break_glass=True)
    with pytest.raises(AccessRequestConflict, match="one at a time"):
        await there.make(break_glass=True)
    await glass.requests.end(first.id, ANN, glass.context(), "")
    second = await there.make(break_glass=True)
    await there.requests.end(second.id, LEA, there.context(), "")
    await glass.active.sync()
    with pytest.raises(AccessRequestLimited, match="2 times in 24 hours") as limited:
        await glass.make(break_glass=True)
    assert limited.value.retry_after_s == 86_400.0
    await clock_of(glass).advance(86_401.0)
    await glass.make(break_glass=True)


async def test_break_glass_twice_at_once_is_one(
    glass: RequestReplica, there: RequestReplica
) -> None:
    await glass.active.sync()
    other = await there.make(break_glass=True)
    with pytest.raises(AccessRequestConflict, match="one at a time"):
        await glass.make(break_glass=True)
    assert set(glass.world.store.requests) == {other.id}


async def test_break_glass_that_a_sync_brings_while_the_record_is_written_counts(
    glass: RequestReplica, there: RequestReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync also brings the version at which the request would be stored."""
    log, used = glass.world.audit_log, list[AccessRequest]()
    record = log.record

    async def record_slowly(one: AuditRecord) -> None:
        monkeypatch.setattr(log, "record", record)
        used.append(await there.make(break_glass=True))
        await glass.active.sync()
        await record(one)

    monkeypatch.setattr(log, "record", record_slowly)
    with pytest.raises(AccessRequestConflict, match="one at a time"):
        await glass.make(break_glass=True)
    assert glass.world.store.requests.keys() == {one.id for one in used}
    assert log.events == ["break_glass", "break_glass", "failed"]


async def test_break_glass_twice_at_once_is_one_in_an_empty_store(glass: RequestReplica) -> None:
    used = an_access_request(id="f" * 32, broken_glass=True, started_at=NOW)
    glass.world.store.before_put = lambda: glass.world.store.set(used)
    with pytest.raises(AccessRequestConflict, match="one at a time"):
        await glass.make(break_glass=True)
    assert glass.world.store.requests.keys() == {used.id}


async def test_break_glass_needs_a_reason_and_redis(glass: RequestReplica) -> None:
    with pytest.raises(BadRequest, match="at least 10 characters"):
        await glass.make(break_glass=True, reason="fire     !         "[:9])
    glass.world.store.is_unavailable = True
    with pytest.raises(AccessRequestsUnavailable):
        await glass.make(break_glass=True)
    assert not glass.is_allowed()


async def test_denial_wins_over_break_glass(glass: RequestReplica) -> None:
    await glass.make(break_glass=True)
    denial = a_scope(ref=changed(a_scope().ref, kind=RuleKind.DENIAL), groups=frozenset({"staff"}))
    rule = a_request_rule(break_glass=BREAK_GLASS)
    glass.world.policy = a_request_policy(rule, rules=(denial,))
    assert not glass.is_allowed()


async def test_administrator_ends_any_open_request(here: RequestReplica) -> None:
    made = await here.make()
    await here.approve(made, LEA)
    by = changed(made.requester, issuer="certificate", subject="ada")
    assert await here.requests.end_as_administrator(made.id, by, "incident")
    assert not here.is_allowed()
    with pytest.raises(BadRequest):
        await here.requests.end_as_administrator(made.id, by, "")
