"""Invariants under seeded schedules and faults: thousands of fleets in virtual time.

`SEEDS=20000 python -m pytest tests/simulation` runs more; a failure prints its seed, and
`SEED=4711 python -m pytest tests/simulation` runs that one alone.
"""

import asyncio
import itertools
import logging
import multiprocessing
import os
import random
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from gateway.domain.model import Priority, QueueRequest
from gateway.domain.queue.pacing import Pace
from tests.support.fleet import Fleet, Replica, jain, loop_time
from tests.support.virtual_time import run_virtually

PACE = Pace(requests=9.7, per_s=1, burst=5)
CLOUD = (10.0, 10.0)
_CHUNKS = 40

Fault = Callable[[Fleet], Coroutine[Any, Any, None]]


async def no_fault(fleet: Fleet) -> None:
    del fleet


async def lost_messages(fleet: Fleet) -> None:
    fleet.store.message_loss = fleet.chance.choice([0.1, 0.5, 1.0])


async def slow_store(fleet: Fleet) -> None:
    # Redis may be too slow for one replica only; its share then comes on top of the budget.
    fleet.excess_allowed = 1.0
    fleet.store.delay_s = (0.001, fleet.chance.choice([0.02, 0.045]))


async def flapping_store(fleet: Fleet) -> None:
    for _ in range(fleet.chance.choice([1, 2])):
        await asyncio.sleep(fleet.chance.uniform(0.2, 2.0))
        fleet.store.there = False
        await asyncio.sleep(fleet.chance.uniform(0.01, 2.0))
        fleet.store.there = True


async def store_loses_data(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.2, 3.0))
    fleet.store.fail_over(clock_jump_s=0.0)


async def store_fails_over(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.2, 3.0))
    fleet.store.there = False
    await asyncio.sleep(fleet.chance.uniform(0.15, 1.0))
    fleet.store.fail_over(clock_jump_s=fleet.chance.uniform(-100.0, 100.0))
    fleet.store.there = True


async def store_clock_is_set_back(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.2, 3.0))
    fleet.store.clock_offset_s -= fleet.chance.choice([0.5, 100.0, 3600.0])


async def replica_dies(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.2, 3.0))
    await fleet.chance.choice(fleet.replicas).kill()


async def cloud_limit_drops(fleet: Fleet) -> None:
    fleet.cloud.names_its_limit = fleet.chance.random() < 0.5
    await asyncio.sleep(fleet.chance.uniform(0.2, 2.0))
    fleet.cloud.rate = 3.0


async def cloud_fails(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.2, 2.0))
    fleet.cloud.fails = fleet.chance.choice([0.1, 0.5, 1.0])


async def service_token_ends(fleet: Fleet) -> None:
    await asyncio.sleep(fleet.chance.uniform(0.2, 3.0))
    logged_in_at = loop_time() + fleet.chance.uniform(0.03, 2.0)
    for replica in fleet.replicas:
        replica.credential.logged_in_at = logged_in_at


FAULTS: tuple[Fault, ...] = (
    no_fault,
    lost_messages,
    slow_store,
    flapping_store,
    store_loses_data,
    store_fails_over,
    store_clock_is_set_back,
    replica_dies,
    cloud_limit_drops,
    cloud_fails,
    service_token_ends,
)


COMBINATIONS = [(one,) for one in FAULTS] + list(itertools.combinations(FAULTS, 2))
"""Each fault alone, and each pair."""
_SEEDS = int(os.environ.get("SEEDS", 6 * len(COMBINATIONS)))
"""Each combination meets six schedules; seeds drawn at random need a thousand for that."""


def test_invariants_hold_under_faults() -> None:
    seeds = [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(_SEEDS))
    processes = os.cpu_count() or 1
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawned) as pool:
        parts = [seeds[i::_CHUNKS] for i in range(_CHUNKS)]
        failures = [found for part in pool.map(run_seeds, parts) for found in part]
    assert not failures, "\n".join(failures)


def run_seeds(seeds: list[int]) -> list[str]:
    """Run one fleet per seed; return the failures, each with the command to replay it."""
    logging.disable(logging.CRITICAL)
    failures = []
    for seed in seeds:
        try:
            run_virtually(one_fleet(seed))
        except Exception:
            replay = f"SEED={seed} python -m pytest tests/simulation"
            failures.append(f"seed {seed} (replay: {replay})\n{traceback.format_exc(limit=-3)}")
    return failures


async def one_fleet(seed: int) -> None:
    chance = random.Random(f"fleet {seed}")
    faults = COMBINATIONS[seed % len(COMBINATIONS)]
    fleet = Fleet.start(seed, replicas=chance.choice([2, 3]), pace=PACE, cloud=CLOUD)
    await asyncio.sleep(0.5)
    troubles = [asyncio.create_task(fault(fleet)) for fault in faults]
    people = [
        asyncio.create_task(person(fleet, f"person-{i}", until=loop_time() + 3.0))
        for i in range(chance.choice([3, 8]))
    ]
    people += [
        asyncio.create_task(person(fleet, "greedy", until=loop_time() + 3.0))
        for _ in range(chance.choice([0, 10]))
    ]
    await asyncio.gather(*people)
    await asyncio.gather(*troubles)
    assert not fleet.overdue
    check_single_fetch(fleet, faults)
    await check_released(fleet)
    await fleet.stop()


