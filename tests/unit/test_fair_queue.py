"""The queue in memory and the queue in Redis return the same for the same input."""

import random
from dataclasses import astuple, replace
from typing import Any

import pytest

from gateway.domain.model import Priority, QueueRequest
from gateway.domain.queue.adaptation import bare_pause_s
from gateway.domain.queue.fair_queue import (
    BatchResult,
    BudgetLimit,
    FairQueue,
    QueueBatch,
    QueueEntry,
    QueueState,
    SharedEntry,
    Throttling,
    weight_of,
    without_burst,
)
from gateway.domain.queue.pacing import Pace
from gateway.drivers.valkey import fair_queue
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.flow.shared_queue import QueueUpdate
from tests.support.clock import FakeClock
from tests.support.lua_redis import LuaServer

LOOK_AHEAD_S = 0.02
"""The driver's look-ahead for a round trip of no duration."""


class Pair:
    """Both queues with the same input."""

    def __init__(self, clock: FakeClock, limit: BudgetLimit) -> None:
        self.clock = clock
        server: Any = LuaServer(clock)
        self.shared = ValkeyFairQueue(server, "q", account="a", limit=limit, clock=clock)
        start = QueueState(
            without_burst(limit, clock.monotonic(), used=0), paused_until=clock.monotonic()
        )
        self.own = FairQueue(limit, start)
        self.state = QueueState(tats=())

    async def apply(self, batch: QueueBatch) -> BatchResult:
        own = self.own.apply(self.clock.monotonic(), batch, look_ahead_s=LOOK_AHEAD_S)
        shared = await self.shared.apply(batch, self.state)
        self.state = shared.state
        assert shared.granted == pytest.approx(own.granted, abs=1e-4)
        assert shared.refused == pytest.approx(own.refused, abs=1e-4)
        assert shared.tags == pytest.approx(own.tags)
        assert shared.inherited == own.inherited
        assert shared.waiting == own.waiting
        assert shared.next_at == pytest.approx(own.next_at, abs=1e-4)
        assert shared.state.tats == pytest.approx(own.state.tats, abs=1e-4)
        assert shared.state.virtual_time == pytest.approx(own.state.virtual_time)
        assert (shared.state.learned is None) == (own.state.learned is None)
        if shared.state.learned is not None and own.state.learned is not None:
            learned = astuple(shared.state.learned)
            assert learned == pytest.approx(astuple(own.state.learned), abs=1e-4)
        return shared


CALLERS = ["greedy"] * 5 + [f"caller-{i}" for i in range(6)]


def a_queue_request(caller: str, priority: Priority) -> QueueRequest:
    return QueueRequest(caller, {"caller-0": 3.0, "caller-1": 0.5}.get(caller, 1.0), priority)


def a_turn(chance: random.Random, queue: ValkeyFairQueue, known: list[QueueEntry]) -> QueueBatch:
    entering = []
    for _ in range(chance.choice([0, 0, 1, 1, 2, 8])):
        priority = chance.choices(list(Priority), [8, 3, 1])[0]
        request = a_queue_request(chance.choice(CALLERS), priority)
        tag = chance.choice([None] * 9 + [0.0])
        entering.append(QueueEntry(queue.new_id(), request, chance.uniform(0.0, 6.0), tag))
    leaving = [one for one in known if chance.random() < 0.05]
    again = [one for one in known if one not in leaving and chance.random() < 0.2]
    throttlings = [
        Throttling(chance.choice([0.3, 1.0, 3.0]), chance.choice([None, None, 4.0, 50.0]))
        for _ in range(chance.random() < 0.03)
    ]
    known.extend(one for one in entering if one.request.priority is not Priority.SPARE)
    shared = [
        SharedEntry(one, [a_queue_request(caller, one.request.priority) for caller in others])
        for one in known
        if chance.random() < 0.2 and (others := {*chance.choices(CALLERS, k=chance.randrange(4))})
    ]
    return QueueBatch(leaving, throttlings, [*again, *entering], shared)


