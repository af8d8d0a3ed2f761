"""The queue in memory and the queue in Redis are one: told the same, they say the same."""

import random
from typing import Any

import pytest

from gateway.drivers.valkey import fair_queue
from gateway.drivers.valkey.connection import Script
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.model import Demand, Priority
from gateway.rules.fair_queue import (
    Entry,
    FairQueue,
    Hurt,
    Limit,
    Outcome,
    State,
    Turn,
    weight_of,
    without_burst,
)
from gateway.rules.pacing import Pace
from tests.support.clock import FakeClock
from tests.support.lua_redis import LuaRedis

LOOK_AHEAD_S = 0.02
"""The driver's, when a round trip takes no time."""


class Server:
    """The way to a server that is always there and answers at once."""

    available = True
    processes = 1
    channel = "wake"

    def __init__(self, clock: FakeClock) -> None:
        self.redis = LuaRedis(lambda: round(clock.monotonic() * 1e6), self._publish)
        self.heard: list[Any] = []

    def key(self, *parts: str, tag: str) -> str:
        return ":".join((tag, *parts))

    def when_message_comes(self, call: Any) -> None:
        self.heard.append(call)

    def when_available_changes(self, call: Any) -> None:
        pass

    async def run_script(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        return self.redis.run(script.text, keys, args)

    def _publish(self, channel: bytes, message: bytes) -> None:
        for call in self.heard:
            call(message)


class Pair:
    """Both queues, told the same."""

    def __init__(self, clock: FakeClock, limit: Limit) -> None:
        self.clock = clock
        server: Any = Server(clock)
        self.shared = ValkeyFairQueue(server, "q", account="a", limit=limit, clock=clock)
        start = State(
            without_burst(limit, clock.monotonic(), used=0), paused_until=clock.monotonic()
        )
        self.own = FairQueue(limit, start)
        self.state = State(tats=())

    async def turn(self, turn: Turn) -> Outcome:
        own = self.own.turn(self.clock.monotonic(), turn, look_ahead_s=LOOK_AHEAD_S)
        shared = await self.shared.turn(turn, self.state)
        self.state = shared.state
        assert shared.granted == pytest.approx(own.granted, abs=1e-4)
        assert shared.refused == pytest.approx(own.refused, abs=1e-4)
        assert shared.tags == pytest.approx(own.tags)
        assert shared.waiting == own.waiting
        assert shared.next_at == pytest.approx(own.next_at, abs=1e-4)
        assert shared.state.tats == pytest.approx(own.state.tats, abs=1e-4)
        assert shared.state.virtual_time == pytest.approx(own.state.virtual_time)
        return shared


def a_turn(chance: random.Random, queue: ValkeyFairQueue, known: list[Entry]) -> Turn:
    callers = ["greedy"] * 5 + [f"caller-{i}" for i in range(6)]
    entering = []
    for _ in range(chance.choice([0, 0, 1, 1, 2, 8])):
        caller = chance.choice(callers)
        demand = Demand(
            caller,
            weight={"caller-0": 3.0, "caller-1": 0.5}.get(caller, 1.0),
            priority=chance.choices(list(Priority), [8, 3, 1])[0],
        )
        tag = chance.choice([None] * 9 + [0.0])
        entering.append(Entry(queue.new_id(), demand, chance.uniform(0.0, 6.0), tag))
    leaving = [one for one in known if chance.random() < 0.05]
    again = [one for one in known if one not in leaving and chance.random() < 0.2]
    hurt = [
        Hurt(chance.choice([0.3, 1.0, 3.0]), chance.choice([None, None, 4.0, 50.0]))
        for _ in range(chance.random() < 0.03)
    ]
    known.extend(one for one in entering if one.demand.priority is not Priority.SPARE)
    return Turn(leaving, hurt, [*again, *entering])


@pytest.mark.parametrize("seed", range(60))
async def test_the_queue_in_redis_does_what_the_queue_in_memory_does(
    clock: FakeClock, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue._ServerClock, "_DRIFT", 0.0)  # the clocks are one here
    chance = random.Random(seed)
    windows = [Pace(10, 1, 5), Pace(200, 60, 30)][: 1 + seed % 2]
    pair = Pair(clock, Limit(tuple(windows), queue_max=20, caller_max=8))
    await pair.shared.turn(Turn(), pair.state)  # compares clocks
    await pair.turn(Turn())  # both begin now
    known: list[Entry] = []
    for _ in range(150):
        await clock.advance(
            chance.choice([0.0, 0.0, chance.uniform(0, 0.1), chance.uniform(0, 0.6)])
        )
        turn = a_turn(chance, pair.shared, known)
        outcome = await pair.turn(turn)
        gone = outcome.granted.keys() | outcome.refused.keys() | {one.id for one in turn.leaving}
        known = [one for one in known if one.id not in gone]


def test_the_heaviest_group_counts_and_who_has_none_weighs_one() -> None:
    weights = {"oncall": 4.0, "ci": 0.25}
    assert weight_of(["staff", "oncall", "ci"], weights) == 4.0
    assert weight_of(["ci", "staff"], weights) == 0.25
    assert weight_of(["staff"], weights) == weight_of([], weights) == 1.0


def an_entry(queue: ValkeyFairQueue, caller: str = "ann", patience_s: float = 60.0) -> Entry:
    return Entry(queue.new_id(), Demand(caller), patience_s)


def two_replicas(clock: FakeClock) -> tuple[ValkeyFairQueue, ValkeyFairQueue]:
    server: Any = Server(clock)
    limit = Limit((Pace(10, 1, 1),), queue_max=100, caller_max=100)
    return (
        ValkeyFairQueue(server, "q", account="a", limit=limit, clock=clock),
        ValkeyFairQueue(server, "q", account="a", limit=limit, clock=clock),
    )


async def test_a_slot_is_not_given_to_a_replica_that_is_gone(clock: FakeClock) -> None:
    gone, here = two_replicas(clock)
    nothing = State(tats=())
    await gone.turn(Turn(), nothing)
    await here.turn(Turn(entering=[an_entry(here)]), nothing)  # the first slot is taken
    await clock.advance(0.001)
    await gone.turn(Turn(entering=[an_entry(gone, "bob") for _ in range(5)]), nothing)
    await clock.advance(1.6)
    mine = an_entry(here, "eve")
    outcome = await here.turn(Turn(entering=[mine]), nothing)
    assert list(outcome.granted) == [mine.id]
    await clock.advance(0.2)
    outcome = await here.turn(Turn(), nothing)
    assert (outcome.granted, outcome.waiting) == ({}, 0)


async def test_until_all_are_back_the_others_keep_their_part(clock: FakeClock) -> None:
    first, second = two_replicas(clock)
    nothing = State(tats=())
    for queue in (first, second):
        await queue.turn(Turn(), nothing)
        queue.rejoin(2)
    await clock.advance(0.001)

    async def slots(count: int) -> float:
        """Tell how long the queue makes the first replica wait between two slots."""
        entries = [an_entry(first, f"caller-{i}") for i in range(count)]
        granted: list[float] = []
        outcome = await first.turn(Turn(entering=entries), nothing)
        for _ in range(400):
            granted += outcome.granted.values()
            if len(granted) == count:
                break
            await clock.advance(0.01)
            outcome = await first.turn(Turn(), nothing)
        return (granted[-1] - granted[0]) / (count - 1)

    assert await slots(4) == pytest.approx(0.2, abs=0.01)
    await second.turn(Turn(), nothing)
    await first.turn(Turn(), nothing)
    assert await slots(4) == pytest.approx(0.1, abs=0.01)
