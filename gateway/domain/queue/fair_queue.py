"""Who goes next, and when: start-time fair queueing before a generic cell rate algorithm. Pure.

Each call gets a start tag: where its caller's last one ends in virtual time, or now in virtual
time if that is later. The lowest tag goes first, so whoever asks fifty times has fifty tags in a
row and gets one turn of each round. Goyal, Vin and Cheng, SIGCOMM 1996; GCRA: ITU-T I.371.

This is the queue in one process's memory, for the time without Redis. While Redis is there,
`drivers/valkey/lua/fair_queue.lua` does the same for all replicas; a test holds the two equal.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.domain.model import Priority, QueueRequest
from gateway.domain.queue.adaptation import LearnedRate, after_429, after_calls, rate
from gateway.domain.queue.pacing import Pace

LATE_MAX_S = 0.05
"""A slot that is not used by then is given up; bursts are smaller by as much."""
BULK_EVERY = 8
"""One slot in so many is for bulk calls while interactive ones wait."""
_OVERDUE_FACTOR = 1.25
_OVERDUE_MORE_S = 0.5
"""One that waits already is sent away only if its wait is clearly longer than its patience."""
_FINISH_TAGS_MIN = 1_024


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """What one budget allows, by the operators' word; what it learns stays below."""

    windows: tuple[Pace, ...]
    """All of them hold at once; the first is the one that adapts."""
    queue_max: int
    """Calls that may wait, over all replicas."""
    caller_max: int
    """Calls that one caller may have waiting."""

    @property
    def ceiling(self) -> float:
        """Calls a second."""
        return 1.0 / self.windows[0].interval_s

    def with_ceiling(self, per_s: float) -> "BudgetLimit":
        """Return the same with another ceiling, in calls a second."""
        first = Pace(per_s, 1.0, self.windows[0].burst)
        return replace(self, windows=(first, *self.windows[1:]))

    def share(self, processes: int) -> "BudgetLimit":
        return replace(self, windows=tuple(pace.share(processes) for pace in self.windows))


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A call that waits, or wants to."""

    id: str
    """Sorts by when it was made: that is the order among equal tags."""
    request: QueueRequest
    timeout_s: float
    """It would rather be told at once than wait longer."""
    tag: float | None = None
    """Its start tag, if it has been given one; lower than any is 0."""


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """A call that waits, and all who wait for it now.

    It takes the best of their places, and whoever has that one is charged: else whoever joins a
    greedy caller's call would wait as long as the greedy one does. This is priority inheritance;
    Sha, Rajkumar and Lehoczky, IEEE Transactions on Computers 1990.
    """

    entry: QueueEntry
    waiters: Sequence[QueueRequest]
    """Each caller once."""


@dataclass(frozen=True, slots=True)
class Throttling:
    """A 429."""

    pause_s: float
    named_rate: float | None
    """Calls a second, where the cloud named its limit."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """What replicas keep in mind of a budget, so that nothing is lost with Redis."""

    tats: tuple[float, ...]
    """Theoretical arrival times, one per window."""
    virtual_time: float = 0.0
    paused_until: float = float("-inf")
    learned: LearnedRate | None = None
    version: int = 0
    """Counts the turns that Redis made of it; a lower one there has lost some."""


@dataclass(frozen=True, slots=True)
class QueueBatch:
    """What one replica has to tell the queue, all at once."""

    leaving: Sequence[QueueEntry] = ()
    throttlings: Sequence[Throttling] = ()
    entering: Sequence[QueueEntry] = ()
    shared: Sequence[SharedEntry] = ()
    """Calls for which others wait than did before."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of a turn; all times are monotonic seconds of this process."""

    state: QueueState
    waiting: int
    next_at: float | None
    """When the next slot can be given away; None: nobody waits."""
    granted: dict[str, float] = field(default_factory=dict)
    """When each may be sent: not before, and not LATE_MAX_S after."""
    refused: dict[str, float] = field(default_factory=dict)
    """How long each would have had to wait."""
    tags: dict[str, float] = field(default_factory=dict)
    inherited: dict[str, QueueRequest] = field(default_factory=dict)
    """Whose place a shared call has taken."""


def weight_of(groups: Iterable[str], group_weights: Mapping[str, float]) -> float:
    """Tell a person's weight: that of the heaviest of their groups, 1 if none has any."""
    return max((group_weights[name] for name in groups if name in group_weights), default=1.0)


def tolerance_s(pace: Pace) -> float:
    return max(0.0, pace.tolerance_s - LATE_MAX_S)


def without_burst(limit: BudgetLimit, now: float, *, used: int) -> tuple[float, ...]:
    """TATs of a budget whose bursts are spent, and so many slots from now on, too."""
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
        """Go by another limit from now on; it has as many windows."""
        self._limit = limit

    def apply(self, now: float, batch: QueueBatch, *, look_ahead_s: float = 0.0) -> BatchResult:
        """Take in what is told and give away the slots up to `look_ahead_s` from now."""
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
        # The cloud's bucket is empty: ours is, too, when the pause ends.
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
        """Tell whether the caller has as many calls waiting as one may have."""
        return (start - self._state.virtual_time) * request.weight >= self._limit.caller_max

    def _inherit_priority(
        self,
        now: float,
        call: SharedEntry,
        refused: dict[str, float],
        inherited: dict[str, QueueRequest],
    ) -> None:
        entry = self._entries.get(call.entry.id)
        if entry is None or not entry.tag:  # it has its slot, or is at the head already
            return
        payer, held = call.entry.request, entry.tag
        best: tuple[float, QueueRequest] | None = None
        for one in call.waiters:
            pays = one.caller == payer.caller
            start = held if pays else self._start(one)
            if (pays or not self._is_full(one, start)) and (best is None or start < best[0]):
                best = start, one
        if best is None:
            refused[entry.id] = self._wait_s(now, payer.priority, held, entry.id)
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
        """Send the last in line away, unless that would be the newcomer."""
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
        bulk_s_turn = self._turns % BULK_EVERY == BULK_EVERY - 1
        return bulk if bulk and (bulk_s_turn or not interactive) else interactive

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
        """When the call with so many before it may go."""
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
        """Half of each burst is left after one more call, nobody waits and nothing hurts."""
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
