"""Port of the audit log."""

from typing import Final, Protocol

from gateway.domain.audit.record import AuditRecord

AUDIT_TIMEOUT_S: Final = 5.0
"""Time limit for one record; a record that takes longer has failed."""


class AuditLog(Protocol):
    async def record(self, record: AuditRecord) -> None:
        """Return when the record is durable, or raise AuditLogUnavailable.

        Both happen within AUDIT_TIMEOUT_S.
        """
