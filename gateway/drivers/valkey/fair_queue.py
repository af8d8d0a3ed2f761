"""The queue of one budget in Redis, shared by all replicas (port `SharedQueue`)."""

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from gateway.domain.errors import StoreUnavailable
from gateway.domain.queue.adaptation import LearnedRate
from gateway.domain.queue.fair_queue import (
    BatchResult,
    BudgetLimit,
    QueueBatch,
    QueueEntry,
    QueueState,
    tolerance_s,
)
from gateway.drivers.valkey.connection import SHORT_BYTES, Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.clock import Clock
from gateway.flow.shared_queue import QueueUpdate

_SCRIPT = LuaScript("fair_queue")
_LESSON_AT, _TATS_AT = 6, 14
"""Where the learned rate and the arrival times begin in a reply."""
_LOOK_AHEAD_S = 0.02
"""Slots are granted this long before they start, so that the message arrives in time."""
_LOOK_AHEAD_MAX_S = 0.15
_CLOCK_ERROR_S_MAX = 1.0
"""Messages that seem older, or from the future, are from a server clock not yet compared."""


class _ServerClock:
    """Converts between the server's clock and this process's, by the fastest recent response."""

    _DRIFT = 0.001
    """Upper bound of the drift between two clocks, in seconds per second."""

    def __init__(self, clock: Clock) -> None:
        self._offset_us = (clock.now() - clock.monotonic()) * 1e6
        self._error_s = float("inf")
        self._compared_at = 0.0

    def compare(self, server_us: int, *, began: float, ended: float) -> None:
        """Note that the server's clock read `server_us` between two instants of this process."""
        half_s = (ended - began) / 2
        offset_us = server_us - (began + half_s) * 1e6
        error_s = self.error_s(ended)
        # A disagreement means another server, or that the server's clock was set.
        agrees = abs(offset_us - self._offset_us) <= (half_s + error_s) * 1e6
        if half_s <= error_s or not agrees:
            self._offset_us, self._error_s, self._compared_at = offset_us, half_s, ended

    def error_s(self, now: float) -> float:
        return self._error_s + (now - self._compared_at) * self._DRIFT

    def to_monotonic(self, server_us: bytes) -> float:
        return (int(server_us) - self._offset_us) / 1e6

    def to_server_us(self, monotonic: float) -> int:
        return int(monotonic * 1e6 + self._offset_us)


@dataclass(slots=True)
class Submission:
    """A batch as the script reads it."""

    words: str
    batch: QueueBatch
    began: float


