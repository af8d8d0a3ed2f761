"""The audit trail where operators chose to serve though it cannot be written."""

from gateway.errors import JournalUnavailable
from gateway.ports import AuditRecord, Journal, Telemetry


class BestEffortJournal:
    """Implements ports.Journal; counts what it could not record, and raises nothing."""

    def __init__(self, journal: Journal, telemetry: Telemetry) -> None:
        self._journal = journal
        self._telemetry = telemetry

    async def record(self, record: AuditRecord) -> None:
        try:
            await self._journal.record(record)
        except JournalUnavailable:
            self._telemetry.unrecorded()
