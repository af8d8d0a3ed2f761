"""What the places that an audit trail goes to have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from gateway.errors import JournalUnavailable
from gateway.ports import AuditRecord
from gateway.rules.audit_chain import Head

_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Committed:
    """What is durable now."""

    lines: Sequence[bytes]
    checkpoints: Sequence[Head]


def unavailable(why: str) -> JournalUnavailable:
    return JournalUnavailable(f"audit: {why}", retry_after_s=_RETRY_AFTER_S)


def record_body(record: AuditRecord) -> bytes:
    """Return the object and a newline, as rules.audit_chain.link takes it."""
    # Written out: orjson takes ten times as long over a dataclass with a set in it.
    return orjson.dumps(
        {
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
            "detail": record.detail,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )
