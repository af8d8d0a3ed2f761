"""A budget's use of slots, batches, and entries without confirmation."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.domain.errors import BudgetExhausted, StoreUnavailable
from gateway.domain.model import BudgetClass, Priority, QueueRequest
from gateway.domain.queue.fair_queue import BatchResult, BudgetLimit, QueueBatch, QueueState
from gateway.domain.queue.pacing import Pace
from gateway.flow import fair_budget
from gateway.flow.fair_budget import BudgetQueue
from gateway.flow.shared_queue import QueueUpdate
from gateway.flow.waiters import Waiters
from tests.support.clock import FakeClock, settle
from tests.support.telemetry import RecordingTelemetry

LIMIT = BudgetLimit((Pace(10, 1, 5),), queue_max=100, caller_max=100)


class ScriptedQueue:
    """A queue that grants slots by the script of a test and records its batches."""

    available = True
    processes = 2

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self.turns: list[QueueBatch] = []
        self.grant_after_s: float | None = None
        self.rejoined: list[int] = []
        self.update: Callable[[QueueUpdate], None] = lambda _: None
        self.unavailable = False
        self.donor: QueueRequest | None = None

    def new_id(self) -> str:
        return f"id-{next(self._numbers)}"

    async def apply(self, batch: QueueBatch, state: QueueState) -> BatchResult:
        if self.unavailable:
            raise StoreUnavailable("away")
        self.turns.append(batch)
        now = self._clock.monotonic()
        state = QueueState((now,), virtual_time=7.0, version=1)
        if self.grant_after_s is None:
            tags = {one.id: 7.0 if one.tag is None else one.tag for one in batch.entering}
            inherited = (
                {} if self.donor is None else {one.entry.id: self.donor for one in batch.shared}
            )
            return BatchResult(state, len(tags), None, tags=tags, inherited=inherited)
        slots = {one.id: now + self.grant_after_s for one in batch.entering}
        return BatchResult(state, 0, None, granted=slots)

    def rejoin(self, processes: int) -> None:
        self.rejoined.append(processes)

    def on_update(self, call: Callable[[QueueUpdate], None]) -> None:
        self.update = call

    def on_availability_change(self, call: Callable[[], None]) -> None:
        pass

    @property
    def reported(self) -> list[tuple[str, float | None]]:
        return [(one.id, one.tag) for batch in self.turns for one in batch.entering]


class Subject:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.queue = ScriptedQueue(clock)
        self.telemetry = RecordingTelemetry()
        self.line = BudgetQueue(
            "prod",
            BudgetClass.CONSOLE,
            limit=LIMIT,
            wait_max_s=60.0,
            processes_max=2,
            shared=self.queue,
            clock=clock,
            telemetry=self.telemetry,
            jitter=lambda: 0.0,
        )
        self.running = asyncio.create_task(self.line.run())

    def admit_task(
        self, request: QueueRequest | None = None, waiters: Waiters | None = None
    ) -> "asyncio.Task[float]":
        deadline = self.clock.monotonic() + 30
        requested = self.line.admit(
            request or QueueRequest("ann"), deadline=deadline, requeued=False, waiters=waiters
        )
        return asyncio.create_task(requested)


@pytest.fixture
async def subject(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
    # Batches are submitted at once, without advancing the clock.
    monkeypatch.setattr(fair_budget, "_BATCH_GAP_S", 0.0)
    made = Subject(clock)
    await settle()
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


async def test_first_batch_only_compares_clocks(clock: FakeClock) -> None:
    subject = Subject(clock)
    subject.queue.grant_after_s = 0.0
    requested = subject.admit_task()  # before the line has taken a turn, as a first login may
    await settle()
    await clock.advance(0.1)
    assert requested.done()
    assert [len(batch.entering) for batch in subject.queue.turns] == [0, 1]
    subject.running.cancel()
    await asyncio.gather(subject.running, return_exceptions=True)


async def test_slot_in_pause_requeues_call_at_head(
    subject: Subject,
) -> None:
    subject.queue.grant_after_s = 0.02
    requested = subject.admit_task()
    await settle()
    subject.line.throttled(pause_s=2.0, named_rate=5.0)
    subject.queue.grant_after_s = 2.0
    await subject.clock.advance(1.9)
    assert not requested.done()
    assert [
        batch.throttlings[0].named_rate for batch in subject.queue.turns if batch.throttlings
    ] == [5.0]
    assert subject.queue.reported[-1][1] == 0.0, "at the head, and not charged again"
    await subject.clock.advance(0.5)
    assert requested.done()
    assert len(subject.telemetry.slots_lost) == 1


async def test_pause_of_another_replica_applies_at_once(subject: Subject) -> None:
    subject.queue.grant_after_s = 0.02
    requested = subject.admit_task()
    await settle()
    until = subject.clock.monotonic() + 3.0
    subject.queue.update(QueueUpdate({}, {}, until, None, replicas_rejoin=False))
    subject.queue.grant_after_s = 3.0
    await subject.clock.advance(2.9)
    assert not requested.done()
    assert subject.line.paused_s == pytest.approx(0.1)
    await subject.clock.advance(1.0)
    assert requested.done()


async def test_late_slot_is_given_up(subject: Subject) -> None:
    subject.queue.grant_after_s = -0.06
    requested = subject.admit_task()
    await settle()
    assert subject.telemetry.slots_lost
    subject.queue.grant_after_s = 0.0
    await settle()
    await subject.clock.advance(0.01)
    assert requested.done()


async def test_slot_after_the_deadline_is_not_awaited(subject: Subject) -> None:
    subject.queue.grant_after_s = 3_600.0
    requested = subject.admit_task()
    await settle()
    assert subject.telemetry.slots_lost
    subject.queue.grant_after_s = 0.0
    await settle()
    assert requested.done()


async def test_lost_spare_slot_is_not_requeued(subject: Subject) -> None:
    subject.queue.grant_after_s = -0.06
    requested = subject.admit_task(QueueRequest("", priority=Priority.SPARE))
    await settle()
    with pytest.raises(BudgetExhausted):
        await requested
    assert len(subject.queue.reported) == 1


async def test_unconfirmed_entry_is_submitted_again(
    subject: Subject,
) -> None:
    requested = subject.admit_task()
    await settle()
    ((first, _),) = subject.queue.reported
    for _ in range(3):
        await subject.clock.advance(0.3)
        await asyncio.sleep(0.3)  # the line waits on the loop's own clock
    assert (first, 7.0) in subject.queue.reported[1:]
    requested.cancel()
    await asyncio.gather(requested, return_exceptions=True)
    await settle()
    assert [one.id for batch in subject.queue.turns for one in batch.leaving] == [first]


async def test_waiting_calls_move_to_memory_and_back(subject: Subject) -> None:
    requested = [subject.admit_task() for _ in range(3)]
    await settle()
    before = {entry_id for entry_id, _ in subject.queue.reported}
    subject.queue.unavailable = True
    others = subject.admit_task()
    await settle()
    assert subject.line.is_local
    subject.queue.unavailable = False
    subject.line._submit_soon()
    await settle()
    assert not subject.line.is_local
    assert subject.queue.rejoined == [2]
    after = {one.id for one in subject.queue.turns[-1].entering}
    assert len(after) == 4
    assert not after & before
    for task in (*requested, others):
        task.cancel()
    await asyncio.gather(*requested, others, return_exceptions=True)


ANN, BOB, EVE = QueueRequest("ann"), QueueRequest("bob"), QueueRequest("eve", 2.0)


async def test_queue_is_updated_when_waiters_change(
    subject: Subject,
) -> None:
    waiters = Waiters(ANN)
    with waiters.attached(ANN):
        requested = subject.admit_task(ANN, waiters)
        await settle()
        with waiters.attached(BOB), waiters.attached(BOB):
            waiters.set_remote("another process", [EVE])
            await settle()
        await settle()
        ((entry_id, _),) = subject.queue.reported
        reported = [call for batch in subject.queue.turns for call in batch.shared]
        assert {call.entry.id for call in reported} == {entry_id}
        assert [call.waiters for call in reported] == [[ANN, BOB, EVE], [ANN, EVE]]
        requested.cancel()
        await asyncio.gather(requested, return_exceptions=True)


async def test_single_waiter_is_not_submitted_as_shared(subject: Subject) -> None:
    waiters = Waiters(ANN)
    with waiters.attached(ANN), waiters.attached(ANN):
        requested = subject.admit_task(ANN, waiters)
        await settle()
    await settle()
    assert not any(batch.shared for batch in subject.queue.turns)
    requested.cancel()
    await asyncio.gather(requested, return_exceptions=True)


async def test_inherited_place_is_refunded_to_its_donor(subject: Subject) -> None:
    waiters = Waiters(ANN)
    with waiters.attached(ANN), waiters.attached(BOB):
        subject.queue.donor = BOB
        requested = subject.admit_task(ANN, waiters)
        await settle()
        assert subject.line.waiting == ["bob"]
        requested.cancel()
        await asyncio.gather(requested, return_exceptions=True)
        await settle()
    assert [one.request for batch in subject.queue.turns for one in batch.leaving] == [BOB]


async def test_inherited_place_keeps_the_call_priority(subject: Subject) -> None:
    waiters = Waiters(ANN)
    with waiters.attached(ANN), waiters.attached(QueueRequest("bob", priority=Priority.BULK)):
        requested = subject.admit_task(ANN, waiters)
        await settle()
        ((call,),) = [batch.shared for batch in subject.queue.turns if batch.shared]
        assert call.waiters == [ANN, BOB]
        requested.cancel()
        await asyncio.gather(requested, return_exceptions=True)


async def test_sent_call_is_not_submitted_again(subject: Subject) -> None:
    waiters = Waiters(ANN)
    with waiters.attached(ANN):
        subject.queue.grant_after_s = 0.0
        requested = subject.admit_task(ANN, waiters)
        await settle()
        assert requested.done()
        with waiters.attached(BOB):
            await settle()
    assert not any(batch.shared for batch in subject.queue.turns)
