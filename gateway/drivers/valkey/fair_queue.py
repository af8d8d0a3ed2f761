"""One budget's queue in Redis, shared by all replicas (port `SharedQueue`)."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b

from gateway.domain.errors import StoreUnavailable
from gateway.domain.queue.adaptation import LearnedRate
from gateway.domain.queue.fair_queue import (
    BatchResult,
    BudgetLimit,
    QueueBatch,
    QueueState,
    tolerance_s,
)
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.clock import Clock
from gateway.flow.fair_budget import QueueUpdate

_SCRIPT = LuaScript("fair_queue")
_LOOK_AHEAD_S = 0.02
"""Slots are given away so long before they begin that the news arrives in time."""
_LOOK_AHEAD_MAX_S = 0.15
_OFF_MAX_S = 1.0
"""News that seem to be older, or of the future, are by a clock that was not compared with ours."""


class _ServerClock:
    """The server's clock, as told from this process's, by the quickest answer of late."""

    _DRIFT = 0.001
    """Seconds that two clocks may drift apart in a second, with room to spare."""

    def __init__(self, clock: Clock) -> None:
        self._offset_us = (clock.now() - clock.monotonic()) * 1e6
        self._unsure_s = float("inf")
        self._compared_at = 0.0

    def compare(self, server_us: int, *, began: float, ended: float) -> None:
        """Take note that the server's clock stood so between two instants of ours."""
        half_s = (ended - began) / 2
        offset_us = server_us - (began + half_s) * 1e6
        unsure_s = self.unsure_s(ended)
        # Else it is another server, or its clock was set.
        agrees = abs(offset_us - self._offset_us) <= (half_s + unsure_s) * 1e6
        if half_s <= unsure_s or not agrees:
            self._offset_us, self._unsure_s, self._compared_at = offset_us, half_s, ended

    def unsure_s(self, now: float) -> float:
        return self._unsure_s + (now - self._compared_at) * self._DRIFT

    def ours(self, server_us: bytes) -> float:
        return (int(server_us) - self._offset_us) / 1e6

    def theirs_us(self, monotonic: float) -> int:
        return int(monotonic * 1e6 + self._offset_us)


