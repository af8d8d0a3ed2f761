"""The audit log with group commit.

`record` returns when the record is durable. A record is committed at once if no commit is in
progress. While one batch is committed, the next one gathers: the slower a commit is, the more
records share it. Requests that have arrived by then join it: a batch that waited for another one
is committed when the event loop has no more of them. With many callers at once it also waits for
the next records of most of them, for at most a millisecond. A failure rejects its whole batch.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.domain.audit.record import AuditRecord, encode_record
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit.store import AuditStore, Committed, unavailable
from gateway.flow.audit_log import AUDIT_TIMEOUT_S, RecordOutcome, Settled
from gateway.flow.clock import Clock
from gateway.flow.telemetry import Telemetry

log = logging.getLogger("gateway.audit")

_TIMEOUT_S = AUDIT_TIMEOUT_S
"""A disk that hangs must not hold every caller until its deadline."""
_WAITING_MAX = 20_000
_TURNS_MAX = 4
"""How many turns of the event loop may add records to a batch while no commit is in progress."""
_CALLERS_MANY = 16
"""With so many records in progress, commits of a few of them cost more time than they save."""
_GATHER_SHARE = 0.75
"""The other callers' requests are served while the batch is written."""
_GATHER_S = 0.001
_RETENTION_EVERY_S = 3_600.0
_PROBE_EVERY_S = 5.0


@dataclass(slots=True)
class _Batch:
    began_at: float = 0.0
    """Monotonic time of its first record."""
    bodies: list[bytes] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    """Called when the batch is durable or has failed, instead of a future in `waiting`."""
    outcome: dict[str, str] = field(default_factory=dict)

    def report(self, failure: AuditLogUnavailable | None) -> None:
        """Report the outcome to all callers; those that have it already keep it."""
        waiting, self.waiting = self.waiting, []
        for durable in waiting:
            if durable.done():  # its caller has disconnected
                continue
            if failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(failure)
        settled, self.settled = self.settled, []
        outcome = RecordOutcome(failure)
        for call in settled:
            call(outcome)

    def settle(self, outcome: str) -> bool:
        """Return whether this is the batch's outcome; the first call decides.

        The committing thread and the event loop may call it at the same time.
        """
        return self.outcome.setdefault("outcome", outcome) == outcome


