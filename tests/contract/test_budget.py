"""The budget on a real server: what is admitted over any window stays within the pace."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.domain.errors import BudgetExhausted
from gateway.domain.model import Priority, QueueRequest
from gateway.domain.queue.pacing import Pace
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow.fair_budget import BudgetQueue
from gateway.flow.single_flight import Fetched, SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.budget_queues import CLOCK, SEAL_KEY, connect, open_line
from tests.support.valkey import RealValkey

ANN = QueueRequest("ann")


@pytest.fixture
async def pair(shared_valkey: RealValkey) -> AsyncIterator[tuple[Valkey, Valkey]]:
    """Two processes' ways to the same store."""
    namespace = f"t-{secrets.token_hex(4)}"
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(connect(shared_valkey, namespace))
        two = await stack.enter_async_context(connect(shared_valkey, namespace))
        await asyncio.sleep(0.1)  # both listen
        assert await one.probe()
        yield one, two


async def admit(
    line: BudgetQueue, queue_request: QueueRequest = ANN, *, within_s: float = 5.0
) -> float:
    await line.admit(queue_request, deadline=CLOCK.monotonic() + within_s, requeued=False)
    return CLOCK.monotonic()


async def admitted_within(lines: list[BudgetQueue], wait_s: float, count: int) -> list[float]:
    """Submit all calls at once; return when each admitted call may be sent."""
    began = CLOCK.monotonic()

    async def admit_call(line: BudgetQueue) -> float | None:
        try:
            return await admit(line, within_s=wait_s) - began
        except BudgetExhausted:
            return None

    outcomes = await asyncio.gather(*(admit_call(lines[i % len(lines)]) for i in range(count)))
    return sorted(at for at in outcomes if at is not None)


async def test_two_processes_share_one_rate(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=50, per_s=1, burst=1)
    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        sent = await admitted_within([one, two], 3.0, 200)
    assert len(sent) > 15
    for count, at in enumerate(sent):  # no call is early; the event loop may make calls late
        assert count <= at / pace.interval_s + 1


async def test_empty_store_grants_no_burst(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=10, per_s=1, burst=10)
    async with open_line(pair[0], pace) as line:
        sent = await admitted_within([line], 0.5, 50)
    assert sent
    for count, at in enumerate(sent):
        assert count <= at / pace.interval_s


async def test_burst_is_available_after_rest(pair: tuple[Valkey, Valkey]) -> None:
    pace = Pace(requests=10, per_s=1, burst=6)
    async with open_line(pair[0], pace) as line:
        await admit(line)
        await asyncio.sleep(0.7)
        sent = await admitted_within([line], 1.0, 20)
    # One less than six: its span covers slots that are used late.
    for count, at in enumerate(sent):
        assert count < 5 + at / pace.interval_s
    assert sum(at < 0.8 for at in sent) > 9, "without a burst there are at most nine by then"


async def test_all_windows_apply(pair: tuple[Valkey, Valkey]) -> None:
    second, minute = Pace(100, 1, 1), Pace(60, 60, 8)
    async with open_line(pair[0], second, minute) as line:
        await admit(line)
        await asyncio.sleep(3.2)
        sent = await admitted_within([line], 1.0, 50)
    assert 2 <= len(sent) <= 5, "the minute's burst refills by one a second"


async def test_hopeless_call_is_rejected_with_accurate_wait(
    pair: tuple[Valkey, Valkey],
) -> None:
    async with open_line(pair[0], Pace(requests=1, per_s=1, burst=1)) as line:
        await admit(line)
        began = CLOCK.monotonic()
        with pytest.raises(BudgetExhausted) as refused:
            await admit(line, within_s=0.6)
        assert CLOCK.monotonic() - began < 0.5
        reported = refused.value.retry_after_s
        assert 0.3 < reported < 1.0
        await asyncio.sleep(reported)
        await admit(line, within_s=0.8)


async def test_429_pauses_other_process_within_100_ms(
    pair: tuple[Valkey, Valkey],
) -> None:
    pace = Pace(requests=200, per_s=1, burst=1)
    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        sent: list[float] = []

        async def keep_requesting() -> None:
            while True:
                sent.append(await admit(two))

        requesting = asyncio.create_task(keep_requesting())
        await admit(one)
        await asyncio.sleep(0.3)
        throttled_at = CLOCK.monotonic()
        one.throttled(pause_s=1.0, named_rate=None)
        await asyncio.sleep(1.3)
        requesting.cancel()
        await asyncio.gather(requesting, return_exceptions=True)
        assert len(sent) > 10
        assert not [at for at in sent if throttled_at + 0.1 < at < throttled_at + 0.99]
        assert [at for at in sent if at > throttled_at + 0.99], "it goes on after the pause"
        assert two.rate == pytest.approx(0.9 * 200, rel=0.05), "one rate for all"


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
        assert after.rate == pytest.approx(9.7, rel=0.05)
    async with connect(own_valkey, "lost") as valkey, open_line(valkey, pace) as line:
        await admit(line)
        line.throttled(pause_s=0.2, named_rate=10.0)
        await admit(line)
        own_valkey.command("FLUSHALL")
        await admit(line)
        assert line.rate == pytest.approx(9.7, rel=0.05)