async def person(fleet: Fleet, name: str, *, until: float) -> None:
    """Request one server after another, partly in parallel with others; sometimes hang up."""
    chance = fleet.chance
    while loop_time() < until:
        alive = [replica for replica in fleet.replicas if replica.alive]
        server = f"server-{chance.randrange(60)}"
        priority = chance.choices([Priority.INTERACTIVE, Priority.BULK], [9, 1])[0]
        requesting = asyncio.create_task(
            fleet.request_link(
                chance.choice(alive),
                server,
                QueueRequest(name, priority=priority),
                within_s=chance.choice([0.3, 2.0, 6.0]),
            )
        )
        if chance.random() < 0.1:
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            requesting.cancel()
        with suppress(asyncio.CancelledError):
            await requesting
        await asyncio.sleep(chance.choice([0.0, 0.1]))


def check_single_fetch(fleet: Fleet, faults: Sequence[Fault]) -> None:
    """Invariant 4: a link is fetched once, plus once for each lost holder."""
    fetched = [what for _, what, status in fleet.cloud.calls if status == 200]
    again = len(fetched) - len(set(fetched))
    harmless = {
        no_fault,
        lost_messages,
        cloud_limit_drops,
        cloud_fails,
        service_token_ends,
    }
    hung_up = 0.3 * len(fetched)
    if set(faults) <= harmless:
        assert max(fleet.cloud.most_in_progress.values(), default=0) <= 1
        assert again <= hung_up, "only fetches after a disconnect are repeated"
    if set(faults) <= {no_fault, lost_messages, replica_dies, service_token_ends}:
        assert fleet.cloud.refused() == 0, "within the budget the cloud never returns 429"


async def check_released(fleet: Fleet) -> None:
    """Invariant 8: a caller that no longer waits holds no place."""
    await asyncio.sleep(2.0)
    for replica in fleet.replicas:
        if replica.alive:
            assert not replica.line._waiting
            assert replica.single_flight.in_flight == 0


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_fair_under_storm(seed: int) -> None:
    run_virtually(one_storm(seed))


async def one_storm(seed: int) -> None:
    """Invariant 7: 12 people with one open request each, and one with fifty, for 30 s."""
    fleet = Fleet.start(seed, pace=PACE, cloud=CLOUD)
    await asyncio.sleep(1.0)
    until = loop_time() + 30.0
    numbers = iter(range(1_000_000))

    async def insist(replica: Replica, name: str) -> None:
        while loop_time() < until:
            what = f"server-{next(numbers)}"
            await fleet.request_link(replica, what, QueueRequest(name), within_s=30.0)

    names = [f"person-{i}" for i in range(12)]
    requesting = [insist(fleet.replicas[min(i % 4, 2)], name) for i, name in enumerate(names)]
    requesting += [insist(fleet.chance.choice(fleet.replicas), "greedy") for _ in range(50)]
    tasks = [asyncio.create_task(one) for one in requesting]
    await asyncio.sleep(30.0)
    shares = [fleet.answered[name] for name in names]
    assert jain(shares) >= 0.98
    assert fleet.answered["greedy"] <= 1.15 * max(shares)
    assert len(fleet.cloud.calls) >= 0.97 * 30.0 * PACE.requests
    assert fleet.cloud.refused() == 0
    await asyncio.gather(*tasks)
    await fleet.stop()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("joins", ["here", "elsewhere"])
def test_joining_greedy_fetch_adds_no_wait(joins: str, seed: int) -> None:
    run_virtually(one_join(seed, elsewhere=joins == "elsewhere"))


async def one_join(seed: int, *, elsewhere: bool) -> None:
    """Invariant 7: a modest caller joins the last of fifty queued calls of a greedy one."""
    fleet = Fleet.start(seed, replicas=2, pace=PACE, cloud=CLOUD)
    await asyncio.sleep(1.0)
    here, there = fleet.replicas

    async def time_request(replica: Replica, what: str, name: str) -> float:
        began = loop_time()
        assert (
            await fleet.request_link(replica, what, QueueRequest(name), within_s=20.0) == "answered"
        )
        return loop_time() - began

    waits = [asyncio.create_task(time_request(here, f"server-{i}", "greedy")) for i in range(49)]
    await asyncio.sleep(0.1)
    waits.append(asyncio.create_task(time_request(here, "server-49", "greedy")))
    await asyncio.sleep(0.1)
    alone = asyncio.create_task(time_request(there, "another-server", "bob"))
    joined = asyncio.create_task(time_request(there if elsewhere else here, "server-49", "ann"))
    greedy_s = await asyncio.gather(*waits)
    assert await joined <= await alone + 0.5
    assert max(greedy_s) > 3.0, "the greedy caller's other calls still wait"
    fetched = [what for _, what, _ in fleet.cloud.calls]
    assert len(fetched) == len(set(fetched)) == 51, "one call per link"
    assert fleet.cloud.refused() == 0
    await check_released(fleet)
    await fleet.stop()


