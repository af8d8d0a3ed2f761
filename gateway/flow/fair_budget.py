"""A place in the account's budget: in the queue that all replicas share, or in one's own.

Each budget is one loop that takes its turn at the queue whenever somebody came or left, or a slot
is due: what gathered in between goes over in one round trip. While Redis is away the same queue is
kept in memory, with this process's share of the budget; when it is back, who waits moves back.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Protocol

from gateway.domain.errors import BudgetExhausted, StoreUnavailable
from gateway.domain.model import BudgetClass, Priority, QueueRequest
from gateway.domain.queue.adaptation import rate
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
from gateway.flow.telemetry import Telemetry
from gateway.flow.waiters import Waiters

_CALL_S = 0.5
"""What is left of a deadline for the call itself when its slot comes."""
_REFRESH_S = 0.5
_REFRESH_MAX = 200
"""Entries that are told again at once, in case a message or a server was lost."""
_JITTER_S = 0.008
"""One replica is first at a slot; the others then hear that it is gone."""
_TURN_EVERY_S = 0.002
_TURN_GAP_S = 0.005
"""Who comes within so short a time of a turn takes the next one together: it costs no more."""
_AS_GOOD_AS_DUE_S = 0.000_5
_PAUSE_UNNAMED_S = 3.0
"""The vendor's advice is 2 to 5 s where it names no span (dossier 2.5)."""
_PAUSE_MAX_S = 300.0
_HEAD = 0.0


@dataclass(frozen=True, slots=True)
class QueueUpdate:
    """What another replica's turn at the queue meant for this one."""

    granted: Mapping[str, float]
    refused: Mapping[str, float]
    paused_until: float
    next_at: float | None
    replicas_rejoin: bool
    """Some come back from a time alone; whoever is here says so by a turn."""


class SharedQueue(Protocol):
    """One budget's queue over all replicas (rules/fair_queue.py says how it goes)."""

    @property
    def available(self) -> bool: ...

    def set_limit(self, limit: BudgetLimit) -> None:
        """Go by another limit from the next turn on; it has as many windows."""

    @property
    def processes(self) -> int:
        """How many were alive when the store was last seen; 0: it never was."""

    def new_id(self) -> str:
        """Name an entry of this replica's."""

    async def apply(self, batch: QueueBatch, state: QueueState) -> BatchResult:
        """Tell the queue and be told, in one round trip; raises StoreUnavailable.

        `state` is what this replica knows, and fills in what the store may have lost.
        """

    def rejoin(self, processes: int) -> None:
        """Come back after a time alone, one of so many: all entries made before are void."""

    def on_update(self, call: Callable[[QueueUpdate], None]) -> None: ...

    def on_availability_change(self, call: Callable[[], None]) -> None: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    request: QueueRequest
    until: float
    tag: float | None
    waiters: Waiters | None = None
    id: str = ""
    confirmed_at: float = 0.0
    slot: "asyncio.Future[float]" = field(init=False)

    def entry(self, now: float) -> QueueEntry:
        return QueueEntry(self.id, self.request, max(0.0, self.until - now), self.tag)

    def requests(self) -> list[QueueRequest]:
        """Return whom the call is for, in the line that it waits in."""
        waiters = () if self.waiters is None else self.waiters.all
        return [replace(one, priority=self.request.priority) for one in waiters]