class ValkeyFairQueue:
    def __init__(
        self, valkey: Valkey, name: str, *, account: str, limit: BudgetLimit, clock: Clock
    ) -> None:
        """Use the queue `name`, which must not contain spaces."""
        self._valkey = valkey
        self._name = name.encode()
        self._clock = clock
        self.keys = [
            valkey.key("budget", name, kind, tag=account)
            for kind in ("state", "interactive", "bulk", "finish", "replicas")
        ]
        self.set_limit(limit)
        self._numbers = itertools.count()
        self._replica = secrets.token_hex(8)
        self._former = "-"
        self._returned = 0
        self._server_clock = _ServerClock(clock)
        self._round_trip_s = 0.0
        self._on_update: Callable[[QueueUpdate], None] = lambda _: None
        valkey.on_message(self._receive)

    def set_limit(self, limit: BudgetLimit) -> None:
        self._limit = limit
        self._fixed = (
            f"{self._valkey.channel} {self._name.decode()} {limit.queue_max} {limit.caller_max} "
            f"{limit.ceiling!r} {len(limit.windows)}"
        )
        self._windows = [
            f"{_us(pace.interval_s)} {_us(tolerance_s(pace))}" for pace in limit.windows
        ]

    @property
    def available(self) -> bool:
        return self._valkey.available

    @property
    def processes(self) -> int:
        return self._valkey.processes

    def on_update(self, call: Callable[[QueueUpdate], None]) -> None:
        self._on_update = call

    def on_availability_change(self, call: Callable[[], None]) -> None:
        self._valkey.on_availability_change(call)

    def new_id(self) -> str:
        at_us = self._server_clock.to_server_us(self._clock.monotonic())
        return f"{at_us:014x}{self._replica}{next(self._numbers):x}"

    def rejoin(self, processes: int) -> None:
        self._former, self._replica = self._replica, secrets.token_hex(8)
        self._returned = processes

    async def apply(self, batch: QueueBatch, state: QueueState) -> BatchResult:
        submitted = self.submission(batch, state)
        return self.result(
            await self._valkey.run_script(
                _SCRIPT, self.keys, [submitted.words], is_short=len(submitted.words) < SHORT_BYTES
            ),
            submitted,
        )

    def submission(self, batch: QueueBatch, state: QueueState) -> Submission:
        """Return a batch for a script that calls fair_queue.lua with `keys` and the words."""
        began = self._clock.monotonic()
        words = f"{self._state_words(began, state)} {_batch_words(batch)}"
        return Submission(words, batch, began)

    def result(self, reply: bytes, submitted: Submission) -> BatchResult:
        """Return the result of a batch that has just arrived; raises StoreUnavailable."""
        began, ended = submitted.began, self._clock.monotonic()
        self._former, self._returned = "-", 0
        try:
            fields = reply.split()
            self._round_trip_s += 0.2 * (ended - began - self._round_trip_s)
            self._server_clock.compare(int(fields[0]), began=began, ended=ended)
            return self._outcome(fields, submitted.batch)
        except (ValueError, StopIteration, TypeError, LookupError, AttributeError):
            raise StoreUnavailable("fair_queue: unexpected response") from None

    def _state_words(self, now: float, state: QueueState) -> str:
        """Return the replica, the limit and the known state, in the order that the script reads."""
        look_ahead_s = min(_LOOK_AHEAD_S + 2 * self._round_trip_s, _LOOK_AHEAD_MAX_S)
        learned = state.learned
        lesson = (
            "- - - - - - - -"
            if learned is None
            else f"{learned.goal!r} {learned.flat_s!r} {_us(now - learned.cut_at)} "
            f"{_us(learned.epoch_until - now)} {learned.calls} {learned.last_calls} "
            f"{learned.last_s!r} {learned.probe!r}"
        )
        # Two processes may differ by twice the error in their view of the server's clock.
        clock_error_s = min(2 * self._server_clock.error_s(now), 1.0)
        known = [str(_us(tat - now)) for tat in state.tats] or ["-"] * len(self._windows)
        windows = " ".join(
            [f"{window} {tat}" for window, tat in zip(self._windows, known, strict=True)]
        )
        return (
            f"{self._replica} {self._former} {self._fixed} {_us(look_ahead_s)} {state.version} "
            f"{state.virtual_time!r} {_us(max(0.0, state.paused_until - now))} {self._returned} "
            f"{lesson} {_us(clock_error_s)} {windows}"
        )

    def _outcome(self, fields: list[bytes], batch: QueueBatch) -> BatchResult:
        _, version, virtual_time, paused, following, waiting = fields[:_LESSON_AT]
        to_monotonic = self._server_clock.to_monotonic
        lists_at = _TATS_AT + len(self._limit.windows)
        granted, refused, tags, inherited = _pairs(fields, lists_at)
        waiters = {call.entry.id: call.waiters for call in batch.shared} if inherited else {}
        return BatchResult(
            state=QueueState(
                tuple([to_monotonic(tat) for tat in fields[_TATS_AT:lists_at]]),
                float(virtual_time),
                to_monotonic(paused),
                self._learned(fields[_LESSON_AT:_TATS_AT]),
                int(version),
            ),
            waiting=int(waiting),
            next_at=None if following == b"-" else to_monotonic(following),
            granted={key: to_monotonic(slot) for key, slot in granted},
            refused={key: int(wait) / 1e6 for key, wait in refused},
            tags={key: float(tag) for key, tag in tags},
            inherited={key: waiters[key][int(donor) - 1] for key, donor in inherited},
        )

    def _learned(self, lesson: list[bytes]) -> LearnedRate | None:
        goal, flat, cut, epoch, calls, last_calls, last, probe = lesson
        if goal == b"-":
            return None
        return LearnedRate(
            float(goal),
            float(flat),
            self._server_clock.to_monotonic(cut),
            self._server_clock.to_monotonic(epoch),
            int(calls),
            int(last_calls),
            float(last),
            float(probe),
        )

    def _receive(self, message: bytes) -> None:
        """Handle a message of the script that another replica ran."""
        kind, _, rest = message.partition(b" ")
        name, _, rest = rest.partition(b" ")
        if kind != b"queue" or name != self._name:
            return
        sent_at, paused, following, *items = rest.split(b" ")
        if (
            abs(self._server_clock.to_monotonic(sent_at) - self._clock.monotonic())
            > _CLOCK_ERROR_S_MAX
        ):
            return  # the next call compares the clocks and returns the same facts
        granted: dict[str, float] = {}
        refused: dict[str, float] = {}
        for one in items:
            entry_id, mark, value = one.partition(b"=")
            if mark:
                granted[entry_id.decode()] = self._server_clock.to_monotonic(value)
            elif b"!" in one:
                entry_id, _, value = one.partition(b"!")
                refused[entry_id.decode()] = int(value) / 1e6
        next_at = None if following == b"-" else self._server_clock.to_monotonic(following)
        replicas_rejoin = b"*" in items
        self._on_update(
            QueueUpdate(
                granted,
                refused,
                self._server_clock.to_monotonic(paused),
                next_at,
                replicas_rejoin=replicas_rejoin,
            )
        )


def _batch_words(batch: QueueBatch) -> str:
    words = [
        str(len(batch.throttlings)),
        *[f"{_us(one.pause_s)} {_or_unknown(one.named_rate)}" for one in batch.throttlings],
        str(len(batch.leaving)),
        *[_caller_words(one) for one in batch.leaving],
        str(len(batch.entering)),
        *[
            f"{_caller_words(one)} {one.request.priority.value} {_us(one.timeout_s)} "
            f"{_or_unknown(one.tag)}"
            for one in batch.entering
        ],
        str(len(batch.shared)),
    ]
    for call in batch.shared:
        entry = call.entry
        words.append(f"{_caller_words(entry)} {entry.request.priority.value} {len(call.waiters)}")
        words += [f"{_digest(waiter.caller)} {waiter.weight!r}" for waiter in call.waiters]
    return " ".join(words)


def _caller_words(entry: QueueEntry) -> str:
    return f"{entry.id} {_digest(entry.request.caller)} {entry.request.weight!r}"


def _or_unknown(value: float | None) -> str:
    return "-" if value is None else repr(value)


def _pairs(fields: list[bytes], at: int) -> list[list[tuple[str, bytes]]]:
    """Return the lists from `at` on: each has its length, then a key and a value per item."""
    found: list[list[tuple[str, bytes]]] = []
    while at < len(fields):
        begin, end = at + 1, at + 1 + 2 * int(fields[at])
        found.append([(fields[i].decode(), fields[i + 1]) for i in range(begin, end, 2)])
        at = end
    return found


@lru_cache(maxsize=10_000)
def _digest(caller: str) -> str:
    # Hashed: read access to Redis must not disclose callers.
    return blake2b(caller.encode(), digest_size=9).hexdigest()


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
