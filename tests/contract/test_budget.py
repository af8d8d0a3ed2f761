"""The budget on a real server: what is admitted over any window stays within the pace."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from hashlib import sha1
from itertools import pairwise

import pytest

from gateway.domain.errors import BudgetExhausted
from gateway.domain.model import Priority, QueueRequest
from gateway.domain.queue.adaptation import rate
from gateway.domain.queue.pacing import Pace
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey import fair_queue
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.fair_queue import ValkeyFairQueue
from gateway.drivers.valkey.script import LuaScript
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow import fair_budget
from gateway.flow.fair_budget import BudgetQueue
from gateway.flow.single_flight import Fetched, SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.budget_queues import (
    CLOCK,
    FOREVER_S,
    SEAL_KEY,
    StoppedBudget,
    connect,
    open_line,
    until_compared,
    until_listening,
)
from tests.support.valkey import RealValkey
from tests.support.waiting import until

ANN = QueueRequest("ann")


LATE_S = 600.0


@pytest.fixture(autouse=True)
def _stopped_processes_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep slots and places of a process that does not run for a while: the machine may be busy.

    For ten minutes a slot is good, a message is not too old, an entry needs no confirmation, and a
    process that sends no batch is alive.
    """
    monkeypatch.setattr(fair_budget, "LATE_MAX_S", LATE_S)
    monkeypatch.setattr(fair_budget, "_REFRESH_S", LATE_S)
    monkeypatch.setattr(fair_queue, "_CLOCK_ERROR_S_MAX", LATE_S)
    script, times = LuaScript("fair_queue"), "1500000, 2500000"
    assert times in script.text
    script.text = script.text.replace(times, "600000000, 600000000")
    script.digest = sha1(script.text.encode(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(fair_queue, "_SCRIPT", script)


@pytest.fixture
async def pair(shared_valkey: RealValkey) -> AsyncIterator[tuple[Valkey, Valkey]]:
    """Two processes' ways to the same store."""
    namespace = f"t-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(connect(shared_valkey, namespace))
        two = await stack.enter_async_context(connect(shared_valkey, namespace))
        await until_listening(one)
        await until_listening(two)
        yield one, two


async def admit(
    line: BudgetQueue, queue_request: QueueRequest = ANN, *, within_s: float = FOREVER_S
) -> float:
    """Return the slot of the call, which the server has decided."""
    deadline = CLOCK.monotonic() + within_s
    return await line.admit(queue_request, deadline=deadline, requeued=False) - LATE_S


async def slots_of(lines: list[BudgetQueue], count: int) -> list[float]:
    """Submit all calls at once; return their slots."""
    return sorted(await asyncio.gather(*(admit(lines[i % len(lines)]) for i in range(count))))


def most_ahead(slots: list[float], pace: Pace) -> float:
    """Return the most calls after a call, of all windows, beyond what the rate alone admits."""
    return max(
        (j - i) - (slots[j] - slots[i]) / pace.interval_s
        for i in range(len(slots))
        for j in range(i, len(slots))
    )


def ahead_since(began: float, slots: list[float], pace: Pace) -> float:
    """Return the most calls beyond what the rate admits from `began` on."""
    return max(
        count - (slot - began) / pace.interval_s for count, slot in enumerate(slots, start=1)
    )


SERVER_TIME_ERROR = 0.2
"""Calls. Two processes convert the server's instants with a small error each."""


async def test_two_processes_share_one_rate(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=20, per_s=1, burst=1)
    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        await until_compared(one)
        await until_compared(two)
        began = CLOCK.monotonic()
        slots = await slots_of([one, two], 30)
    assert ahead_since(began, slots, pace) <= 1 + SERVER_TIME_ERROR
    assert most_ahead(slots, pace) <= SERVER_TIME_ERROR


async def test_empty_store_grants_no_burst(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=10, per_s=1, burst=10)
    began = CLOCK.monotonic()  # the burst begins to fill now
    async with open_line(pair[0], pace) as line:
        await until_compared(line)
        slots = await slots_of([line], 15)
    assert ahead_since(began, slots, pace) <= 1 + SERVER_TIME_ERROR


async def test_burst_is_available_after_rest(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=10, per_s=1, burst=6)
    async with open_line(pair[0], pace) as line:
        await until_compared(line)
        await admit(line)
        await asyncio.sleep(0.7)
        slots = await slots_of([line], 20)
    # One less than six: its span covers slots that are used late.
    assert most_ahead(slots, pace) < 5
    assert any(slots[i + 4] - slots[i] < 0.05 for i in range(16)), "five calls at once"


async def test_all_windows_apply(pair: tuple[Valkey, Valkey]) -> None:
    short, long = Pace(100, 1, 1), Pace(300, 60, 8)
    began = CLOCK.monotonic()
    async with open_line(pair[0], short, long) as line:
        await until_compared(line)
        await admit(line)
        await asyncio.sleep(0.7)
        slots = await slots_of([line], 12)
    assert ahead_since(began, slots, long) <= 1 + SERVER_TIME_ERROR, "it began without a burst"
    assert most_ahead(slots, short) <= SERVER_TIME_ERROR
    assert min(b - a for a, b in pairwise(slots)) < 0.5 * long.interval_s, "its burst has refilled"


async def test_hopeless_call_is_rejected_with_accurate_wait(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    async with open_line(pair[0], Pace(requests=1, per_s=1_000, burst=1)) as line:
        await until_compared(line)
        due = await admit(line) + 1_000
        began = CLOCK.monotonic()
        with pytest.raises(BudgetExhausted) as refused:
            await admit(line, within_s=400)
        took_s = CLOCK.monotonic() - began
        assert took_s < 200, "at once"
        reported = refused.value.retry_after_s
        call_s = 0.5  # the part of the deadline that is for the call itself
        assert reported == pytest.approx(due - (began + 400 - call_s), abs=took_s + 0.1)
        # As after that wait: the same request is early enough.
        shared = line._shared
        assert isinstance(shared, ValkeyFairQueue)
        shared_valkey.command("HINCRBY", shared.keys[0], "tat1", str(-round(reported * 1e6)))
        waits = asyncio.create_task(admit(line, within_s=400))
        await until(lambda: line.queued == 1)
        waits.cancel()


async def test_429_pauses_other_process_at_once(pair: tuple[Valkey, Valkey]) -> None:
    """tests/simulation/test_fleet.py measures how soon, in virtual time."""
    pace = Pace(requests=200, per_s=1, burst=1)
    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        await until_compared(two)
        await admit(one)
        await admit(two)
        one.throttled(pause_s=300.0, named_rate=None)
        await until(lambda: two.paused_s > 0)  # by a message: `two` has no call for which it asks
        with pytest.raises(BudgetExhausted):
            await admit(two, within_s=100)
        assert flat_rate(one) == flat_rate(two) == pytest.approx(0.9 * 200), "one rate for all"


def flat_rate(line: BudgetQueue) -> float:
    """Return the learned rate before it grows again."""
    learned = line._state.learned
    assert learned is not None
    return rate(learned, line.limit.ceiling, learned.epoch_until)


async def test_learned_rate_survives_restart_and_server_loss(
    pair: tuple[Valkey, Valkey], own_valkey: RealValkey
) -> None:
    pace = Pace(requests=100, per_s=1, burst=1)
    async with open_line(pair[0], pace) as before:
        await admit(before)
        before.throttled(pause_s=0.2, named_rate=10.0)
        await admit(before)
    async with open_line(pair[1], pace) as after:
        await admit(after)
        assert flat_rate(after) == pytest.approx(9.7)
    async with connect(own_valkey, "lost") as valkey, open_line(valkey, pace) as line:
        await admit(line)
        line.throttled(pause_s=0.2, named_rate=10.0)
        await admit(line)
        own_valkey.command("FLUSHALL")
        await admit(line)
        assert flat_rate(line) == pytest.approx(9.7)


async def test_shares_are_fair_over_processes(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    """All calls are in the queue before the first one has its slot, so the order is the server's.

    tests/simulation/test_fleet.py has callers that come back after each call.
    """
    pace = Pace(requests=100, per_s=1, burst=1)
    slots: list[tuple[float, str]] = []

    async def request(line: BudgetQueue, name: str, weight: float = 1.0) -> None:
        slots.append((await admit(line, QueueRequest(name, weight)), name))

    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        budget = await StoppedBudget.of(shared_valkey, one, two)
        requested = [request(one, "greedy") for _ in range(25)]
        requested += [request(two, "greedy") for _ in range(25)]
        requested += [request(one, f"one-{i}") for i in range(2) for _ in range(8)]
        requested += [request(two, f"two-{i}") for i in range(6) for _ in range(8)]
        requested += [request(two, "heavy", 3.0) for _ in range(24)]
        tasks = [asyncio.create_task(one) for one in requested]
        await budget.until_waiting(len(tasks))
        budget.start()
        await asyncio.gather(*tasks)
    served = Counter(name for _, name in sorted(slots)[:72])  # six rounds of twelve
    equals = [count for name, count in served.items() if name not in {"greedy", "heavy"}]
    assert len(equals) == 8
    assert all(5 <= count <= 7 for count in (*equals, served["greedy"]))
    assert 16 <= served["heavy"] <= 20, "three in each round"


async def test_disconnect_leaves_the_queue_at_once(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    pace = Pace(1, 1, 1)
    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        budget = await StoppedBudget.of(shared_valkey, one, two)
        gone = [asyncio.create_task(admit(one)) for _ in range(3)]
        await budget.until_waiting(3)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await budget.until_waiting(0)
        following = asyncio.create_task(admit(two))
        await budget.until_waiting(1)
        await budget.grant()
        await following
        await until(lambda: one.queued == 0)


async def test_refresh_shows_the_queue_of_other_processes(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    """A process without calls learns the state of the queue only so."""
    pace = Pace(1, 1, 1)
    async with open_line(pair[0], pace) as busy, open_line(pair[1], pace) as idle:
        budget = await StoppedBudget.of(shared_valkey, busy, idle)
        waiting = [asyncio.create_task(admit(busy)) for _ in range(3)]
        await budget.until_waiting(3)
        while idle.queued != 3:
            await idle.refresh()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await budget.until_waiting(0)
        while idle.queued:
            await idle.refresh()


async def test_full_queue_evicts_its_last_entry(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    pace = Pace(20, 1, 1)
    async with (
        open_line(pair[0], pace, queue_max=4) as one,
        open_line(pair[1], pace, queue_max=4) as two,
    ):
        budget = await StoppedBudget.of(shared_valkey, one, two)
        greedy = [asyncio.create_task(admit(one, QueueRequest("greedy"))) for _ in range(8)]
        await until(lambda: sum(task.done() for task in greedy) == 4)
        assert budget.waiting == 4
        modest = asyncio.create_task(admit(two, QueueRequest("modest")))
        await until(lambda: sum(task.done() for task in greedy) == 5)
        assert budget.waiting == 4
        budget.start()
        await modest
        outcomes = await asyncio.gather(*greedy, return_exceptions=True)
        assert sum(isinstance(one, BudgetExhausted) for one in outcomes) == 5


async def test_spare_request_never_waits(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    spare = QueueRequest("", priority=Priority.SPARE)
    async with open_line(pair[0], Pace(5, 1_000, 5)) as line:
        with pytest.raises(BudgetExhausted):
            await admit(line, spare)
        shared = line._shared
        assert isinstance(shared, ValkeyFairQueue)
        shared_valkey.command("HSET", shared.keys[0], "tat1", "0")  # as after a long rest
        await admit(line, spare)
        for _ in range(2):
            await admit(line)
        with pytest.raises(BudgetExhausted):
            await admit(line, spare)


async def test_bulk_calls_do_not_starve(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey
) -> None:
    slots: list[tuple[float, Priority]] = []

    async def request(line: BudgetQueue, name: str, priority: Priority) -> None:
        slots.append((await admit(line, QueueRequest(name, priority=priority)), priority))

    pace = Pace(50, 1, 1)
    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        budget = await StoppedBudget.of(shared_valkey, one, two)
        requested = [request(two, f"b{i}", Priority.BULK) for i in range(6)]
        requested += [request(one, f"p{i}", Priority.INTERACTIVE) for i in range(24)]
        tasks = [asyncio.create_task(one) for one in requested]
        await budget.until_waiting(len(tasks))
        budget.start()
        await asyncio.gather(*tasks)
    order = [priority for _, priority in sorted(slots)]
    assert order[:24].count(Priority.BULK) == 3, "one of eight"
    assert order[-1] is Priority.BULK


async def test_caller_maximum_spans_processes(pair: tuple[Valkey, Valkey]) -> None:
    one, two = (ValkeyCallerUsage(valkey) for valkey in pair)
    every_s = 1_000.0
    await one.spend({"ann": 10, "bob": 1}, interval_s=every_s)
    ahead = await two.spend({"ann": 5}, interval_s=every_s)
    assert ahead["ann"] / every_s == pytest.approx(15, abs=0.1)
    ahead = await one.spend({"ann": -12}, interval_s=every_s)
    assert ahead["ann"] / every_s == pytest.approx(3, abs=0.1)
    ahead = await one.spend({"ann": -12, "new": -1}, interval_s=every_s)
    assert ahead == {"ann": 0, "new": 0}, "what is taken back never becomes a credit"
    ahead = await two.spend({"ann": 1}, interval_s=every_s)
    assert ahead["ann"] / every_s == pytest.approx(1, abs=0.1)


async def test_live_processes_are_counted(pair: tuple[Valkey, Valkey]) -> None:
    await until(lambda: [valkey.processes for valkey in pair] == [2, 2])


class Process:
    """The link fetches of one process; each takes a slot of its queue."""

    def __init__(self, valkey: Valkey, line: BudgetQueue) -> None:
        self.line = line
        self.fetched: list[str] = []
        store = ValkeySharedStore(valkey, Sealer([SEAL_KEY]))
        self._single_flight = SingleFlight(store, CLOCK, lease_s=600.0)

    def admit_call(self, link: str, caller: str) -> "asyncio.Task[None]":
        waiters, deadline = Waiters(QueueRequest(caller)), CLOCK.monotonic() + FOREVER_S

        async def fetch() -> Fetched:
            await self.line.admit(
                waiters.request, deadline=deadline, requeued=False, waiters=waiters
            )
            self.fetched.append(link)
            return Fetched(link.encode(), CLOCK.monotonic() + 600)

        async def wait() -> None:
            await self._single_flight.obtain(link, fetch, deadline=deadline, waiters=waiters)

        return asyncio.create_task(wait())


@pytest.mark.parametrize("joins", ["here", "elsewhere"])
async def test_joining_greedy_fetch_adds_no_wait(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey, joins: str
) -> None:
    pace = Pace(requests=50, per_s=1, burst=1)
    async with open_line(pair[0], pace) as first, open_line(pair[1], pace) as second:
        budget = await StoppedBudget.of(shared_valkey, first, second)
        here, there = Process(pair[0], first), Process(pair[1], second)
        greedy = [here.admit_call(f"link-{i}", "greedy") for i in range(20)]
        await budget.until_waiting(20)
        greedy.append(here.admit_call("wanted", "greedy"))
        await budget.until_waiting(21)
        ann, hasty = (
            (here if joins == "here" else there).admit_call("wanted", name)
            for name in ("ann", "hasty")
        )
        await until(lambda: {"ann", "hasty"} & {*first.waiting})
        hasty.cancel()
        await until(lambda: "ann" in first.waiting)
        budget.start()
        await ann
        await asyncio.gather(*greedy)
        assert here.fetched.index("wanted") <= 1, "as alone: the next slot, or the one after"
        assert sorted(here.fetched) == sorted({*here.fetched})
        assert (len(here.fetched), there.fetched) == (21, [])
        await until(lambda: not (first.waiting or second.waiting))


@pytest.mark.parametrize("joined", ["here", "elsewhere"])
async def test_disconnect_withdraws_inherited_place(
    pair: tuple[Valkey, Valkey], shared_valkey: RealValkey, joined: str
) -> None:
    pace = Pace(requests=50, per_s=1, burst=1)
    async with open_line(pair[0], pace) as first, open_line(pair[1], pace) as second:
        budget = await StoppedBudget.of(shared_valkey, first, second)
        here, there = Process(pair[0], first), Process(pair[1], second)
        requested = [here.admit_call(f"link-{i}", "greedy") for i in range(9)]
        requested += [here.admit_call(f"other-{i}", f"other-{i % 8}") for i in range(16)]
        await budget.until_waiting(25)
        requested.append(here.admit_call("wanted", "greedy"))
        await budget.until_waiting(26)
        for _ in range(10):  # the first round of nine callers is over
            await budget.grant()
        requested.append(here.admit_call("own", "mallory"))  # its next slot is in the next round
        await budget.until_waiting(17)
        mallory = (here if joined == "here" else there).admit_call("wanted", "mallory")
        await until(lambda: first.waiting.count("mallory") == 2)
        mallory.cancel()
        await until(lambda: first.waiting.count("mallory") == 1)
        assert first.waiting.count("greedy") > 5, "its call waits where it did"
        budget.start()
        await asyncio.gather(*requested)
        assert sorted(here.fetched) == sorted({*here.fetched})
        assert here.fetched[-1] == "wanted"
        assert (len(here.fetched), there.fetched) == (27, [])
