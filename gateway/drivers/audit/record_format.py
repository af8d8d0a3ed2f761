"""What the places that an audit log goes to have in common."""

import os
import socket
from dataclasses import asdict, dataclass

import orjson

from gateway.domain.audit.chain import CHAIN_OPENED, Head, body
from gateway.domain.errors import AuditLogUnavailable
from gateway.flow.ports import AuditRecord

_RETRY_AFTER_S = 5.0
_PARTIAL_LINE_BYTES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Committed:
    """What is durable now."""

    lines: list[bytes]
    checkpoints: list[Head]


def unavailable(why: str) -> AuditLogUnavailable:
    return AuditLogUnavailable(f"audit: {why}", retry_after_s=_RETRY_AFTER_S)


def record_body(record: AuditRecord) -> bytes:
    """Return the object and a newline, as rules.audit_chain.link takes it."""
    # Written out: orjson takes ten times as long over a dataclass with a set in it.
    told: dict[str, object] = {
        "event": record.event,
        "at": record.at,
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "issuer": record.issuer,
        "subject": record.subject,
        "groups": [*record.groups],
        "operation": record.operation,
        "permission": record.permission,
        "project": record.project,
        "servers": record.servers,
        "decision": record.decision,
        "rule": record.rule,
        "policy_version": record.policy_version,
        "source": record.source,
        "link_fingerprint": record.link_fingerprint,
        "client_address": record.client_address,
        "target": record.target,
        "detail": record.detail,
    }
    if record.access_key:
        told["access_key"] = record.access_key
    if record.more is not None:
        told |= asdict(record.more)
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)


def opening_body(
    at: float,
    *,
    partial: bytes = b"",
    lost: Head | None = None,
    beside: dict[str, object] | None = None,
) -> bytes:
    """Return the record with which a process begins.

    `torn` is what it cut off, `lost` where its chain before stood, of which lines are gone;
    `beside` is what rules.audit_chain.told_beside says.
    """
    detail = f"process {os.getpid()} on {socket.gethostname()}"
    if partial:
        text = partial[:_PARTIAL_LINE_BYTES_MAX].decode(errors="backslashreplace")
        detail += f"; cut off {len(partial)} bytes that were never acknowledged: {text}"
    if lost is not None:
        detail += f"; goes on after {lost}, of whose chain lines were lost"
    record = record_body(AuditRecord(event=CHAIN_OPENED, at=at, detail=detail))
    return body({**orjson.loads(record), **beside}) if beside else record
