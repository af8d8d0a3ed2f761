"""The upstream budgets: each call waits in a fair queue for a slot.

All replicas share the queue in Redis. One task per budget submits changes to it when calls enter
or leave or a slot is due; changes in between share one round trip. While Redis is unavailable, the
same queue runs in memory with this process's share of the budget. When Redis recovers, waiting
calls enter the shared queue again.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

from gateway.domain.errors import BudgetExhausted, StoreUnavailable
from gateway.domain.model import BudgetClass, Priority, QueueRequest
from gateway.domain.queue.adaptation import bare_pause_s, rate
from gateway.domain.queue.fair_queue import (
    LATE_MAX_S,
    BatchResult,
    BudgetLimit,
    FairQueue,
    QueueBatch,
    QueueEntry,
    QueueState,
    SharedEntry,
    Throttling,
    without_burst,
)
from gateway.flow.clock import Clock
from gateway.flow.shared_queue import EntryBatch, QueueUpdate, SharedQueue
from gateway.flow.telemetry import Telemetry
from gateway.flow.waiters import Waiters

_CALL_S = 0.5
"""The part of a deadline that is reserved for the call itself, after its slot."""
_REFRESH_S = 0.5
_REFRESH_MAX = 200
"""Entries that one batch confirms, in case a message or the server was lost."""
_JITTER_S = 0.008
"""Replicas wait for random times: one takes a slot, and its update reaches the others."""
_BATCH_EVERY_S = 0.002
_BATCH_GAP_S = 0.005
"""Calls that enter within this time after a batch share the next one, if several did before:
waiting for others pays only while calls arrive faster than batches can be sent."""
_TIMER_PRECISION_S = 0.000_5
_PAUSE_MAX_S = 300.0
_HEAD = 0.0


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that waits for a slot."""

    request: QueueRequest
    deadline: float
    until: float
    began: float
    tag: float | None
    waiters: Waiters | None = None
    id: str = ""
    is_entered: bool = False
    """Its entry was made before the wait for the slot begins."""
    confirmed_at: float = 0.0
    slot: "asyncio.Future[float]" = field(init=False)

    def entry(self, now: float) -> QueueEntry:
        return QueueEntry(self.id, self.request, max(0.0, self.until - now), self.tag)

    def requests(self) -> list[QueueRequest]:
        """Return the callers that wait for the call, at the priority of the call."""
        waiters = () if self.waiters is None else self.waiters.all
        return [replace(request, priority=self.request.priority) for request in waiters]