async def test_shares_are_fair_over_processes(
    pair: tuple[Valkey, Valkey],
) -> None:
    pace = Pace(requests=60, per_s=1, burst=1)
    served: dict[str, int] = {}

    async def keep_requesting(line: BudgetQueue, name: str, weight: float = 1.0) -> None:
        while True:
            await admit(line, QueueRequest(name, weight))
            served[name] = served.get(name, 0) + 1

    async with open_line(pair[0], pace) as one, open_line(pair[1], pace) as two:
        await admit(one)
        requesting = [keep_requesting(one, "greedy") for _ in range(25)]
        requesting += [keep_requesting(two, "greedy") for _ in range(25)]
        requesting += [keep_requesting(one, f"one-{i}") for i in range(2)]
        requesting += [keep_requesting(two, f"two-{i}") for i in range(6)]
        requesting += [keep_requesting(two, "heavy", 3.0) for _ in range(3)]
        tasks = [asyncio.create_task(one) for one in requesting]
        await asyncio.sleep(4.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    equals = [served[name] for name in served if name not in {"greedy", "heavy"}]
    mean = sum(equals) / len(equals)
    assert len(equals) == 8
    assert max(equals) <= 1.15 * mean + 1
    assert min(equals) >= 0.85 * mean - 1
    assert served["greedy"] <= 1.15 * mean + 1
    assert served["heavy"] == pytest.approx(3 * mean, rel=0.25)


async def test_disconnect_leaves_the_queue_at_once(
    pair: tuple[Valkey, Valkey],
) -> None:
    async with open_line(pair[0], Pace(1, 1, 1)) as one, open_line(pair[1], Pace(1, 1, 1)) as two:
        await admit(one)
        gone = [asyncio.create_task(admit(one)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        began = CLOCK.monotonic()
        await admit(two, within_s=3.0)
        assert CLOCK.monotonic() - began < 1.5
        assert one.queued == 0


async def test_full_queue_evicts_its_last_entry(
    pair: tuple[Valkey, Valkey],
) -> None:
    pace = Pace(4, 1, 1)
    async with (
        open_line(pair[0], pace, queue_max=4) as one,
        open_line(pair[1], pace, queue_max=4) as two,
    ):
        await admit(one)
        greedy = [asyncio.create_task(admit(one, QueueRequest("greedy"))) for _ in range(8)]
        await asyncio.sleep(0.1)
        refused = [task for task in greedy if task.done()]
        assert len(refused) == 4
        await admit(two, QueueRequest("modest"))
        outcomes = await asyncio.gather(*greedy, return_exceptions=True)
        assert sum(isinstance(one, BudgetExhausted) for one in outcomes) == 5


async def test_spare_request_never_waits(
    pair: tuple[Valkey, Valkey],
) -> None:
    spare = QueueRequest("", priority=Priority.SPARE)
    async with open_line(pair[0], Pace(5, 1, 5)) as line:
        with pytest.raises(BudgetExhausted):
            await admit(line, spare)
        await asyncio.sleep(1.2)
        await admit(line, spare)
        for _ in range(2):
            await admit(line)
        with pytest.raises(BudgetExhausted):
            await admit(line, spare)


async def test_bulk_calls_do_not_starve(
    pair: tuple[Valkey, Valkey],
) -> None:
    order: list[str] = []

    async def admit_call(line: BudgetQueue, name: str, priority: Priority) -> None:
        await admit(line, QueueRequest(name, priority=priority), within_s=10.0)
        order.append(priority.value)

    async with open_line(pair[0], Pace(40, 1, 1)) as one, open_line(pair[1], Pace(40, 1, 1)) as two:
        await admit(one)
        bulk = [admit_call(two, f"b{i}", Priority.BULK) for i in range(6)]
        people = [admit_call(one, f"p{i}", Priority.INTERACTIVE) for i in range(24)]
        await asyncio.gather(*bulk, *people)
    first = order[:24]
    assert 2 <= first.count("bulk") <= 4
    assert order[-1] == "bulk"


async def test_caller_maximum_spans_processes(pair: tuple[Valkey, Valkey]) -> None:
    one, two = (ValkeyCallerUsage(valkey) for valkey in pair)
    await one.spend({"ann": 10, "bob": 1}, interval_s=1.0)
    ahead = await two.spend({"ann": 5}, interval_s=1.0)
    assert ahead["ann"] == pytest.approx(15, abs=1.0)
    ahead = await one.spend({"ann": -12}, interval_s=1.0)
    assert ahead["ann"] == pytest.approx(3, abs=1.0)
    ahead = await one.spend({"ann": -12, "new": -1}, interval_s=1.0)
    assert ahead == {"ann": 0, "new": 0}, "what is taken back never becomes a credit"
    assert (await two.spend({"ann": 1}, interval_s=1.0))["ann"] == pytest.approx(1, abs=0.5)


async def test_live_processes_are_counted(pair: tuple[Valkey, Valkey]) -> None:
    assert await pair[0].probe()
    assert pair[0].processes == 2


class Process:
    """The link fetches of one process; each takes a slot of its queue."""

    def __init__(self, valkey: Valkey, line: BudgetQueue) -> None:
        self.line = line
        self.fetched: list[str] = []
        self._single_flight = SingleFlight(ValkeySharedStore(valkey, Sealer([SEAL_KEY])), CLOCK)

    def admit_call(self, link: str, caller: str) -> "asyncio.Task[float]":
        """Return how long the caller waits."""
        began, waiters = CLOCK.monotonic(), Waiters(QueueRequest(caller))
        deadline = began + 20

        async def fetch() -> Fetched:
            await self.line.admit(
                waiters.request, deadline=deadline, requeued=False, waiters=waiters
            )
            self.fetched.append(link)
            return Fetched(link.encode(), CLOCK.monotonic() + 60)

        async def wait() -> float:
            await self._single_flight.obtain(link, fetch, deadline=deadline, waiters=waiters)
            return CLOCK.monotonic() - began

        return asyncio.create_task(wait())


@pytest.mark.parametrize("joins", ["here", "elsewhere"])
async def test_joining_greedy_fetch_adds_no_wait(pair: tuple[Valkey, Valkey], joins: str) -> None:
    pace = Pace(requests=10, per_s=1, burst=1)
    async with open_line(pair[0], pace) as first, open_line(pair[1], pace) as second:
        here, there = Process(pair[0], first), Process(pair[1], second)
        greedy = [here.admit_call(f"link-{i}", "greedy") for i in range(20)]
        await asyncio.sleep(0.2)
        greedy.append(here.admit_call("wanted", "greedy"))
        await asyncio.sleep(0.1)
        ann, hasty = (
            (here if joins == "here" else there).admit_call("wanted", name)
            for name in ("ann", "hasty")
        )
        await asyncio.sleep(0.02)
        hasty.cancel()
        assert await ann < 0.8, "alone, she would have the next slot or the one after"
        await asyncio.gather(*greedy)
        assert sorted(here.fetched) == sorted({*here.fetched})
        assert (len(here.fetched), there.fetched) == (21, [])
        await asyncio.sleep(0.1)
        assert not first.waiting
        assert not second.waiting


@pytest.mark.parametrize("joined", ["here", "elsewhere"])
async def test_disconnect_withdraws_inherited_place(
    pair: tuple[Valkey, Valkey], joined: str
) -> None:
    pace = Pace(requests=10, per_s=1, burst=1)
    async with open_line(pair[0], pace) as first, open_line(pair[1], pace) as second:
        here, there = Process(pair[0], first), Process(pair[1], second)
        requested = [here.admit_call(f"link-{i}", "greedy") for i in range(9)]
        requested += [here.admit_call(f"other-{i}", f"other-{i % 8}") for i in range(16)]
        await asyncio.sleep(0.2)
        requested.append(here.admit_call("wanted", "greedy"))
        await asyncio.sleep(1.0)  # the first round is over
        requested.append(here.admit_call("own", "mallory"))  # its next slot is in the next round
        await asyncio.sleep(0.02)
        mallory = (here if joined == "here" else there).admit_call("wanted", "mallory")
        await asyncio.sleep(0.15)
        assert first.waiting.count("mallory") == 1 + ("own" not in here.fetched)
        mallory.cancel()
        await asyncio.sleep(0.1)
        assert first.waiting.count("mallory") == ("own" not in here.fetched)
        assert first.waiting.count("greedy") > 5, "its call waits where it did"
        await asyncio.gather(*requested)
        assert sorted(here.fetched) == sorted({*here.fetched})
        assert here.fetched[-1] == "wanted"
        assert (len(here.fetched), there.fetched) == (27, [])