@pytest.mark.parametrize("seed", range(2))
def test_shares_are_fair_with_shared_links(seed: int) -> None:
    run_virtually(one_storm_of_shared_links(seed))


async def one_storm_of_shared_links(seed: int) -> None:
    """Invariant 7: a greedy caller requests thirty links and those of six people of twelve."""
    fleet = Fleet.start(seed, pace=PACE, cloud=CLOUD)
    await asyncio.sleep(1.0)
    until = loop_time() + 20.0
    had = Counter[str]()

    async def insist(replica: Replica, name: str, link: str, pause_s: float) -> None:
        while loop_time() < until:
            await asyncio.sleep(pause_s)
            what = f"{link}-{had[link]}"
            if (
                await fleet.request_link(replica, what, QueueRequest(name), within_s=30.0)
                == "answered"
            ):
                had[link] += name == link

    names = [f"person-{i}" for i in range(12)]
    requesting = [insist(fleet.replicas[i % 3], name, name, 0.05) for i, name in enumerate(names)]
    greedys = [*names[:6], *names[:6], *(f"own-{i}" for i in range(30))]
    requesting += [  # the greedy caller comes first
        insist(fleet.replicas[i // 4 % 3], "greedy", link, 0.01) for i, link in enumerate(greedys)
    ]
    tasks = [asyncio.create_task(one) for one in requesting]
    await asyncio.sleep(20.0)
    assert jain([had[name] for name in names]) >= 0.98
    assert len(fleet.cloud.calls) >= 0.97 * 20.0 * PACE.requests
    assert fleet.cloud.refused() == 0
    await asyncio.gather(*tasks)
    await fleet.stop()


@pytest.mark.parametrize("seed", range(4))
def test_outage_of_the_store_costs_few_calls(seed: int) -> None:
    run_virtually(one_outage(seed))


async def one_outage(seed: int) -> None:
    """Each replica soon goes on with its share, and soon returns to the shared budget."""
    fleet = Fleet.start(seed, pace=PACE, cloud=CLOUD)
    await asyncio.sleep(1.0)
    callers = [asyncio.create_task(insist(fleet, i)) for i in range(12)]
    await asyncio.sleep(3.0)
    fleet.store.there = False
    assert await seconds_until(fleet, is_local=True) < 0.3
    await measure_calls(fleet, at_least=0.9)
    fleet.store.there = True
    assert await seconds_until(fleet, is_local=False) < 1.0
    await asyncio.sleep(1.0)  # the roll call
    await measure_calls(fleet, at_least=0.9)
    await stop_all(callers)
    await fleet.stop()


@pytest.mark.parametrize("seed", range(4))
def test_429_pauses_all_replicas_within_100_ms(seed: int) -> None:
    run_virtually(one_pause(seed))


async def one_pause(seed: int) -> None:
    fleet = Fleet.start(seed, pace=PACE, cloud=CLOUD)
    await asyncio.sleep(1.0)
    callers = [asyncio.create_task(insist(fleet, i)) for i in range(12)]
    await asyncio.sleep(3.0)
    fleet.replicas[0].line.throttled(pause_s=1.0, named_rate=None)
    throttled_at = loop_time()
    await asyncio.sleep(3.0)
    since = [at - throttled_at for at, _, _ in fleet.cloud.calls]
    assert not [at for at in since if 0.1 < at < 0.99]
    assert [at for at in since if at < 0]
    assert len([at for at in since if at >= 0.99]) > 10, "it goes on after the pause"
    await stop_all(callers)
    await fleet.stop()


_numbers = itertools.count()


async def insist(fleet: Fleet, i: int) -> None:
    """Request another link after each."""
    replica, request = fleet.replicas[i % len(fleet.replicas)], QueueRequest(f"person-{i}")
    while True:
        await fleet.request_link(replica, f"server-{next(_numbers)}", request, within_s=30.0)


async def stop_all(callers: Sequence["asyncio.Task[None]"]) -> None:
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)


async def seconds_until(fleet: Fleet, *, is_local: bool) -> float:
    began = loop_time()
    while any(replica.line.is_local is not is_local for replica in fleet.replicas):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return loop_time() - began


async def measure_calls(fleet: Fleet, *, at_least: float) -> None:
    """Compare the calls of five seconds with the budget."""
    before = len(fleet.cloud.calls)
    await asyncio.sleep(5.0)
    assert len(fleet.cloud.calls) - before >= at_least * 5.0 * PACE.requests
