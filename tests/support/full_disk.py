"""An audit log with a disk that can be full."""

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import AuditLogUnavailable


class FullDisk:
    """Implements the port `AuditLog`."""

    def __init__(self) -> None:
        self.is_full = False
        self.records: list[AuditRecord] = []

    async def record(self, record: AuditRecord) -> None:
        if self.is_full:
            raise AuditLogUnavailable("full", retry_after_s=1.0)
        self.records.append(record)
