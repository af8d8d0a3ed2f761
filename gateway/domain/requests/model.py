"""Access requests: their content, approvals and states. Pure.

    pending -> active -> ended
       |         `-----> revoked
       |-> denied, withdrawn, expired

What is requested never changes; a change is a new request. Each step makes a new version.
"""

from hashlib import sha256
from typing import Any, Final, Literal

import msgspec

from gateway.domain.model import Principal, ProjectId, ServerId

State = Literal["pending", "active", "ended", "denied", "withdrawn", "expired", "revoked"]
ClosedState = Literal["denied", "withdrawn", "revoked"]
REASON_CHARS_MAX: Final = 2_000
TICKET_CHARS_MAX: Final = 64
SERVERS_MAX: Final = 20
_HASH_FORM: Final = "console-gateway access request 1"


class RequestPerson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    issuer: str
    subject: str
    claim: str = ""
    """The claim that identifies a person over all issuers (`requests.person_claim`)."""

    @classmethod
    def of(cls, principal: Principal) -> "RequestPerson":
        return cls(principal.issuer, principal.subject, principal.person)

    @property
    def name(self) -> str:
        return f"{self.issuer}:{self.subject}"

    def may_be(self, other: "RequestPerson") -> bool:
        """Return whether both may be one person.

        An account of another issuer is another person only if both have the claim and it differs.
        """
        if self.issuer == other.issuer and self.subject == other.subject:
            return True
        if self.claim and other.claim:
            return self.claim.casefold() == other.claim.casefold()
        return self.issuer != other.issuer


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    by: RequestPerson
    groups: tuple[str, ...]
    """Groups of the approver that made them one, at the time of the approval."""
    at: float
    content_hash: str
    """What was approved."""


class Closing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The step that ended a request before its time."""

    state: ClosedState
    by: RequestPerson
    at: float
    reason: str = ""


class AccessRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One request with its steps. Times are seconds since the epoch."""

    id: str
    version: int = 1
    requester: RequestPerson
    rule: str
    """Name of the rule of the policy."""
    role: str
    project: ProjectId
    servers: tuple[ServerId, ...]
    duration_s: float
    reason: str
    ticket: str = ""
    created_at: float
    pending_until: float
    broken_glass: bool = False
    approvals: tuple[Approval, ...] = ()
    started_at: float | None = None
    """When the access began: at the last approval."""
    closing: Closing | None = None

    @property
    def content_hash(self) -> str:
        """SHA-256 of everything that an approver decides on."""
        content: dict[str, Any] = {
            "form": _HASH_FORM,
            "id": self.id,
            "issuer": self.requester.issuer,
            "subject": self.requester.subject,
            "claim": self.requester.claim,
            "rule": self.rule,
            "role": self.role,
            "project": self.project,
            "servers": sorted(self.servers),
            "duration_s": self.duration_s,
            "reason": self.reason,
            "ticket": self.ticket,
            "created_at": self.created_at,
        }
        return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()

    @property
    def ends_at(self) -> float | None:
        """When the access ends or ended; None: it has not begun."""
        if self.started_at is None:
            return None
        end = self.started_at + self.duration_s
        return end if self.closing is None else min(end, self.closing.at)

    @property
    def last_effect_at(self) -> float:
        """From when on no copy of the request, however old, can give access."""
        return self.pending_until + self.duration_s

    @property
    def finished_at(self) -> float:
        """When it left, or will leave, the states `pending` and `active`."""
        if self.closing is not None:
            return self.closing.at
        return self.pending_until if self.started_at is None else self.started_at + self.duration_s

    def state(self, now: float) -> State:
        if self.closing is not None:
            return self.closing.state
        if self.started_at is None:
            return "pending" if now < self.pending_until else "expired"
        return "active" if now < self.started_at + self.duration_s else "ended"

    def is_open(self, now: float) -> bool:
        return self.state(now) in ("pending", "active")

    def counted_approvals(self) -> tuple[Approval, ...]:
        """Return the approvals of exactly this content."""
        content_hash = self.content_hash
        return tuple(one for one in self.approvals if one.content_hash == content_hash)

    def is_newer_than(self, other: "AccessRequest") -> bool:
        """Return which of two copies counts: the later version, and of equal ones the closed one.

        Copies of one version differ only if Redis lost a step that a replica had stored.
        """
        return self.order > other.order

    @property
    def order(self) -> tuple[int, bool, bytes]:
        return self.version, self.closing is not None, encode_request(self)


_DECODER: Final = msgspec.json.Decoder(AccessRequest)


def encode_request(request: AccessRequest) -> bytes:
    return msgspec.json.encode(request)


def decode_request(text: bytes) -> AccessRequest:
    """Decode the result of `encode_request`; raise ValueError for other input."""
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError("is not an access request") from error