class BudgetQueue:
    """One account's budget of one class."""

    def __init__(  # noqa: PLR0913 - its dependencies
        self,
        account: str,
        budget: BudgetClass,
        *,
        limit: BudgetLimit,
        wait_max_s: float,
        processes_max: int,
        shared: SharedQueue,
        clock: Clock,
        telemetry: Telemetry,
        jitter: Callable[[], float],
    ) -> None:
        self.account = account
        self.budget = budget
        self.limit = self._configured = limit
        self._wait_max_s = wait_max_s
        self._processes_max = processes_max
        self._shared = shared
        self._clock = clock
        self._telemetry = telemetry
        self._jitter = jitter
        self._state = QueueState(tats=())
        self._local: FairQueue | None = None
        self._is_joined = False
        """The last batch reached the store, so other entries need not wait for a batch."""
        self._waiting: dict[str, WaitingCall] = {}
        self._entering: list[WaitingCall] = []
        self._leaving: list[QueueEntry] = []
        self._to_share: list[WaitingCall] = []
        self._throttlings: list[Throttling] = []
        self._wake = asyncio.Event()
        """Set to look again whether a batch is due."""
        self._is_due = False
        self._gathers = False
        self._next_at: float | None = None
        self._late_by = 0.0
        self._submitted_at = 0.0
        self._submitted = asyncio.Event()
        """Set when the next batch has been submitted."""
        self.queued = 0
        """The number of waiting calls, of all replicas or of the local queue."""
        shared.on_update(self._update)
        shared.on_availability_change(self._submit_soon)

    def set_rate_ceiling(self, per_s: float | None) -> None:
        """Apply a rate ceiling from the next batch on, in calls per second; None: the config's."""
        limit = self._configured if per_s is None else self._configured.with_ceiling(per_s)
        if limit != self.limit:
            self.limit = limit
            self._shared.set_limit(limit)
            if self._local is not None:
                self._local.set_limit(limit.share(self._processes))
            self._submit_soon()

    @property
    def waiting(self) -> list[str]:
        """The callers of the calls that wait in this process, one entry per call."""
        return [call.request.caller for call in self._waiting.values()]

    @property
    def rate(self) -> float:
        """The rate of all replicas together, now, in calls per second."""
        return rate(self._state.learned, self.limit.ceiling, self._clock.monotonic())

    @property
    def expected_wait_s(self) -> float:
        """How long a call that enters now waits, as the queue looks."""
        return self.paused_s + self.queued / self._rate_here

    @property
    def spare_interval_s(self) -> float | None:
        """The time between two slots; None while calls wait, or the cloud has paused them."""
        return None if self.queued or self.paused_s else 1.0 / self._rate_here

    @property
    def _rate_here(self) -> float:
        return self.rate / self._processes if self.is_local else self.rate

    @property
    def paused_s(self) -> float:
        return max(0.0, self._state.paused_until - self._clock.monotonic())

    @property
    def is_local(self) -> bool:
        return self._local is not None

    async def admit(
        self,
        request: QueueRequest,
        *,
        deadline: float,
        requeued: bool,
        waiters: Waiters | None = None,
    ) -> float:
        return await self.wait(self._new_call(request, deadline, waiters, requeued=requeued))

    def _new_call(
        self, request: QueueRequest, deadline: float, waiters: Waiters | None, *, requeued: bool
    ) -> WaitingCall:
        began = self._clock.monotonic()
        left_s = max(0.0, deadline - began)
        until = began + min(self._wait_max_s, left_s - min(_CALL_S, left_s / 2))
        tag = _HEAD if requeued else None
        call = WaitingCall(request, deadline, until, began, tag, waiters)
        if waiters is not None:
            waiters.on_change = partial(self._share_again, call)
        return call

    def begin_entry(
        self, request: QueueRequest, *, deadline: float, waiters: Waiters | None
    ) -> tuple[WaitingCall, EntryBatch] | None:
        """Register a call that a claim enters; None if it must enter with the next batch.

        It must while the queue is local: the batch after its return merges what was used.
        """
        if not self._is_joined or self._throttlings or not self._shared.available:
            return None
        call = self._new_call(request, deadline, waiters, requeued=False)
        self._register(call)
        call.confirmed_at = call.began
        batch = QueueBatch(entering=[call.entry(call.began)])
        return call, EntryBatch(self._shared, batch, self._state)

    def entry_made(self, call: WaitingCall, result: BatchResult) -> None:
        call.is_entered = True
        self._accept(result, is_newest=self._is_joined and self._is_newest(result))
        if call.id in self._waiting:
            if call.waiters is not None and len(call.waiters.all) > 1:
                self._share_again(call)
            self._wake.set()

    def entry_lost(self, call: WaitingCall) -> None:
        call.is_entered = True
        if call.id in self._waiting:
            self._entering.append(call)
            self._submit_soon()

    def leave(self, call: WaitingCall, *, was_made: bool = True) -> None:
        """Remove a call that has no slot yet; a slot that it has is lost."""
        is_waiting = self._waiting.pop(call.id, None) is not None
        if is_waiting and (was_made or self.is_local):
            self._leaving.append(call.entry(0.0))
            self._submit_soon()
        if not call.slot.cancel() and not call.slot.cancelled():
            call.slot.exception()  # retrieved: asyncio does not log it as lost

    async def wait(self, call: WaitingCall) -> float:
        """Wait for a slot that the call can use; return the time until which it is valid."""
        while True:
            slot = await self._wait_for_slot(call)
            now = self._clock.monotonic()
            if now < slot <= call.deadline:  # later if a clock was set during the wait
                await self._clock.sleep(slot - now)
                now = self._clock.monotonic()
            if self._is_usable(call, slot, now):
                break
            if call.request.priority is Priority.SPARE:
                raise BudgetExhausted("the spare slot was lost", retry_after_s=0.0)
            self._telemetry.budget_slot_lost(self.account, self.budget)
            call.tag = _HEAD if call.tag is None else call.tag
        self._telemetry.budget_wait(self.account, self.budget, now - call.began)
        return slot + LATE_MAX_S

    def take_slot(self, call: WaitingCall) -> float | None:
        """Return as `wait` does, if the call has a slot that it can use now; otherwise None."""
        if not call.slot.done() or call.slot.exception() is not None:
            return None
        slot, now = call.slot.result(), self._clock.monotonic()
        if now < slot or not self._is_usable(call, slot, now):
            return None
        self._telemetry.budget_wait(self.account, self.budget, now - call.began)
        return slot + LATE_MAX_S

    def _is_usable(self, call: WaitingCall, slot: float, now: float) -> bool:
        in_time = slot <= call.deadline and now <= slot + LATE_MAX_S
        return in_time and now >= self._state.paused_until

    def throttled(self, *, pause_s: float | None, named_rate: float | None) -> None:
        now = self._clock.monotonic()
        if pause_s is None:
            pause_s = bare_pause_s(self._state.learned, now)
        pause_s = min(pause_s, _PAUSE_MAX_S)
        until = now + pause_s
        # Calls in this process that have a slot check this before they are sent.
        self._state = _with_pause(self._state, until)
        self._throttlings.append(Throttling(pause_s, named_rate))
        self._submit_soon()

    async def run(self) -> None:
        """Submit batches, until cancelled."""
        # The first batch only compares the clocks: without it, a call could get a slot up to a
        # second too late.
        await self._submit(QueueBatch())
        while True:
            await self._wait_until_due()
            if self._local is not None and self._shared.available:
                self._rejoin()
            await self._submit(self._next_batch())
            self._submitted.set()
            self._submitted = asyncio.Event()

    async def refresh(self) -> None:
        """Submit a batch, for the state as all replicas see it; `run` must be running."""
        submitted = self._submitted
        self._submit_soon()
        await submitted.wait()

    async def _wait_for_slot(self, call: WaitingCall) -> float:
        loop = asyncio.get_running_loop()
        if call.is_entered:
            call.is_entered = False
            if call.slot.done():
                return call.slot.result()
        else:
            self._register(call)
            self._entering.append(call)
            self._share_again(call)
            self._submit_soon()
        # A plain timer: asyncio.timeout() takes five times the memory, and queues are long.
        timeout_s = call.until - self._clock.monotonic() + LATE_MAX_S
        timeout = loop.call_later(timeout_s, self._time_out, call)
        try:
            return await call.slot
        finally:
            timeout.cancel()
            self.leave(call)

    def _register(self, call: WaitingCall) -> None:
        call.id, call.confirmed_at = self._shared.new_id(), 0.0
        call.slot = asyncio.get_running_loop().create_future()
        self._waiting[call.id] = call

    def _share_again(self, call: WaitingCall) -> None:
        """Look for the best place again, because the waiters of the call have changed."""
        if call.waiters is not None and call.id in self._waiting:
            self._to_share.append(call)
            self._submit_soon()

    def _time_out(self, call: WaitingCall) -> None:
        if not call.slot.done():
            call.slot.set_exception(self._exhausted(call, self.queued / self._rate_here))

    def _exhausted(self, call: WaitingCall, wait_s: float) -> BudgetExhausted:
        if call.request.priority is not Priority.SPARE:
            self._telemetry.budget_refused(self.account, self.budget)
        timeout_s = max(0.0, call.until - self._clock.monotonic())
        return BudgetExhausted(
            f"account {self.account}: next slot in {wait_s:.1f} s",
            retry_after_s=max(0.0, wait_s - timeout_s),
        )

    async def _wait_until_due(self) -> None:
        earliest = self._clock.monotonic() + _BATCH_EVERY_S
        while not self._is_due:
            self._wake.clear()
            left_s = None
            if self._waiting:
                left_s = max(self._due(), earliest) - self._clock.monotonic()
                if left_s <= _TIMER_PRECISION_S:
                    break
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
        gap_s = self._submitted_at + _BATCH_GAP_S - self._clock.monotonic()
        if self._gathers and gap_s > 0:
            await self._clock.sleep(gap_s)
        self._submitted_at = self._clock.monotonic()
        self._is_due = False

    def _submit_soon(self) -> None:
        self._is_due = True
        self._wake.set()

    def _due(self) -> float:
        refresh_at = next(iter(self._waiting.values())).confirmed_at + _REFRESH_S
        if self._next_at is None:
            return refresh_at
        return min(self._next_at + self._late_by, refresh_at)

    async def _submit(self, batch: QueueBatch) -> None:
        try:
            result = await self._shared.apply(batch, self._state)
        except StoreUnavailable:
            self._is_joined = False
            self._accept(self._apply_locally(batch), is_newest=True)
        else:
            self._local, self._is_joined = None, True
            self._accept(result, is_newest=self._is_newest(result))

    def _is_newest(self, result: BatchResult) -> bool:
        """Return whether no result of a later batch has arrived before this one."""
        return result.state.version > self._state.version

    def _accept(self, result: BatchResult, *, is_newest: bool) -> None:
        if is_newest:
            self._state = _with_pause(result.state, self._state.paused_until)
            self._next_at = result.next_at
            if result.next_at is not None:
                self._late_by = _JITTER_S * self._jitter()
            self.queued = result.waiting
        for entry_id, tag in result.tags.items():
            if entry_id in self._waiting:
                self._waiting[entry_id].tag = tag
        for entry_id, donor in result.inherited.items():
            if entry_id in self._waiting:
                self._waiting[entry_id].request = donor
        self._settle(result.granted, result.refused)

    def _next_batch(self) -> QueueBatch:
        """Return the changes since the last batch, and entries to confirm again."""
        now = self._clock.monotonic()
        entered = [call for call in self._entering if call.id in self._waiting]
        stale = [
            call
            for call in islice(self._waiting.values(), _REFRESH_MAX)
            if 0 < call.confirmed_at < now - _REFRESH_S
        ]
        for call in (*stale, *entered):  # ordered by the last confirmation
            call.confirmed_at = now
            self._waiting[call.id] = self._waiting.pop(call.id)
        shared = [
            SharedEntry(call.entry(now), waiters)
            for call in dict.fromkeys(self._to_share)
            if call.id in self._waiting and (waiters := call.requests()) not in ([], [call.request])
        ]
        self._gathers = len(entered) + len(self._leaving) > 1
        batch = QueueBatch(
            self._leaving,
            self._throttlings,
            [call.entry(now) for call in (*stale, *entered)],
            shared,
        )
        self._leaving, self._throttlings, self._entering, self._to_share = [], [], [], []
        return batch

    def _settle(self, granted: Mapping[str, float], refused: Mapping[str, float]) -> None:
        for entry_id, slot in granted.items():
            call = self._waiting.pop(entry_id, None)
            if call is not None and not call.slot.done():
                call.slot.set_result(slot)
        for entry_id, wait_s in refused.items():
            call = self._waiting.pop(entry_id, None)
            if call is not None and not call.slot.done():
                call.slot.set_exception(self._exhausted(call, wait_s))

    def _update(self, update: QueueUpdate) -> None:
        self._state = _with_pause(self._state, update.paused_until)
        self._next_at = update.next_at
        self._settle(update.granted, update.refused)
        if update.replicas_rejoin:
            self._submit_soon()

    def _apply_locally(self, batch: QueueBatch) -> BatchResult:
        """Apply the batch to the local queue, with this process's share of the budget."""
        now = self._clock.monotonic()
        if self._local is None:
            processes = self._processes
            learned = self._state.learned
            # Before any contact with Redis, no slot was used; later, one may just have been used.
            used = 1 if self._state.tats else 0
            limit = self.limit.share(processes)
            self._local = FairQueue(
                limit,
                replace(
                    self._state,
                    tats=without_burst(limit, now, used=used),
                    learned=None if learned is None else learned.scaled(1 / processes),
                ),
            )
            batch = replace(batch, entering=[call.entry(now) for call in self._waiting.values()])
        result = self._local.apply(now, batch)
        learned = result.state.learned
        whole = None if learned is None else learned.scaled(self._processes)
        return replace(result, state=replace(result.state, learned=whole))

    def _rejoin(self) -> None:
        """Give waiting calls new IDs, because their old entries in the store are void."""
        self._shared.rejoin(self._processes)
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for call in waiting:
            call.id, call.confirmed_at = self._shared.new_id(), 0.0
            self._waiting[call.id] = call
        self._entering = waiting
        self._local, self._is_joined = None, False

    @property
    def _processes(self) -> int:
        return max(self._shared.processes, self._processes_max)


def _with_pause(state: QueueState, paused_until: float) -> QueueState:
    if paused_until <= state.paused_until:
        return state
    return replace(state, paused_until=paused_until)
