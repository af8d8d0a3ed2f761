"""Entries that the claim of a fetch makes in the queue of its budget."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.domain.errors import BudgetExhausted
from gateway.domain.model import BudgetClass, QueueRequest
from gateway.domain.queue.fair_queue import BatchResult, QueueState
from gateway.flow import fair_budget
from gateway.flow.budgets import ClaimedEntry, FairBudget
from gateway.flow.shared_queue import EntryBatch, QueueUpdate
from tests.support.clock import FakeClock, settle
from tests.unit.test_fair_budget import Subject


@pytest.fixture
async def subject(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
    monkeypatch.setattr(fair_budget, "_BATCH_GAP_S", 0.0)
    made = Subject(clock)
    await settle()
    made.queue.turns.clear()  # the first one compares the clocks
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


def an_entry(subject: Subject, *, is_ready: bool = True) -> ClaimedEntry:
    return FairBudget([subject.line]).early_entry(
        "prod",
        BudgetClass.CONSOLE,
        QueueRequest("ann"),
        deadline=subject.clock.monotonic() + 30,
        waiters=None,
        may_enter=lambda: is_ready,
    )


def begin(entry: ClaimedEntry) -> EntryBatch:
    begun = entry.begin()
    assert begun is not None
    return begun


def result(subject: Subject, begun: EntryBatch, **outcome: dict[str, float]) -> BatchResult:
    state = QueueState((subject.clock.monotonic(),), version=begun.state.version + 1)
    waiting = 0 if outcome else 1
    return BatchResult(state, waiting, None, **outcome)  # type: ignore[arg-type]


async def test_slot_of_the_claim_needs_no_batch(subject: Subject) -> None:
    entry = an_entry(subject)
    begun = begin(entry)
    (call,) = begun.batch.entering
    now = subject.clock.monotonic()
    entry.made(result(subject, begun, granted={call.id: now}))
    assert await entry.wait() == now + fair_budget.LATE_MAX_S
    await settle()
    assert (subject.queue.turns, subject.line.waiting) == ([], [])


async def test_entry_of_the_claim_waits_for_its_slot(subject: Subject) -> None:
    entry = an_entry(subject)
    begun = begin(entry)
    (call,) = begun.batch.entering
    entry.made(result(subject, begun))
    waiting = asyncio.ensure_future(entry.wait())
    await settle()
    assert not waiting.done()
    assert subject.queue.turns == [], "it is in the queue already"
    now = subject.clock.monotonic()
    subject.queue.update(QueueUpdate({call.id: now}, {}, 0.0, None, replicas_rejoin=False))
    assert await waiting == now + fair_budget.LATE_MAX_S


async def test_rejected_entry_raises(subject: Subject) -> None:
    entry = an_entry(subject)
    begun = begin(entry)
    (call,) = begun.batch.entering
    entry.made(result(subject, begun, refused={call.id: 90.0}))
    with pytest.raises(BudgetExhausted):
        await entry.wait()


async def test_claim_without_lease_leaves_no_entry(subject: Subject) -> None:
    entry = an_entry(subject)
    first = begin(entry)
    entry.not_made()
    assert subject.line.waiting == []
    assert await entry.wait() is None
    assert begin(entry).batch.entering[0].id != first.batch.entering[0].id, "the next claim"
    entry.release()
    await settle()
    assert len(subject.queue.turns) == 1


async def test_lost_entry_enters_with_the_next_batch(subject: Subject) -> None:
    entry = an_entry(subject)
    begun = begin(entry)
    entry.lost()
    subject.queue.grant_after_s = 0.0
    assert await entry.wait() is not None
    assert subject.queue.reported == [(begun.batch.entering[0].id, None)]


async def test_released_entry_leaves_the_queue(subject: Subject) -> None:
    entry = an_entry(subject)
    begun = begin(entry)
    entry.made(result(subject, begun))
    entry.release()
    await settle()
    left = [one.id for batch in subject.queue.turns for one in batch.leaving]
    assert left == [begun.batch.entering[0].id]
    assert subject.line.waiting == []


async def test_local_queue_has_no_early_entries(subject: Subject) -> None:
    subject.queue.unavailable = True
    waiting = subject.admit_task()
    await settle()
    assert subject.line.is_local
    assert an_entry(subject).begin() is None
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_call_that_cannot_be_sent_takes_no_slot(subject: Subject) -> None:
    assert an_entry(subject, is_ready=False).begin() is None


async def test_unsent_pause_prevents_early_entries(subject: Subject) -> None:
    subject.line.throttled(pause_s=1.0, named_rate=None)
    assert an_entry(subject).begin() is None
    await settle()
    assert an_entry(subject).begin() is not None, "the store knows the pause now"
