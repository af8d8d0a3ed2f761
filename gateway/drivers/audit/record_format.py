"""What the places that an audit log goes to have in common."""

import os
import socket
from dataclasses import dataclass

import orjson

from gateway.domain.audit.chain import CHAIN_OPENED, Head, body
from gateway.domain.audit.record import AuditRecord, encode_record
from gateway.domain.errors import AuditLogUnavailable

_RETRY_AFTER_S = 5.0
_PARTIAL_LINE_BYTES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Committed:
    """What is durable now."""

    lines: list[bytes]
    checkpoints: list[Head]


def unavailable(why: str) -> AuditLogUnavailable:
    return AuditLogUnavailable(f"audit: {why}", retry_after_s=_RETRY_AFTER_S)


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
    record = encode_record(AuditRecord(event=CHAIN_OPENED, at=at, detail=detail))
    return body({**orjson.loads(record), **beside}) if beside else record
