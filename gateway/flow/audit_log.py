"""Port of the audit log, and its use where requests go on without it."""

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


class BestEffortAuditLog:
    """Never raises: counts missing records, and records their number with the next record."""

    def __init__(self, audit_log: AuditLog, telemetry: Telemetry) -> None:
        self._audit_log = audit_log
        self._telemetry = telemetry
        self._missing = 0
        self._missing_from = self._missing_until = 0.0

    async def record(self, record: AuditRecord) -> None:
        try:
            await self._audit_log.record(record)
        except AuditLogUnavailable:
            self._telemetry.audit_record_missing()
            self._missing += 1
            self._missing_from = (
                min(record.at, self._missing_from) if self._missing > 1 else record.at
            )
            self._missing_until = record.at
            return
        if self._missing:
            await self._record_missing(record.at)

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