@pytest.mark.parametrize("seed", range(60))
async def test_redis_queue_equals_memory_queue(
    clock: FakeClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue._ServerClock, "_DRIFT", 0.0)  # one clock for both
    chance = random.Random(seed)
    windows = [Pace(10, 1, 5), Pace(200, 60, 30)][: 1 + seed % 2]
    pair = Pair(clock, BudgetLimit(tuple(windows), queue_max=20, caller_max=8))
    await pair.shared.apply(QueueBatch(), pair.state)  # compares clocks
    await pair.apply(QueueBatch())  # both begin now
    known: list[QueueEntry] = []
    moved = 0
    for _ in range(150):
        await clock.advance(
            chance.choice([0.0, 0.0, chance.uniform(0, 0.1), chance.uniform(0, 0.6)])
        )
        batch = a_turn(chance, pair.shared, known)
        outcome = await pair.apply(batch)
        gone = outcome.granted.keys() | outcome.refused.keys() | {one.id for one in batch.leaving}
        known = [
            replace(one, request=outcome.inherited.get(one.id, one.request))
            for one in known
            if one.id not in gone
        ]
        moved += len(outcome.inherited)
    assert moved > 20


@pytest.mark.parametrize("seed", range(6))
async def test_redis_queue_learns_like_memory_queue(
    clock: FakeClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers always wait; a bucket of 4/s under a ceiling of 10/s answers with bare 429s."""
    monkeypatch.setattr(fair_queue._ServerClock, "_DRIFT", 0.0)
    burst = [1.0, 3.0, 12.0][seed % 3]
    pair = Pair(clock, BudgetLimit((Pace(10, 1, 5),), queue_max=20, caller_max=20))
    await pair.shared.apply(QueueBatch(), pair.state)
    await pair.apply(QueueBatch())
    chance, level, goals = random.Random(seed), burst, set[float]()
    throttlings: list[Throttling] = []
    waiting: set[str] = set()
    for _ in range(1_500):
        step_s = chance.uniform(0.02, 0.08)
        await clock.advance(step_s)
        level = min(burst, level + 4.0 * step_s)
        entering = [an_entry(pair.shared, f"caller-{i}") for i in range(8 - len(waiting))]
        waiting |= {one.id for one in entering}
        outcome = await pair.apply(QueueBatch(throttlings=throttlings, entering=entering))
        waiting -= outcome.granted.keys()
        throttlings = []
        for _ in outcome.granted:
            if level >= 1.0:
                level -= 1.0
            else:
                pause_s = bare_pause_s(pair.state.learned, clock.monotonic())
                throttlings.append(Throttling(pause_s, None))
        if pair.state.learned is not None:
            goals.add(pair.state.learned.goal)
    assert len(goals) >= 4
    assert pair.state.learned is not None
    assert pair.state.learned.goal == pytest.approx(4.0, rel=0.25)


def test_weight_is_that_of_heaviest_group() -> None:
    weights = {"oncall": 4.0, "ci": 0.25}
    assert weight_of(["staff", "oncall", "ci"], weights) == 4.0
    assert weight_of(["ci", "staff"], weights) == 0.25
    assert weight_of(["staff"], weights) == weight_of([], weights) == 1.0


def an_entry(queue: ValkeyFairQueue, caller: str = "ann", timeout_s: float = 60.0) -> QueueEntry:
    return QueueEntry(queue.new_id(), QueueRequest(caller), timeout_s)


def two_replicas(
    clock: FakeClock, server: LuaServer | None = None
) -> tuple[ValkeyFairQueue, ValkeyFairQueue]:
    server: Any = server or LuaServer(clock)
    limit = BudgetLimit((Pace(10, 1, 1),), queue_max=100, caller_max=100)
    return (
        ValkeyFairQueue(server, "q", account="a", limit=limit, clock=clock),
        ValkeyFairQueue(server, "q", account="a", limit=limit, clock=clock),
    )


async def test_slot_is_not_granted_to_dead_replica(clock: FakeClock) -> None:
    gone, here = two_replicas(clock)
    nothing = QueueState(tats=())
    await gone.apply(QueueBatch(), nothing)
    await here.apply(QueueBatch(entering=[an_entry(here)]), nothing)  # the first slot is taken
    await clock.advance(0.001)
    await gone.apply(QueueBatch(entering=[an_entry(gone, "bob") for _ in range(5)]), nothing)
    await clock.advance(1.6)
    mine = an_entry(here, "eve")
    outcome = await here.apply(QueueBatch(entering=[mine]), nothing)
    assert list(outcome.granted) == [mine.id]
    await clock.advance(0.2)
    outcome = await here.apply(QueueBatch(), nothing)
    assert (outcome.granted, outcome.waiting) == ({}, 0)


@pytest.mark.parametrize("set_back_s", [0.0, 3600.0])
async def test_absent_replicas_keep_their_share(clock: FakeClock, set_back_s: float) -> None:
    server = LuaServer(clock)
    first, second = two_replicas(clock, server)
    nothing = QueueState(tats=())
    for queue in (first, second):
        await queue.apply(QueueBatch(), nothing)
        queue.rejoin(2)
    await clock.advance(0.001)
    await first.apply(QueueBatch(), nothing)
    server.ahead_s = -set_back_s

    async def slots(count: int) -> float:
        """Return the time between two slots of the first replica."""
        entries = [an_entry(first, f"caller-{i}") for i in range(count)]
        granted: list[float] = []
        outcome = await first.apply(QueueBatch(entering=entries), nothing)
        for _ in range(400):
            granted += outcome.granted.values()
            if len(granted) == count:
                break
            await clock.advance(0.01)
            outcome = await first.apply(QueueBatch(), nothing)
        return (granted[-1] - granted[0]) / (count - 1)

    assert await slots(4) == pytest.approx(0.2, abs=0.01)
    await second.apply(QueueBatch(), nothing)
    await first.apply(QueueBatch(), nothing)
    assert await slots(4) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_update_before_clock_comparison_is_ignored(clock: FakeClock, step_s: float) -> None:
    server = LuaServer(clock)
    one, two = two_replicas(clock, server)
    received: list[QueueUpdate] = []
    one.on_update(received.append)
    nothing = QueueState(tats=())
    for queue in (one, two):
        await queue.apply(QueueBatch(), nothing)
    await two.apply(QueueBatch(throttlings=[Throttling(2.0, None)]), nothing)
    assert [update.paused_until for update in received] == pytest.approx([clock.monotonic() + 2.0])
    server.ahead_s = step_s
    await two.apply(QueueBatch(throttlings=[Throttling(3.0, None)]), nothing)
    assert len(received) == 1
    outcome = await one.apply(QueueBatch(), nothing)
    assert outcome.state.paused_until == pytest.approx(clock.monotonic() + 3.0)
    await two.apply(QueueBatch(throttlings=[Throttling(4.0, None)]), nothing)
    assert received[-1].paused_until == pytest.approx(clock.monotonic() + 4.0)


async def test_server_clock_set_back_changes_nothing(clock: FakeClock) -> None:
    server = LuaServer(clock)
    one, two = two_replicas(clock, server)
    nothing = QueueState(tats=())
    await one.apply(QueueBatch(), nothing)
    before = (await two.apply(QueueBatch(throttlings=[Throttling(1.5, None)]), nothing)).state
    server.ahead_s = -3600.0
    after = (await two.apply(QueueBatch(), nothing)).state
    assert after.tats == pytest.approx(before.tats)
    assert after.paused_until == pytest.approx(before.paused_until)
    assert before.learned is not None
    assert after.learned is not None
    assert astuple(after.learned) == pytest.approx(astuple(before.learned))
    await clock.advance(1.6)
    mine = [an_entry(two, f"caller-{i}") for i in range(3)]
    outcome = await two.apply(QueueBatch(entering=mine), nothing)
    assert len(outcome.granted) == 1
    assert outcome.next_at == pytest.approx(clock.monotonic() + 0.1 / 0.9 - 0.02, abs=0.01)


class SharedCalls:
    """A queue with nine calls of "greedy", which other callers may share."""

    def __init__(self, clock: FakeClock, *, caller_max: int = 100) -> None:
        self.clock = clock
        self.pair = Pair(
            clock, BudgetLimit((Pace(10, 1, 1),), queue_max=100, caller_max=caller_max)
        )
        self.calls: list[QueueEntry] = []

    async def begin(self) -> None:
        await self.pair.shared.apply(QueueBatch(), self.pair.state)  # compares clocks
        await self.pair.apply(QueueBatch())
        await self.enter("greedy", "greedy")
        assert await self.order()  # virtual time has begun
        self.calls = await self.enter(*["greedy"] * 10)

    async def enter(self, *callers: str) -> list[QueueEntry]:
        entries = [an_entry(self.pair.shared, caller) for caller in callers]
        self.outcome = await self.pair.apply(QueueBatch(entering=entries))
        return [entry for entry in entries if entry.id not in self.outcome.granted]

    async def wait(self, entry: QueueEntry, *callers: str) -> BatchResult:
        """Make exactly these callers wait for a call."""
        waiters = [QueueRequest(caller) for caller in callers]
        return await self.pair.apply(QueueBatch(shared=[SharedEntry(entry, waiters)]))

    async def order(self) -> list[str]:
        """Grant all calls and return their order."""
        gone: list[str] = []
        for _ in range(90):
            await self.clock.advance(0.013)
            gone += (await self.pair.apply(QueueBatch())).granted
        return gone


@pytest.fixture
async def shared(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> SharedCalls:
    monkeypatch.setattr(fair_queue._ServerClock, "_DRIFT", 0.0)
    made = SharedCalls(clock)
    await made.begin()
    return made


async def test_shared_call_inherits_best_place(
    shared: SharedCalls,
) -> None:
    *others, last = shared.calls
    outcome = await shared.wait(last, "greedy", "ann")
    assert outcome.inherited == {last.id: QueueRequest("ann")}
    assert outcome.waiting == len(shared.calls), "one place per call"
    assert await shared.order() == [last.id, *(one.id for one in others)]


async def test_donor_of_inherited_place_is_charged(shared: SharedCalls) -> None:
    last, now = shared.calls[-1], shared.pair.state.virtual_time
    outcome = await shared.wait(last, "greedy", "ann")
    assert outcome.tags == {last.id: now}
    anns, greedys = await shared.enter("ann", "greedy")
    assert shared.outcome.tags == {anns.id: now + 1, greedys.id: now + 9}


async def test_worse_place_is_not_inherited(shared: SharedCalls) -> None:
    first = shared.calls[0]
    await shared.enter("ann", "ann")
    assert (await shared.wait(first, "greedy", "ann")).inherited == {}
    outcome = await shared.wait(shared.calls[-1], "greedy", "ann", "bob")
    assert outcome.inherited == {shared.calls[-1].id: QueueRequest("bob")}, "the best of three"


async def test_leaving_waiter_removes_its_place(shared: SharedCalls) -> None:
    *others, last = shared.calls
    await shared.wait(last, "greedy", "ann")
    inherited = replace(last, request=QueueRequest("ann"))
    now = shared.pair.state.virtual_time
    assert (await shared.wait(inherited, "greedy")).inherited == {last.id: QueueRequest("greedy")}
    (anns,) = await shared.enter("ann")
    assert shared.outcome.tags == {anns.id: now}, "a caller that left is not charged"
    assert await shared.order() == [anns.id, *(one.id for one in others), last.id]


async def test_granted_call_keeps_its_slot(shared: SharedCalls) -> None:
    assert len(await shared.order()) == len(shared.calls)
    outcome = await shared.wait(shared.calls[-1], "ann")
    assert (outcome.inherited, outcome.waiting) == ({}, 0)


async def test_call_at_head_stays_when_payer_leaves(
    shared: SharedCalls,
) -> None:
    head = replace(an_entry(shared.pair.shared, "greedy"), tag=0.0)
    waiting = SharedEntry(head, [QueueRequest("ann")])
    outcome = await shared.pair.apply(QueueBatch(entering=[head], shared=[waiting]))
    assert (outcome.inherited, outcome.tags) == ({}, {head.id: 0.0})


async def test_caller_at_maximum_donates_no_place(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue._ServerClock, "_DRIFT", 0.0)
    shared = SharedCalls(clock, caller_max=10)
    await shared.begin()
    anns, *_ = await shared.enter("ann", "greedy", "greedy")
    assert len(shared.outcome.refused) == 1, "greedy has as many as one may have"
    outcome = await shared.wait(anns, "greedy")
    assert list(outcome.refused) == [anns.id], "ann left, and greedy is at its maximum"
    (again,) = await shared.enter("ann")
    assert shared.outcome.tags == {again.id: shared.pair.state.virtual_time}
