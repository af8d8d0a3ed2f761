"""The audit trail as JSON lines on a descriptor, each written before its answer leaves."""

import asyncio
import os

from gateway.drivers.audit_record import record_body
from gateway.errors import JournalUnavailable
from gateway.ports import AuditRecord, Telemetry


class LineJournal:
    """Implements ports.Journal; the records of one turn of the event loop share one write."""

    def __init__(self, descriptor: int, telemetry: Telemetry) -> None:
        self._descriptor = descriptor
        self._telemetry = telemetry
        self._loop = asyncio.get_running_loop()  # kept: asking costs a system call
        self._lines: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []
        self.durable = True
        """Whether the latest write worked."""

    async def record(self, record: AuditRecord) -> None:
        if not self._lines:
            self._loop.call_soon(self._write)
        self._lines.append(record_body(record))
        written: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(written)
        await written
        self._telemetry.audit_recorded(record.event)

    def _write(self) -> None:
        data, self._lines = b"".join(self._lines), []
        waiting, self._waiting = self._waiting, []
        failure = None
        self.durable = True
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._telemetry.audit_failed()
            self.durable = False
            failure = JournalUnavailable(f"audit: {error.strerror}", retry_after_s=5.0)
        for written in waiting:
            if written.done():
                continue  # its caller hung up
            if failure is None:
                written.set_result(None)
            else:
                written.set_exception(failure)
