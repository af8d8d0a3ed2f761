"""The best-effort audit log records how many records are missing."""

from gateway.domain.audit.record import AuditRecord
from gateway.flow.audit_log import BestEffortAuditLog
from tests.support.full_disk import FullDisk
from tests.support.telemetry import RecordingTelemetry


async def test_missing_records_are_recorded_afterwards() -> None:
    disk, telemetry = FullDisk(), RecordingTelemetry()
    audit_log = BestEffortAuditLog(disk, telemetry)
    for at, disk.is_full in ((0, False), (1, True), (2, True), (3, False), (4, False)):
        await audit_log.record(AuditRecord(event="console_link_issued", at=at))
    assert [(one.event, one.at) for one in disk.records] == [
        ("console_link_issued", 0),
        ("console_link_issued", 3),
        ("audit_records_missing", 3),
        ("console_link_issued", 4),
    ]
    assert disk.records[2].detail == (
        "missing records: 2, from 1970-01-01T00:00:01.000+00:00 to 1970-01-01T00:00:02.000+00:00"
    )
