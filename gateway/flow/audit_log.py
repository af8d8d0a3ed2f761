"""Port of the audit log, and its use where requests go on without it."""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import AuditLogUnavailable
from gateway.domain.timestamps import iso
from gateway.flow.telemetry import Telemetry

AUDIT_TIMEOUT_S: Final = 5.0
"""Time limit for one record; a record that takes longer has failed."""


class AuditLog(Protocol):
    async def record(self, record: AuditRecord) -> None:
        """Return when the record is durable, or raise AuditLogUnavailable.

        Both happen within AUDIT_TIMEOUT_S.
        """


class BatchAuditLog(AuditLog, Protocol):
    """An audit log that also takes encoded records, without a task that waits for each."""

    @property
    def takes_bodies(self) -> bool:
        """Whether `submit` may be called now; otherwise `record` must be used."""

    def submit(self, event: str, at: float, body: bytes, settled: "Settled") -> None:
        """Write a record of which `body` is the encoded form.

        `settled` is called once, later, within AUDIT_TIMEOUT_S.
        """


class RecordOutcome:
    """The outcome of a commit, one object for all its records.

    They are reported directly one after another: the event loop does nothing else in between.
    """

    __slots__ = ("checked", "failure")

    def __init__(self, failure: AuditLogUnavailable | None) -> None:
        """`failure`: why the records are not durable; None: they are."""
        self.failure = failure
        self.checked: object = None
        """What a receiver has found to be current, for those after it."""


Settled = Callable[[RecordOutcome], None]


class BestEffortAuditLog:
    """Never raises: counts missing records, and records their number with the next record."""

    def __init__(self, audit_log: BatchAuditLog, telemetry: Telemetry) -> None:
        self._audit_log = audit_log
        self._telemetry = telemetry
        self._missing = 0
        self._missing_from = self._missing_until = 0.0

    async def record(self, record: AuditRecord) -> None:
        try:
            await self._audit_log.record(record)
        except AuditLogUnavailable:
            self._count_missing(record.at)
            return
        if self._missing:
            await self._record_missing(record.at)

    @property
    def takes_bodies(self) -> bool:
        return not self._missing and self._audit_log.takes_bodies

    def submit(self, event: str, at: float, body: bytes, settled: Settled) -> None:
        self._audit_log.submit(event, at, body, partial(self._settle, at, settled))

    def _settle(self, at: float, settled: Settled, outcome: RecordOutcome) -> None:
        if outcome.failure is not None:
            self._count_missing(at)
            outcome = RecordOutcome(None)
        settled(outcome)

    def _count_missing(self, at: float) -> None:
        self._telemetry.audit_record_missing()
        self._missing += 1
        self._missing_from = min(at, self._missing_from) if self._missing > 1 else at
        self._missing_until = at

    async def _record_missing(self, at: float) -> None:
        count, self._missing = self._missing, 0
        since, until = map(iso, (self._missing_from, self._missing_until))
        detail = f"missing records: {count}, from {since} to {until}"
        try:
            await self._audit_log.record(
                AuditRecord(event="audit_records_missing", at=at, detail=detail)
            )
        except AuditLogUnavailable:
            self._missing += count  # recorded with the next record that is written
