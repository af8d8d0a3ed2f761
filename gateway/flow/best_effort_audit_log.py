"""The audit trail where operators chose to serve though it cannot be written."""

from gateway.domain.errors import JournalUnavailable
from gateway.domain.timestamps import iso
from gateway.flow.ports import AuditRecord, Journal, Telemetry


class BestEffortJournal:
    """Implements ports.Journal; raises nothing, counts what is missing, and puts that on record."""

    def __init__(self, journal: Journal, telemetry: Telemetry) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._missing = 0
        self._missing_from = self._missing_until = 0.0

    async def record(self, record: AuditRecord) -> None:
        try:
            await self._journal.record(record)
        except JournalUnavailable:
            self._telemetry.audit_record_missing()
            self._missing += 1
            self._missing_from = (
                min(record.at, self._missing_from) if self._missing > 1 else record.at
            )
            self._missing_until = record.at
            return
        if self._missing:
            await self._tell_missing(record.at)

    async def _tell_missing(self, at: float) -> None:
        count, self._missing = self._missing, 0
        since, until = map(iso, (self._missing_from, self._missing_until))
        detail = f"{count} records from {since} to {until} could not be written"
        try:
            await self._journal.record(AuditRecord(event="records_missing", at=at, detail=detail))
        except JournalUnavailable:
            self._missing += count  # the next that is written tells
