"""Which records a search of the audit log returns, and how one is shown. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gateway.domain.audit.chain import CHAIN_EVENTS
from gateway.domain.timestamps import iso


class Proof(Enum):
    """How far a record is proven by the checkpoint that follows it in its chain."""

    SIGNED = "signed"
    NOT_SIGNED_YET = "not_signed_yet"
    """No checkpoint follows: the record is new, or its process ended without one."""
    UNSIGNED = "unsigned"
    """The checkpoint has no signature."""
    UNKNOWN_KEY = "unknown_key"
    """The checkpoint is signed with another key than this gateway's."""
    BROKEN = "broken"
    """The line was changed, or no unbroken chain leads to a checkpoint with a valid signature."""


@dataclass(slots=True)
class FoundRecord:
    record: dict[str, Any]
    proof: Proof

    @property
    def at(self) -> float:
        return float(self.record["at"])


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """The result of a bounded search."""

    records: list[FoundRecord]
    """The newest first."""
    is_complete: bool
    """Every matching record was found."""
    is_intact: bool
    """The hash chain of the lines that were read is unbroken, and its signatures are valid."""
    hosts: frozenset[str] = frozenset()
    """Hosts that the lines name as the writers of a chain."""


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Conditions that a record must meet; None: any value."""

    subject: str | None = None
    issuer: str | None = None
    server: str | None = None
    project: str | None = None
    event: str | None = None
    request_id: str | None = None
    since: float | None = None
    until: float | None = None

    def matches(self, record: dict[str, Any]) -> bool:
        event, at = record.get("event"), record.get("at", 0.0)
        if event in CHAIN_EVENTS and self.event is None:
            return False
        exact = {"project": self.project, "event": self.event, "request_id": self.request_id}
        if any(wanted not in (None, record.get(name)) for name, wanted in exact.items()):
            return False
        caller = record.get("issuer"), record.get("subject")
        target = tuple(str(record.get("target", "")).split(":", 1))
        if not self._matches_person(caller) and not self._matches_person(target):
            return False
        if self.server is not None and not _contains(record.get("servers", ()), self.server):
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def _matches_person(self, person: tuple[Any, ...]) -> bool:
        """Compare a caller, or the target of an administrator's request."""
        issuer, *subject = person
        return self.issuer in (None, issuer) and self.subject in (None, *subject)


def _contains(servers: Iterable[str], server: str) -> bool:
    """Compare without regard to case: the cloud treats both spellings of an ID as one server."""
    return any(server.lower() == one.lower() for one in servers)


def as_text(record: dict[str, Any]) -> str:
    """Return a record as text; a value may contain control characters."""
    person = "/".join(filter(None, (record.get("issuer"), record.get("subject"))))
    servers = ",".join(record.get("servers", ()))
    parts = [
        iso(record["at"]),
        record["event"],
        record.get("decision", ""),
        record.get("outcome", ""),
        person,
        record.get("operation", ""),
        "/".join(filter(None, (record.get("project"), servers))),
        _labelled("target", record.get("target")),
        _labelled("rule", record.get("rule")),
        _labelled("link", record.get("link_fingerprint")),
        _labelled("session", record.get("session")),
        _labelled("end", record.get("end")),
        _labelled("source", record.get("source")),
        _labelled("status", record.get("status")),
        _labelled("key", record.get("access_key")),
        _labelled("until", _instant(record.get("expires_at"))),
        _labelled("request", record.get("request_id")),
        _labelled("from", record.get("client_address")),
        record.get("detail", ""),
    ]
    return "  ".join(filter(None, map(str, parts)))


def _instant(at: float | None) -> str:
    return "" if at is None else iso(at)


def _labelled(label: str, value: object) -> str:
    return f"{label} {value}" if value else ""
