"""The audit log with group commit (port `AuditLog`).

A record returns when it is durable. While one batch is being committed the next one gathers, so
the dearer a commit is, the more share it. What fails fails for all of its
batch, and leaves nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.audit.record import AuditRecord, encode_record
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit.record_format import Committed, unavailable
from gateway.flow.audit_log import AUDIT_TIMEOUT_S
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.audit")

_TIMEOUT_S = AUDIT_TIMEOUT_S
"""A disk that hangs must not keep every caller to its deadline."""
_WAITING_MAX = 20_000
_GATHER_S = 0.005
"""The least time between two commits, unless all have come who are likely to."""
_EXPECTATION_DECAY = 0.95
_RETENTION_EVERY_S = 3_600.0
_PROBE_EVERY_S = 5.0


class AuditStore(Protocol):
    """Where the lines go; one call at a time. Each raises JournalUnavailable and keeps nothing."""

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        """Make it durable. `claim` is asked at the end: False takes it back."""

    async def apply_retention(self) -> Committed:
        """Remove what is too old."""

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Batch:
    began_at: float = 0.0
    """Monotonic, of its first record."""
    bodies: list[bytes] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    fate: dict[str, str] = field(default_factory=dict)

    def settle(self, fate: str) -> bool:
        """Tell whether this is the batch's fate; the first who says one decides.

        The thread that commits and the loop that waits may say it at the same moment.
        """
        return self.fate.setdefault("fate", fate) == fate


class GroupCommitAuditLog:
    def __init__(
        self,
        store: AuditStore,
        *,
        clock: Clock,
        telemetry: Telemetry,
        checkpoint_s: float,
        follow: Sequence[Callable[[Sequence[bytes]], None]] = (),
    ) -> None:
        """`follow` are told the lines that are durable."""
        self._store = store
        self._clock = clock
        self._telemetry = telemetry
        self._checkpoint_s = checkpoint_s
        self._follow = follow
        self._loop = asyncio.get_running_loop()  # kept: asking costs a system call
        self._gathering = _Batch()
        self._committing: _Batch | None = None
        self._task: asyncio.Task[None] | None = None
        self._commit_lock = asyncio.Lock()
        self._durable = True
        self._stalled = False
        self._began = 0.0
        self._batch_expected = 0.0
        """How many were seen to wait at one time of late."""
        self._batch_ready: asyncio.Future[None] | None = None
        self._overrunning: set[asyncio.Task[None]] = set()
        """An opening or closing that took too long."""

    @property
    def durable(self) -> bool:
        """False after a failed commit, until one works."""
        return self._durable and not self._stalled

    @property
    def lag_s(self) -> float:
        """Age of the oldest record that is not durable yet."""
        oldest = self._committing
        if oldest is None:
            oldest = self._gathering
        return self._clock.monotonic() - oldest.began_at if oldest.bodies else 0.0

    async def record(self, record: AuditRecord) -> None:
        batch = self._gathering
        if self._stalled or len(batch.bodies) >= _WAITING_MAX:
            raise unavailable("the trail does not keep up")
        if not batch.bodies:
            batch.began_at = self._clock.monotonic()
        if self._task is None:  # it begins after this turn of the loop, with all of its records
            self._task = asyncio.create_task(self._commit_all())  # noqa: TID251 - close() awaits it
        durable: asyncio.Future[None] = self._loop.create_future()
        batch.bodies.append(encode_record(record))
        batch.events[record.event] = batch.events.get(record.event, 0) + 1
        batch.waiting.append(durable)
        if self._batch_ready is not None and len(batch.bodies) >= self._batch_expected:
            _resolve(self._batch_ready)
        await durable

    async def open(self) -> None:
        """Try the store once, so that the first record need not; a failure is no end."""
        await self._with_timeout(self._open())

    async def _open(self) -> None:
        try:
            await self._commit_once(_Batch())
        except AuditLogUnavailable:
            return
        self._telemetry.audit_recorded("audit_chain_opened")

    async def run(self) -> None:
        """Write checkpoints, remove what is old, try again what failed, for ever."""
        retention_at = self._clock.monotonic()
        checkpoint_at = retention_at + self._checkpoint_s
        while True:
            await self._clock.sleep(min(self._checkpoint_s, _PROBE_EVERY_S))
            try:
                if not self._durable:
                    await self._probe()
                if self._clock.monotonic() >= checkpoint_at:
                    checkpoint_at = self._clock.monotonic() + self._checkpoint_s
                    await self._commit_once(_Batch(), with_checkpoint=True)
                if self._clock.monotonic() >= retention_at:
                    retention_at = self._clock.monotonic() + _RETENTION_EVERY_S
                    async with self._commit_lock:
                        self._tell(await self._store.apply_retention())
            except AuditLogUnavailable:
                continue  # it is told and counted; the next time may be better

    async def _probe(self) -> None:
        """Record that the trail goes on: nobody may come to try, where that makes not ready."""
        record = AuditRecord(event="audit_chain_resumed", at=self._clock.now())
        await self._commit_once(_Batch(bodies=[encode_record(record)]))
        self._telemetry.audit_recorded(record.event)

    async def close(self) -> None:
        """Make all durable that was begun, put a checkpoint after it, and let go."""
        await self._with_timeout(self._close())

    async def _close(self) -> None:
        if self._task is not None:
            await self._task
        with suppress(AuditLogUnavailable):  # it is told and counted
            await self._commit_once(_Batch(), with_checkpoint=True)
        await self._store.close()

    async def _with_timeout(self, work: Coroutine[None, None, None]) -> None:
        """Wait for it as long as for a record; then it is left to itself, and nothing is taken."""
        task = asyncio.create_task(work)  # noqa: TID251 - kept until it is done
        await asyncio.wait({task}, timeout=_TIMEOUT_S)
        if task.done():
            await task
        else:
            self._mark_stalled()
            self._overrunning.add(task)
            task.add_done_callback(self._on_overrun_done)

    def _on_overrun_done(self, task: "asyncio.Task[None]") -> None:
        self._overrunning.discard(task)
        self._stalled = bool(self._overrunning)

    def _mark_stalled(self) -> None:
        self._stalled = True
        log.error("audit_stalled")

    async def _commit_all(self) -> None:
        try:
            while self._gathering.bodies:
                await self._gather()
                batch, self._gathering = self._gathering, _Batch()
                await self._commit(batch)
        finally:
            self._task = None

    async def _commit(self, batch: _Batch) -> None:
        self._committing = batch
        timeout = self._loop.call_later(_TIMEOUT_S, self._give_up, batch)
        try:
            await self._commit_once(batch)
        except AuditLogUnavailable as failure:
            _fail_all(batch, failure)
        else:
            self._telemetry.audit_committed(self._clock.monotonic() - batch.began_at)
            for event, count in batch.events.items():
                self._telemetry.audit_recorded(event, count)
            for waiting in batch.waiting:
                if not waiting.done():  # else its caller hung up
                    waiting.set_result(None)
        finally:
            timeout.cancel()
            crowd = len(batch.bodies) + len(self._gathering.bodies)
            self._batch_expected = max(crowd, self._batch_expected * _EXPECTATION_DECAY)
            _fail_all(batch, unavailable("it failed"))  # nobody is left waiting, whatever happened
            self._committing = None
            self._stalled = bool(self._overrunning)

    async def _gather(self) -> None:
        """Wait until all are here who are likely to come, for a moment at most.

        A commit costs as much as several requests, so that many should share it. Where each
        caller waits for its answer, no more come than were seen to wait at one time.
        """
        left_s = self._began + _GATHER_S - self._loop.time()
        if left_s > 0 and len(self._gathering.bodies) < self._batch_expected:
            self._batch_ready = enough = self._loop.create_future()
            timer = self._loop.call_later(left_s, _resolve, enough)
            await enough
            timer.cancel()
            self._batch_ready = None
        self._began = self._loop.time()

    def _give_up(self, batch: _Batch) -> None:
        if not batch.settle("given up"):
            return  # it is durable, and about to be told
        self._mark_stalled()
        failure = unavailable("the trail does not keep up")
        _fail_all(batch, failure)
        gathering, self._gathering = self._gathering, _Batch()
        _fail_all(gathering, failure)

    async def _commit_once(self, batch: _Batch, *, with_checkpoint: bool = False) -> None:
        async with self._commit_lock:
            try:
                committed = await self._store.commit(
                    batch.bodies,
                    with_checkpoint=with_checkpoint,
                    confirm=lambda: batch.settle("durable"),
                )
            except AuditLogUnavailable as failure:
                self._telemetry.audit_failed()
                if self._durable:
                    log.error("audit_write_failed", extra={"error": str(failure)})  # noqa: TRY400
                self._durable = False
                raise
        if not self._durable:
            log.warning("audit_write_recovered")
        self._durable = True
        self._tell(committed)

    def _tell(self, committed: Committed) -> None:
        for head in committed.checkpoints:
            # Kept wherever logs are kept, it shows later whether lines were cut off.
            log.info(
                "audit_checkpoint", extra={"chain": head.chain, "seq": head.seq, "hash": head.hash}
            )
        if committed.lines:
            for follow in self._follow:
                follow(committed.lines)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail_all(batch: _Batch, failure: AuditLogUnavailable) -> None:
    for waiting in batch.waiting:
        if not waiting.done():
            waiting.set_exception(failure)
