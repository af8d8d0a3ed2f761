"""One record of the audit log. Pure: values in, bytes out."""

from dataclasses import asdict, dataclass, replace

import orjson

from gateway.domain.model import WriteOutcome


@dataclass(frozen=True, slots=True)
class CredentialIssued:
    """The fields that only a `credential_issued` record has."""

    expires_at: float
    """The latest time at which the credential ends, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class WriteEnded:
    """The fields that only a `write_outcome` record has."""

    outcome: WriteOutcome
    status: int
    """The cloud's HTTP status; 0 if it did not answer."""
    permitted_at: float
    """`at` of the `write_permitted` record: a caller may use a request ID for two writes."""


@dataclass(frozen=True, slots=True)
class ConsoleSessionFields:
    """The fields that only records of live consoles have."""

    session: str = ""
    mode: str = ""
    started_at: float | None = None
    ticket_address: str = ""
    end: str = ""
    """The name of a SessionEnd; "" in all records but `console_session_ended`."""


@dataclass(slots=True)  # not frozen: one is made per link, a frozen one takes 3 times longer
class AuditRecord:
    """Principal, operation, servers, decision and the rule behind it. Contains no secret."""

    event: str
    at: float
    """Seconds since the epoch."""
    request_id: str = ""
    issuer: str = ""
    subject: str = ""
    groups: frozenset[str] = frozenset()
    operation: str = ""
    project: str = ""
    servers: tuple[str, ...] = ()
    rule: str = ""
    source: str = ""
    link_fingerprint: str = ""
    client_address: str = ""
    decision: str = ""
    """`allowed` or `denied`."""
    permission: str = ""
    policy_version: str = ""
    trace_id: str = ""
    target: str = ""
    """The person that an administrator's request is about, as issuer:subject."""
    detail: str = ""
    """Free text, such as an administrator's request and its reason."""
    access_key: str = ""
    """Access key of the key pair that was issued, or that signed the request.

    Not a secret: each signed request contains it, and it gives no access without its secret key.
    """
    token_id: str = ""
    """ID of the caller's token, such as its `jti`."""
    extra: ConsoleSessionFields | CredentialIssued | WriteEnded | None = None
    """Fields that only records of this event have."""


class PreparedRecord:
    """The encoded form of records that differ only in their time and request ID."""

    __slots__ = ("_head", "_rest")

    def __init__(self, record: AuditRecord) -> None:
        """`at` and `request_id` of the record do not matter."""
        line = encode_record(replace(record, at=0.0, request_id=""))
        head, _, self._rest = line.partition(_VARYING)
        self._head = head + b'"at":'

    def __len__(self) -> int:
        return len(self._head) + len(self._rest)

    def body(self, at: float, request_id: bytes) -> bytes:
        """Return what `encode_record` does; `request_id` must need no escape in JSON."""
        return b"".join((self._head, orjson.dumps(at), b',"request_id":"', request_id, self._rest))


_VARYING = b'"at":0.0,"request_id":"'


def encode_record(record: AuditRecord) -> bytes:
    """Return the record as a JSON object and a newline, which `chain.link` accepts."""
    # Written out by hand: orjson takes ten times longer for a dataclass with a set in it.
    fields: dict[str, object] = {
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
        fields["access_key"] = record.access_key
    if record.token_id:
        fields["token_id"] = record.token_id
    if record.extra is not None:
        extra = asdict(record.extra)
        fields |= {name: value for name, value in extra.items() if value is not None}
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