class BudgetQueue:
    """One account's budget of one class."""

    def __init__(  # noqa: PLR0913 - each part is told what it needs
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
        self._waiting: dict[str, _Waiting] = {}
        self._entering: list[_Waiting] = []
        self._leaving: list[QueueEntry] = []
        self._to_share: list[_Waiting] = []
        self._throttlings: list[Throttling] = []
        self._wake = asyncio.Event()
        self._next_at: float | None = None
        self._late_by = 0.0
        self._turned_at = 0.0
        self.queued = 0
        """How many wait, over all replicas that this one can see."""
        shared.on_update(self._update)
        shared.on_availability_change(self._wake.set)

    def set_rate_ceiling(self, per_s: float | None) -> None:
        """Go by another ceiling from the next turn on, in calls a second; None: the config's."""
        limit = self._configured if per_s is None else self._configured.with_ceiling(per_s)
        if limit != self.limit:
            self.limit = limit
            self._shared.set_limit(limit)
            if self._local is not None:
                self._local.set_limit(limit.share(self._processes))
            self._wake.set()

    @property
    def waiting(self) -> list[str]:
        """Who waits here, each caller as often as they have calls that wait."""
        return [one.request.caller for one in self._waiting.values()]

    @property
    def rate(self) -> float:
        """Calls a second that all replicas together may send now."""
        return rate(self._state.learned, self.limit.ceiling, self._clock.monotonic())

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
        began = self._clock.monotonic()
        left_s = max(0.0, deadline - began)
        until = began + min(self._wait_max_s, left_s - min(_CALL_S, left_s / 2))
        one = _Waiting(request, until, tag=_HEAD if requeued else None, waiters=waiters)
        if waiters is not None:
            waiters.on_change = partial(self._share_again, one)
        while True:
            slot = await self._wait_for_slot(one)
            now = self._clock.monotonic()
            comes_in_time = slot <= deadline  # else it is by a clock that was set meanwhile
            if now < slot and comes_in_time:
                await self._clock.sleep(slot - now)
                now = self._clock.monotonic()
            if comes_in_time and now <= slot + LATE_MAX_S and now >= self._state.paused_until:
                break
            if request.priority is Priority.SPARE:
                raise BudgetExhausted("the spare slot was lost", retry_after_s=0.0)
            self._telemetry.budget_slot_lost(self.account, self.budget)
            one.tag = _HEAD if one.tag is None else one.tag
        self._telemetry.budget_wait(self.account, self.budget, now - began)
        return slot + LATE_MAX_S

    def throttled(self, *, pause_s: float | None, named_rate: float | None) -> None:
        pause_s = min(_PAUSE_UNNAMED_S if pause_s is None else pause_s, _PAUSE_MAX_S)
        until = self._clock.monotonic() + pause_s
        # Whoever holds a slot here looks at this before they send.
        self._state = _with_pause(self._state, until)
        self._throttlings.append(Throttling(pause_s, named_rate))
        self._wake.set()

    async def run(self) -> None:
        """Take turns at the queue, for ever."""
        # Until it has answered once nobody knows how its clock stands to ours: whoever entered
        # by then would be given a slot a second later than there is one.
        await self._submit(QueueBatch())
        while True:
            await self._wait_until_due()
            if self._local is not None and self._shared.available:
                self._rejoin()
            await self._submit(self._next_batch())

    async def _wait_for_slot(self, one: _Waiting) -> float:
        loop = asyncio.get_running_loop()
        one.id, one.confirmed_at, one.slot = self._shared.new_id(), 0.0, loop.create_future()
        self._waiting[one.id] = one
        self._entering.append(one)
        self._share_again(one)
        self._wake.set()
        # A timer of its own: asyncio.timeout() takes five times the memory, and the queue is long.
        timeout_s = one.until - self._clock.monotonic() + LATE_MAX_S
        timeout = loop.call_later(timeout_s, self._time_out, one)
        try:
            return await one.slot
        finally:
            timeout.cancel()
            if self._waiting.pop(one.id, None) is not None:
                self._leaving.append(one.entry(0.0))
                self._wake.set()

    def _share_again(self, one: _Waiting) -> None:
        """Look for the best place once more, since others wait for the call than did before."""
        if one.waiters is not None and one.id in self._waiting:
            self._to_share.append(one)
            self._wake.set()

    def _time_out(self, one: _Waiting) -> None:
        if not one.slot.done():
            rate_here = self.rate / self._processes if self.is_local else self.rate
            one.slot.set_exception(self._exhausted(one, self.queued / rate_here))

    def _exhausted(self, one: _Waiting, wait_s: float) -> BudgetExhausted:
        if one.request.priority is not Priority.SPARE:
            self._telemetry.budget_refused(self.account, self.budget)
        timeout_s = max(0.0, one.until - self._clock.monotonic())
        return BudgetExhausted(
            f"account {self.account}: next slot in {wait_s:.1f} s",
            retry_after_s=max(0.0, wait_s - timeout_s),
        )

    async def _wait_until_due(self) -> None:
        earliest = self._clock.monotonic() + _TURN_EVERY_S
        while not self._wake.is_set():
            if not self._waiting:
                await self._wake.wait()
                break
            left_s = max(self._due(), earliest) - self._clock.monotonic()
            if left_s <= _AS_GOOD_AS_DUE_S:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
        gap_s = self._turned_at + _TURN_GAP_S - self._clock.monotonic()
        if gap_s > 0:
            await self._clock.sleep(gap_s)
        self._turned_at = self._clock.monotonic()
        self._wake.clear()

    def _due(self) -> float:
        refresh_at = next(iter(self._waiting.values())).confirmed_at + _REFRESH_S
        if self._next_at is None:
            return refresh_at
        return min(self._next_at + self._late_by, refresh_at)

    async def _submit(self, batch: QueueBatch) -> None:
        try:
            outcome = await self._shared.apply(batch, self._state)
        except StoreUnavailable:
            outcome = self._apply_locally(batch)
        else:
            self._local = None
        self._state = _with_pause(outcome.state, self._state.paused_until)
        self._next_at = outcome.next_at
        self._late_by = _JITTER_S * self._jitter()
        self.queued = outcome.waiting
        for entry_id, tag in outcome.tags.items():
            if entry_id in self._waiting:
                self._waiting[entry_id].tag = tag
        for entry_id, donor in outcome.inherited.items():
            if entry_id in self._waiting:
                self._waiting[entry_id].request = donor
        self._settle(outcome.granted, outcome.refused)

    def _next_batch(self) -> QueueBatch:
        """Take what came up since the last turn, and who has not been confirmed for a while."""
        now = self._clock.monotonic()
        came = [one for one in self._entering if one.id in self._waiting]
        stale = [
            one
            for one in islice(self._waiting.values(), _REFRESH_MAX)
            if 0 < one.confirmed_at < now - _REFRESH_S
        ]
        for one in (*stale, *came):  # the dictionary's order is that of the last confirmation
            one.confirmed_at = now
            self._waiting[one.id] = self._waiting.pop(one.id)
        shared = [
            SharedEntry(one.entry(now), waiters)
            for one in dict.fromkeys(self._to_share)
            if one.id in self._waiting and (waiters := one.requests()) not in ([], [one.request])
        ]
        batch = QueueBatch(
            self._leaving, self._throttlings, [one.entry(now) for one in (*stale, *came)], shared
        )
        self._leaving, self._throttlings, self._entering, self._to_share = [], [], [], []
        return batch

    def _settle(self, granted: Mapping[str, float], refused: Mapping[str, float]) -> None:
        for entry_id, slot in granted.items():
            one = self._waiting.pop(entry_id, None)
            if one is not None and not one.slot.done():
                one.slot.set_result(slot)
        for entry_id, wait_s in refused.items():
            one = self._waiting.pop(entry_id, None)
            if one is not None and not one.slot.done():
                one.slot.set_exception(self._exhausted(one, wait_s))

    def _update(self, news: QueueUpdate) -> None:
        self._state = _with_pause(self._state, news.paused_until)
        self._next_at = news.next_at
        self._settle(news.granted, news.refused)
        if news.replicas_rejoin:
            self._wake.set()

    def _apply_locally(self, batch: QueueBatch) -> BatchResult:
        """Take the turn at the queue in this process's memory, with its share of the budget."""
        now = self._clock.monotonic()
        if self._local is None:
            share = self._processes
            learned = self._state.learned
            # One who never saw Redis begins at once; else the last call may have been just now.
            used = 1 if self._state.tats else 0
            limit = self.limit.share(share)
            self._local = FairQueue(
                limit,
                replace(
                    self._state,
                    tats=without_burst(limit, now, used=used),
                    learned=None if learned is None else learned.scaled(1 / share),
                ),
            )
            batch = replace(batch, entering=[one.entry(now) for one in self._waiting.values()])
        outcome = self._local.apply(now, batch)
        learned = outcome.state.learned
        whole = None if learned is None else learned.scaled(self._processes)
        return replace(outcome, state=replace(outcome.state, learned=whole))

    def _rejoin(self) -> None:
        """Give everybody who waits a new name: what the store still has of them is void."""
        self._shared.rejoin(self._processes)
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for one in waiting:
            one.id, one.confirmed_at = self._shared.new_id(), 0.0
            self._waiting[one.id] = one
        self._entering = waiting
        self._local = None

    @property
    def _processes(self) -> int:
        return max(self._shared.processes, self._processes_max)


def _with_pause(state: QueueState, paused_until: float) -> QueueState:
    if paused_until <= state.paused_until:
        return state
    return replace(state, paused_until=paused_until)


class FairBudget:
    """All budgets of all accounts (port `Budget`)."""

    def __init__(self, queues: Iterable[BudgetQueue]) -> None:
        self._queues = {(queue.account, queue.budget): queue for queue in queues}

    @property
    def queues(self) -> tuple[BudgetQueue, ...]:
        return tuple(self._queues.values())

    def set_rate_ceilings(self, per_s: Mapping[tuple[str, str], float]) -> None:
        """Go by these ceilings, by account and class, and by the config's where none is given."""
        for queue in self.queues:
            queue.set_rate_ceiling(per_s.get((queue.account, queue.budget.value)))

    async def admit(
        self,
        account: str,
        budget: BudgetClass,
        request: QueueRequest,
        *,
        deadline: float,
        requeued: bool = False,
        waiters: Waiters | None = None,
    ) -> float:
        queue = self._queues[account, budget]
        return await queue.admit(request, deadline=deadline, requeued=requeued, waiters=waiters)

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        self._queues[account, budget].throttled(pause_s=pause_s, named_rate=named_rate)
