"""Start-time fair queueing in front of a generic cell rate algorithm (GCRA). Pure.

Each call gets a start tag: the end of its caller's previous call in virtual time, or the present
virtual time if that is later. The lowest tag goes first. A caller with fifty requests has fifty
consecutive tags and gets one turn per round. Sources: Goyal, Vin and Cheng, SIGCOMM 1996; GCRA:
ITU-T I.371.

This queue lives in one process's memory and serves while Redis is unavailable. Otherwise
`drivers/valkey/lua/fair_queue.lua` does the same for all replicas; a test holds the two equal.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.domain.model import Priority, QueueRequest
from gateway.domain.queue.adaptation import LearnedRate, after_429, after_calls, rate
from gateway.domain.queue.pacing import Pace

LATE_MAX_S = 0.05
"""A slot that is not used within this time is lost; bursts are smaller by the same amount."""
BULK_EVERY = 8
"""While interactive calls wait, every eighth slot is for bulk calls."""
_OVERDUE_FACTOR = 1.25
_OVERDUE_MORE_S = 0.5
"""A waiting call is rejected only if its wait clearly exceeds its timeout."""
_FINISH_TAGS_MIN = 1_024


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """The configured limit of one budget; the learned rate is at or below it."""

    windows: tuple[Pace, ...]
    """All of them apply at once; the first one adapts."""
    queue_max: int
    """Calls that may wait, over all replicas."""
    caller_max: int
    """Calls that one caller may have waiting."""

    @property
    def ceiling(self) -> float:
        """Calls per second."""
        return 1.0 / self.windows[0].interval_s

    def with_ceiling(self, per_s: float) -> "BudgetLimit":
        """Return the same limit with another ceiling, in calls per second."""
        first = Pace(per_s, 1.0, self.windows[0].burst)
        return replace(self, windows=(first, *self.windows[1:]))

    def share(self, processes: int) -> "BudgetLimit":
        return replace(self, windows=tuple(pace.share(processes) for pace in self.windows))


@dataclass(slots=True)  # not frozen: made per call, and a frozen one takes ten times longer
class QueueEntry:
    """A call that waits or enters."""

    id: str
    """Sorts by creation time, which decides among equal tags."""
    request: QueueRequest
    timeout_s: float
    """The call is rejected at once if it would wait longer."""
    tag: float | None = None
    """Its start tag, once assigned. 0 is the head of the queue."""


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """A waiting call with all callers that wait for its result.

    It takes the best of their places, and the caller of that place is charged (priority
    inheritance; Sha, Rajkumar and Lehoczky, IEEE Transactions on Computers 1990). Otherwise a
    caller that joins a greedy caller's call would wait as long as the greedy caller does.
    """

    entry: QueueEntry
    waiters: Sequence[QueueRequest]
    """Each caller once."""


@dataclass(frozen=True, slots=True)
class Throttling:
    """A 429."""

    pause_s: float
    named_rate: float | None
    """Calls per second, if the cloud named its limit."""


@dataclass(slots=True)  # not frozen: made per call, and a frozen one takes ten times longer
class QueueState:
    """The state of a budget. Replicas keep a copy, which restores it after a loss in Redis."""

    tats: tuple[float, ...]
    """Theoretical arrival times, one per window."""
    virtual_time: float = 0.0
    paused_until: float = float("-inf")
    learned: LearnedRate | None = None
    version: int = 0
    """Number of batches that Redis applied. A lower number in Redis means lost writes."""


@dataclass(slots=True)  # not frozen: made per call, and a frozen one takes ten times longer
class QueueBatch:
    """Everything that one replica reports to the queue in one step."""

    leaving: Sequence[QueueEntry] = ()
    throttlings: Sequence[Throttling] = ()
    entering: Sequence[QueueEntry] = ()
    shared: Sequence[SharedEntry] = ()
    """Calls whose set of waiting callers changed."""


@dataclass(slots=True)  # not frozen: made per call, and a frozen one takes ten times longer
class BatchResult:
    """The result of a batch. All times are monotonic seconds of this process."""

    state: QueueState
    waiting: int
    next_at: float | None
    """When the next slot can be granted; None if no call waits."""
    granted: dict[str, float] = field(default_factory=dict)
    """Slot per call: it may be sent from then until LATE_MAX_S later."""
    refused: dict[str, float] = field(default_factory=dict)
    """The wait in seconds that each rejected call would have had."""
    tags: dict[str, float] = field(default_factory=dict)
    inherited: dict[str, QueueRequest] = field(default_factory=dict)
    """The request whose place a shared call took."""


def weight_of(groups: Iterable[str], group_weights: Mapping[str, float]) -> float:
    """Return the highest weight among a person's groups, 1 without one."""
    return max((group_weights[name] for name in groups if name in group_weights), default=1.0)