class ValkeyFairQueue:
    def __init__(
        self, valkey: Valkey, line: str, *, account: str, limit: BudgetLimit, clock: Clock
    ) -> None:
        """`line` names the budget among all; it holds no space."""
        self._valkey = valkey
        self._line = line.encode()
        self._clock = clock
        self._names = [
            valkey.key("budget", line, kind, tag=account)
            for kind in ("state", "interactive", "bulk", "finish", "replicas")
        ]
        self.set_limit(limit)
        self._numbers = itertools.count()
        self._replica = secrets.token_hex(8)
        self._former = "-"
        self._returned = 0
        self._server_clock = _ServerClock(clock)
        self._round_trip_s = 0.0
        self._announce: Callable[[QueueUpdate], None] = lambda _: None
        valkey.on_message(self._hear)

    def set_limit(self, limit: BudgetLimit) -> None:
        self._limit = limit
        self._fixed = (
            f"{self._valkey.channel} {self._line.decode()} {limit.queue_max} {limit.caller_max} "
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
        self._announce = call

    def on_availability_change(self, call: Callable[[], None]) -> None:
        self._valkey.on_availability_change(call)

    def new_id(self) -> str:
        at_us = self._server_clock.theirs_us(self._clock.monotonic())
        return f"{at_us:014x}{self._replica}{next(self._numbers):x}"

    def rejoin(self, processes: int) -> None:
        self._former, self._replica = self._replica, secrets.token_hex(8)
        self._returned = processes

    async def apply(self, batch: QueueBatch, state: QueueState) -> BatchResult:
        began = self._clock.monotonic()
        words = " ".join((self._known(began, state), *_told(batch)))
        reply = await self._valkey.run_script(_SCRIPT, self._names, [words])
        ended = self._clock.monotonic()
        self._former, self._returned = "-", 0
        fields = iter(reply.split())
        try:
            server_us = int(next(fields))
            self._round_trip_s += 0.2 * (ended - began - self._round_trip_s)
            self._server_clock.compare(server_us, began=began, ended=ended)
            return self._outcome(fields, batch)
        except (ValueError, StopIteration, TypeError, LookupError):
            raise StoreUnavailable("fair_queue: an answer of another kind") from None

    def _known(self, now: float, state: QueueState) -> str:
        """Say who asks, what of, and what they know; the script reads it in this order."""
        look_ahead_s = min(_LOOK_AHEAD_S + 2 * self._round_trip_s, _LOOK_AHEAD_MAX_S)
        learned = state.learned
        lesson = (
            "- - - - -"
            if learned is None
            else f"{learned.goal!r} {learned.low!r} {_us(now - learned.cut_at)} "
            f"{_us(learned.epoch_until - now)} {learned.calls}"
        )
        # So far apart may two processes' ideas of the server's clock be.
        unsure_s = min(2 * self._server_clock.unsure_s(now), 1.0)
        windows = " ".join(
            f"{window} {_us(state.tats[i] - now) if state.tats else '-'}"
            for i, window in enumerate(self._windows)
        )
        return (
            f"{self._replica} {self._former} {self._fixed} {_us(look_ahead_s)} {state.version} "
            f"{state.virtual_time!r} {_us(max(0.0, state.paused_until - now))} {self._returned} "
            f"{lesson} {_us(unsure_s)} {windows}"
        )

    def _outcome(self, fields: Iterator[bytes], batch: QueueBatch) -> BatchResult:
        version, virtual_time = int(next(fields)), float(next(fields))
        paused = self._server_clock.ours(next(fields))
        following, waiting = next(fields), int(next(fields))
        learned = self._learned([next(fields) for _ in range(5)])
        tats = tuple(self._server_clock.ours(next(fields)) for _ in self._limit.windows)
        granted = {key: self._server_clock.ours(slot) for key, slot in _pairs(fields)}
        refused = {key: int(wait) / 1e6 for key, wait in _pairs(fields)}
        tags = {key: float(tag) for key, tag in _pairs(fields)}
        waiters = {call.entry.id: call.waiters for call in batch.shared}
        return BatchResult(
            state=QueueState(tats, virtual_time, paused, learned, version),
            waiting=waiting,
            next_at=None if following == b"-" else self._server_clock.ours(following),
            granted=granted,
            refused=refused,
            tags=tags,
            inherited={key: waiters[key][int(donor) - 1] for key, donor in _pairs(fields)},
        )

    def _learned(self, lesson: list[bytes]) -> LearnedRate | None:
        goal, low, cut, epoch, calls = lesson
        if goal == b"-":
            return None
        return LearnedRate(
            float(goal),
            float(low),
            self._server_clock.ours(cut),
            self._server_clock.ours(epoch),
            int(calls),
        )

    def _hear(self, message: bytes) -> None:
        """Take in what another replica's turn meant for this one."""
        kind, _, rest = message.partition(b" ")
        line, _, rest = rest.partition(b" ")
        if kind != b"queue" or line != self._line:
            return
        told_at, paused, following, *items = rest.split(b" ")
        if abs(self._server_clock.ours(told_at) - self._clock.monotonic()) > _OFF_MAX_S:
            return  # our next turn compares, and says all of it again
        granted: dict[str, float] = {}
        refused: dict[str, float] = {}
        for one in items:
            entry_id, mark, value = one.partition(b"=")
            if mark:
                granted[entry_id.decode()] = self._server_clock.ours(value)
            elif b"!" in one:
                entry_id, _, value = one.partition(b"!")
                refused[entry_id.decode()] = int(value) / 1e6
        next_at = None if following == b"-" else self._server_clock.ours(following)
        replicas_rejoin = b"*" in items
        self._announce(
            QueueUpdate(
                granted,
                refused,
                self._server_clock.ours(paused),
                next_at,
                replicas_rejoin=replicas_rejoin,
            )
        )


def _told(batch: QueueBatch) -> Iterator[str]:
    yield str(len(batch.throttlings))
    for throttling in batch.throttlings:
        yield f"{_us(throttling.pause_s)} {_or_unknown(throttling.named_rate)}"
    yield str(len(batch.leaving))
    for one in batch.leaving:
        yield f"{one.id} {_digest(one.request.caller)} {one.request.weight!r}"
    yield str(len(batch.entering))
    for one in batch.entering:
        request = one.request
        yield (
            f"{one.id} {_digest(request.caller)} {request.weight!r} {request.priority.value} "
            f"{_us(one.timeout_s)} {_or_unknown(one.tag)}"
        )
    yield str(len(batch.shared))
    for call in batch.shared:
        entry, request = call.entry, call.entry.request
        yield f"{entry.id} {_digest(request.caller)} {request.weight!r} {request.priority.value}"
        yield str(len(call.waiters))
        for waiter in call.waiters:
            yield f"{_digest(waiter.caller)} {waiter.weight!r}"


def _or_unknown(value: float | None) -> str:
    return "-" if value is None else repr(value)


def _pairs(fields: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
    for _ in range(int(next(fields))):
        key = next(fields)
        yield key.decode(), next(fields)


@lru_cache(maxsize=10_000)
def _digest(caller: str) -> str:
    # Whoever may look into Redis need not learn who asks.
    return blake2b(caller.encode(), digest_size=9).hexdigest()


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
