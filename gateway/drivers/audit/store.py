"""What the stores of the audit log have in common."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from gateway.domain.audit.chain import CHAIN_OPENED, Head, encode_body
from gateway.domain.audit.record import AuditRecord, encode_record
from gateway.domain.errors import AuditLogUnavailable

_RETRY_AFTER_S = 5.0
_PARTIAL_LINE_BYTES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Committed:
    """Lines that are durable, and the checkpoints among them."""

    lines: list[bytes]
    checkpoints: list[Head]


class AuditStore(Protocol):
    """Appends lines; one call at a time. A call that raises AuditLogUnavailable has no effect."""

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        """Append and return when durable; undo it if `confirm`, called at the end, is False."""

    def commit_at_once(self, bodies: Sequence[bytes]) -> Committed | None:
        """Append if that takes no time; None: `commit` must be called next with the same bodies."""

    async def apply_retention(self) -> Committed:
        """Remove what is older than the retention time, after recording the removal."""

    async def close(self) -> None: ...


def unavailable(reason: str) -> AuditLogUnavailable:
    return AuditLogUnavailable(f"audit: {reason}", retry_after_s=_RETRY_AFTER_S)


def chain_opened_body(
    at: float,
    *,
    partial_line: bytes = b"",
    lost: Head | None = None,
    neighbours: dict[str, object] | None = None,
) -> bytes:
    """Return the record with which a process opens a chain.

    `partial_line` was removed from the end of the file. `lost` is the head of the previous chain,
    which lost lines. `neighbours` comes from `chain.neighbour_fields`.
    """
    detail = f"process {os.getpid()} on {socket.gethostname()}"
    if partial_line:
        text = partial_line[:_PARTIAL_LINE_BYTES_MAX].decode(errors="backslashreplace")
        detail += f"; removed {len(partial_line)} bytes of an unacknowledged line: {text}"
    if lost is not None:
        detail += f"; continues after {lost}, whose chain lost lines"
    record = encode_record(AuditRecord(event=CHAIN_OPENED, at=at, detail=detail))
    return encode_body({**orjson.loads(record), **neighbours}) if neighbours else record
