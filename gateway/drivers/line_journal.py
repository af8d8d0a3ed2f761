"""The audit record as a JSON line on its own stream, written before the answer leaves."""

import os

import orjson

from gateway.errors import JournalUnavailable
from gateway.ports import AuditRecord


class LineJournal:
    """Implements ports.Journal on a file descriptor; the write is complete when it returns."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def record(self, record: AuditRecord) -> None:
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            raise JournalUnavailable(f"audit: {error.strerror}", retry_after_s=5.0) from error