class GroupCommitAuditLog:
    """Implements AuditLog over a store."""

    def __init__(
        self,
        store: AuditStore,
        *,
        clock: Clock,
        telemetry: Telemetry,
        checkpoint_s: float,
        follow: Sequence[Callable[[Sequence[bytes]], None]] = (),
    ) -> None:
        """Each function in `follow` receives the lines that became durable."""
        self._store = store
        self._clock = clock
        self._telemetry = telemetry
        self._checkpoint_s = checkpoint_s
        self._follow = follow
        self._loop = asyncio.get_running_loop()  # stored: the lookup costs a system call
        self._gathering = _Batch()
        self._committing: _Batch | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_due = False
        """A commit begins after this turn of the event loop, with all its records."""
        self._gathered: asyncio.Future[None] | None = None
        """A batch waits for the next records of the callers that have just been served."""
        self._expected = 0
        """How many records that batch has then."""
        self._commit_lock = asyncio.Lock()
        self._durable = True
        self._stalled = False
        self._overrunning: set[asyncio.Task[None]] = set()
        """An opening or closing that exceeded its time limit."""

    @property
    def durable(self) -> bool:
        """False after a failed commit, until one succeeds."""
        return self._durable and not self._stalled

    @property
    def lag_s(self) -> float:
        """Age of the oldest record that is not durable yet."""
        oldest = self._committing
        if oldest is None:
            oldest = self._gathering
        return self._clock.monotonic() - oldest.began_at if oldest.bodies else 0.0

    async def record(self, record: AuditRecord) -> None:
        if self._is_overloaded:
            raise unavailable("the audit log does not keep up")
        durable: asyncio.Future[None] = self._loop.create_future()
        self._add(record.event, encode_record(record)).waiting.append(durable)
        await durable

    @property
    def takes_bodies(self) -> bool:
        has_room = len(self._gathering.bodies) < _WAITING_MAX
        return has_room and self._durable and not self._stalled

    def submit(self, event: str, at: float, body: bytes, settled: Settled) -> None:
        del at
        self._add(event, body).settled.append(settled)

    @property
    def _is_overloaded(self) -> bool:
        return self._stalled or len(self._gathering.bodies) >= _WAITING_MAX

    def _add(self, event: str, body: bytes) -> _Batch:
        batch = self._gathering
        if not batch.bodies:
            batch.began_at = self._clock.monotonic()
        if self._task is None and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._commit_gathered)
        batch.bodies.append(body)
        batch.events.append(event)
        if self._gathered is not None and len(batch.bodies) >= self._expected:
            self._end_gathering()
        return batch

    async def open(self) -> None:
        """Open the store before the first record needs it; a failure is tried again later."""
        await self._with_timeout(self._open())

    async def _open(self) -> None:
        try:
            await self._commit_once(_Batch())
        except AuditLogUnavailable:
            return
        self._telemetry.audit_recorded("audit_chain_opened")

    async def run(self) -> None:
        """Write checkpoints, apply retention and retry after a failure, until cancelled."""
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
                        self._publish(await self._store.apply_retention())
            except AuditLogUnavailable:
                continue  # logged and counted; the next turn tries again

    async def _probe(self) -> None:
        """Write a record, because a process that is not ready gets no request that would."""
        record = AuditRecord(event="audit_chain_resumed", at=self._clock.now())
        await self._commit_once(_Batch(bodies=[encode_record(record)]))
        self._telemetry.audit_recorded(record.event)

    async def close(self) -> None:
        """Commit all pending records and a checkpoint, then release the store."""
        await self._with_timeout(self._close())

    async def _close(self) -> None:
        self._commit_gathered()
        if self._task is not None:
            await self._task
        with suppress(AuditLogUnavailable):  # logged and counted
            await self._commit_once(_Batch(), with_checkpoint=True)
        await self._store.close()

    async def _with_timeout(self, work: Coroutine[None, None, None]) -> None:
        """Wait as long as for a record; a call that takes longer rejects records until it ends."""
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

    def _commit_gathered(self) -> None:
        """Commit what has gathered: now if that takes no time, and otherwise in a task."""
        self._is_due = False
        batch = self._gathering
        if self._task is not None or not batch.bodies:
            return
        self._gathering = _Batch()
        committed = None
        if self._durable and not self._commit_lock.locked():
            try:
                committed = self._store.commit_at_once(batch.bodies)
            except AuditLogUnavailable as failure:
                self._note_failure(failure)
                batch.report(failure)
                return
        if committed is None:
            self._task = asyncio.create_task(self._commit_all(batch))  # noqa: TID251 - close() awaits it
        else:
            self._publish(committed)
            self._report_durable(batch)

    async def _commit_all(self, batch: _Batch) -> None:
        try:
            while batch.bodies:
                await self._commit(batch)
                in_progress = len(batch.bodies) + len(self._gathering.bodies)
                if in_progress >= _CALLERS_MANY:
                    await self._gather(int(in_progress * _GATHER_SHARE))
                else:
                    await self._gather_arrived()
                batch, self._gathering = self._gathering, _Batch()
        finally:
            self._task = None

    async def _gather_arrived(self) -> None:
        """Let the event loop serve the requests that it can read by now."""
        for _ in range(_TURNS_MAX):
            size = len(self._gathering.bodies)
            await asyncio.sleep(0)
            if len(self._gathering.bodies) == size:
                break

    async def _gather(self, expected: int) -> None:
        """Wait for the next records of the callers that have just been served.

        A caller sends its next request when it has the response. Their records, each committed as
        soon as it arrives, would need several times as many commits.
        """
        if len(self._gathering.bodies) >= expected:
            return
        self._gathered, self._expected = self._loop.create_future(), expected
        timer = self._loop.call_later(_GATHER_S, self._end_gathering)
        await self._gathered
        timer.cancel()

    def _end_gathering(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            gathered.set_result(None)

    def _report_durable(self, batch: _Batch) -> None:
        self._telemetry.audit_committed(self._clock.monotonic() - batch.began_at)
        for event, count in Counter(batch.events).items():
            self._telemetry.audit_recorded(event, count)
        batch.report(None)

    async def _commit(self, batch: _Batch) -> None:
        self._committing = batch
        timeout = self._loop.call_later(_TIMEOUT_S, self._give_up, batch)
        try:
            await self._commit_once(batch)
        except AuditLogUnavailable as failure:
            batch.report(failure)
        else:
            self._report_durable(batch)
        finally:
            timeout.cancel()
            batch.report(unavailable("the commit failed"))  # no caller waits forever
            self._committing = None
            self._stalled = bool(self._overrunning)

    def _give_up(self, batch: _Batch) -> None:
        if not batch.settle("given up"):
            return  # it is durable, and its callers are about to be notified
        self._mark_stalled()
        failure = unavailable("the audit log does not keep up")
        batch.report(failure)
        gathering, self._gathering = self._gathering, _Batch()
        gathering.report(failure)

    async def _commit_once(self, batch: _Batch, *, with_checkpoint: bool = False) -> None:
        async with self._commit_lock:
            try:
                committed = await self._store.commit(
                    batch.bodies,
                    with_checkpoint=with_checkpoint,
                    confirm=lambda: batch.settle("durable"),
                )
            except AuditLogUnavailable as failure:
                self._note_failure(failure)
                raise
        if not self._durable:
            log.warning("audit_write_recovered")
        self._durable = True
        self._publish(committed)

    def _note_failure(self, failure: AuditLogUnavailable) -> None:
        self._telemetry.audit_failed()
        if self._durable:
            log.error("audit_write_failed", extra={"error": str(failure)})
        self._durable = False

    def _publish(self, committed: Committed) -> None:
        for head in committed.checkpoints:
            # A copy of the head in the log shows later whether lines were cut off.
            log.info(
                "audit_checkpoint", extra={"chain": head.chain, "seq": head.seq, "hash": head.hash}
            )
        if committed.lines:
            for follow in self._follow:
                follow(committed.lines)