def tolerance_s(pace: Pace) -> float:
    return max(0.0, pace.tolerance_s - LATE_MAX_S)


def without_burst(limit: BudgetLimit, now: float, *, used: int) -> tuple[float, ...]:
    """Return the TATs of a budget whose burst and next `used` slots are spent."""
    return tuple(now + tolerance_s(pace) + pace.interval_s * used for pace in limit.windows)


class FairQueue:
    """One budget's queue in memory."""

    def __init__(self, limit: BudgetLimit, state: QueueState) -> None:
        self.set_limit(limit)
        self._state = state
        self._lines: dict[Priority, list[tuple[float, str]]] = {
            Priority.INTERACTIVE: [],
            Priority.BULK: [],
        }
        self._entries: dict[str, QueueEntry] = {}
        self._finish: dict[str, float] = {}
        self._turns = 0

    def set_limit(self, limit: BudgetLimit) -> None:
        """Use another limit from now on. It must have the same number of windows."""
        self._limit = limit

    def apply(self, now: float, batch: QueueBatch, *, look_ahead_s: float = 0.0) -> BatchResult:
        """Apply a batch and grant the slots up to `look_ahead_s` from now."""
        for one in batch.leaving:
            self._leave(one)
        for throttling in batch.throttlings:
            self._pause(now, throttling)
        granted: dict[str, float] = {}
        refused: dict[str, float] = {}
        inherited: dict[str, QueueRequest] = {}
        for entry in batch.entering:
            if entry.request.priority is Priority.SPARE:
                self._take_spare(now, entry, granted, refused)
            else:
                self._enter(now, entry, refused)
        for call in batch.shared:
            self._inherit_priority(now, call, refused, inherited)
        self._dispatch(now, look_ahead_s, granted)
        self._forget_finished()
        return BatchResult(
            state=self._state,
            waiting=len(self._entries),
            next_at=self._slot(now) - look_ahead_s if self._entries else None,
            granted=granted,
            refused=refused,
            tags={
                one.id: tag
                for one in (*batch.entering, *(call.entry for call in batch.shared))
                if (found := self._entries.get(one.id)) is not None
                and (tag := found.tag) is not None
            },
            inherited=inherited,
        )

    def _leave(self, one: QueueEntry) -> None:
        found = self._remove(one.id)
        if found is not None and found.tag:
            self._refund(one.request)

    def _refund(self, request: QueueRequest) -> None:
        if request.caller in self._finish:
            self._finish[request.caller] -= 1.0 / request.weight

    def _pause(self, now: float, throttling: Throttling) -> None:
        state = self._state
        learned = after_429(
            state.learned,
            self._limit.ceiling,
            now,
            pause_s=throttling.pause_s,
            named_rate=throttling.named_rate,
        )
        until = max(state.paused_until, now + throttling.pause_s)
        # The cloud's bucket is empty, so the burst here must be empty when the pause ends.
        first = max(state.tats[0], until + tolerance_s(self._limit.windows[0]))
        self._state = replace(
            state, tats=(first, *state.tats[1:]), paused_until=until, learned=learned
        )

    def _take_spare(
        self, now: float, entry: QueueEntry, granted: dict[str, float], refused: dict[str, float]
    ) -> None:
        if self._has_spare(now):
            self._take(now, now)
            granted[entry.id] = now
        else:
            refused[entry.id] = 0.0

    def _enter(self, now: float, entry: QueueEntry, refused: dict[str, float]) -> None:
        request = entry.request
        known = self._entries.get(entry.id)
        start = entry.tag if known is None else known.tag
        if start is None:
            start = self._start(request)
        wait_s = self._wait_s(now, request.priority, start, entry.id)
        timeout_s = entry.timeout_s
        if entry.tag is not None:
            timeout_s = timeout_s * _OVERDUE_FACTOR + _OVERDUE_MORE_S
        if known is not None:
            if wait_s > timeout_s:
                self._remove(entry.id)
                refused[entry.id] = wait_s
            return
        if wait_s > timeout_s or (entry.tag is None and self._is_full(request, start)):
            refused[entry.id] = wait_s
            return
        if len(self._entries) >= self._limit.queue_max and not self._make_room(
            now, request.priority, start, refused
        ):
            refused[entry.id] = wait_s
            return
        if entry.tag is None:
            self._finish[request.caller] = start + 1.0 / request.weight
        self._entries[entry.id] = replace(entry, tag=start)
        insort(self._lines[request.priority], (start, entry.id))

    def _start(self, request: QueueRequest) -> float:
        return max(self._state.virtual_time, self._finish.get(request.caller, 0.0))

    def _is_full(self, request: QueueRequest, start: float) -> bool:
        """Return whether the caller has its maximum of waiting calls."""
        return (start - self._state.virtual_time) * request.weight >= self._limit.caller_max

    def _inherit_priority(
        self,
        now: float,
        call: SharedEntry,
        refused: dict[str, float],
        inherited: dict[str, QueueRequest],
    ) -> None:
        entry = self._entries.get(call.entry.id)
        if entry is None or not entry.tag:  # granted already, or at the head of the queue
            return
        payer, present = call.entry.request, entry.tag
        best: tuple[float, QueueRequest] | None = None
        for one in call.waiters:
            pays = one.caller == payer.caller
            start = present if pays else self._start(one)
            if (pays or not self._is_full(one, start)) and (best is None or start < best[0]):
                best = start, one
        if best is None:
            refused[entry.id] = self._wait_s(now, payer.priority, present, entry.id)
            self._leave(call.entry)
        elif best[1].caller != payer.caller:
            self._leave(call.entry)
            start, donor = best
            self._finish[donor.caller] = start + 1.0 / donor.weight
            self._entries[entry.id] = replace(entry, request=donor, tag=start)
            insort(self._lines[payer.priority], (start, entry.id))
            inherited[entry.id] = donor

    def _make_room(
        self, now: float, priority: Priority, start: float, refused: dict[str, float]
    ) -> bool:
        """Reject the last entry in fair order, unless the new entry is the last."""
        bulk, interactive = self._lines[Priority.BULK], self._lines[Priority.INTERACTIVE]
        last = Priority.BULK if bulk else Priority.INTERACTIVE
        tag, victim = (bulk or interactive)[-1]
        if last is priority and tag <= start:
            return False
        if last is Priority.INTERACTIVE and priority is Priority.BULK:
            return False
        refused[victim] = self._wait_s(now, last, tag, victim)
        self._remove(victim)
        return True

    def _dispatch(self, now: float, look_ahead_s: float, granted: dict[str, float]) -> None:
        while self._entries:
            slot = self._slot(now)
            if slot > now + look_ahead_s:
                return
            line = self._next_line()
            tag, entry_id = line[0]
            self._remove(entry_id)
            self._take(now, slot)
            self._turns += 1
            self._state = replace(self._state, virtual_time=max(self._state.virtual_time, tag))
            granted[entry_id] = slot

    def _next_line(self) -> list[tuple[float, str]]:
        bulk, interactive = self._lines[Priority.BULK], self._lines[Priority.INTERACTIVE]
        is_bulk_turn = self._turns % BULK_EVERY == BULK_EVERY - 1
        return bulk if bulk and (is_bulk_turn or not interactive) else interactive

    def _remove(self, entry_id: str) -> QueueEntry | None:
        entry = self._entries.pop(entry_id, None)
        if entry is not None and entry.tag is not None:
            line = self._lines[entry.request.priority]
            del line[bisect_left(line, (entry.tag, entry_id))]
        return entry

    def _intervals(self, now: float) -> list[float]:
        intervals = [pace.interval_s for pace in self._limit.windows]
        learned = 1.0 / rate(self._state.learned, self._limit.ceiling, now)
        intervals[0] = max(intervals[0], learned)
        return intervals

    def _slot(self, now: float, rank: int = 0) -> float:
        """Return the slot of a call with `rank` calls before it."""
        slot = max(now, self._state.paused_until)
        for tat, interval, pace in zip(
            self._state.tats, self._intervals(now), self._limit.windows, strict=True
        ):
            slot = max(slot, max(tat, now) + rank * interval - tolerance_s(pace))
        return slot

    def _take(self, now: float, slot: float) -> None:
        tats = tuple(
            max(tat, slot) + interval
            for tat, interval in zip(self._state.tats, self._intervals(now), strict=True)
        )
        learned = after_calls(self._state.learned, 1)
        self._state = replace(self._state, tats=tats, learned=learned)

    def _has_spare(self, now: float) -> bool:
        """Return whether half of each burst remains, no call waits and no pause is on."""
        state = self._state
        if self._entries or now < state.paused_until:
            return False
        return all(
            tat + interval - tolerance_s(pace) / 2 <= now
            for tat, interval, pace in zip(
                state.tats, self._intervals(now), self._limit.windows, strict=True
            )
        )

    def _wait_s(self, now: float, priority: Priority, start: float, entry_id: str) -> float:
        bulk, interactive = self._lines[Priority.BULK], self._lines[Priority.INTERACTIVE]
        last_of_equals = "~"
        sought = entry_id if entry_id in self._entries else last_of_equals
        rank = bisect_left(self._lines[priority], (start, sought))
        if priority is Priority.BULK:
            rank += min(len(interactive), (BULK_EVERY - 1) * (rank + 1))
        else:
            rank += min(len(bulk), rank // (BULK_EVERY - 1))
        return self._slot(now, rank) - now

    def _forget_finished(self) -> None:
        if len(self._finish) > max(_FINISH_TAGS_MIN, 2 * len(self._entries)):
            now = self._state.virtual_time
            self._finish = {caller: tag for caller, tag in self._finish.items() if tag > now}
