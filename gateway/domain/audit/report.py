"""Result of verifying an audit chain: how far it is intact, or which problem it has. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gateway.domain.audit.chain import Head


class Problem(Enum):
    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    INVALID_SIGNATURE = "invalid signature"
    UNKNOWN_KEY = "unknown key"
    NOT_SIGNED = "not signed"
    HEAD_DIFFERS = "head differs"
    FORKED = "forked"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first problem of a chain; later lines have no proof and are not read."""

    file: str
    line: int
    """0: the problem is in the whole file or chain."""
    problem: Problem
    text: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.problem.value}: {self.text}"


@dataclass(frozen=True, slots=True)
class Segment:
    number: int
    file: str
    lines: Iterable[bytes]
    """Iterated more than once."""


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    seq: int
    at: float
    key: str
    next_within_s: float = 0.0
    """The time within which the next checkpoint is promised; 0: no promise."""


@dataclass(slots=True)
class Report:
    """Result for one chain; `head` is its last intact line."""

    name: str
    chain: str = ""
    head: Head | None = None
    first_seq: int = 0
    segments: int = 0
    records: int = 0
    signed: SignedCheckpoint | None = None
    """The last signed checkpoint; its signature is verified only if keys were given."""
    removed: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of segments that retention removed, as recorded."""
    not_compared: list[Head] = field(default_factory=list)
    """Saved heads of lines that retention removed."""
    finding: Finding | None = None

    @property
    def intact(self) -> bool:
        return self.finding is None

    @property
    def removed_through(self) -> int:
        """The last segment that retention removed; 0 if none."""
        return self.removed[-1][1] if self.removed else 0

    @property
    def unsigned_lines(self) -> int:
        """Number of lines after the last signed checkpoint."""
        last = 0 if self.head is None else self.head.seq
        return last - (self.signed.seq if self.signed is not None else self.first_seq - 1)

    def as_json(self) -> dict[str, Any]:
        head, signed, finding = self.head, self.signed, self.finding
        return {
            "name": self.name,
            "intact": self.intact,
            "chain": self.chain or None,
            "first_seq": self.first_seq,
            "last_seq": 0 if head is None else head.seq,
            "last_hash": None if head is None else head.hash,
            "segments": self.segments,
            "records": self.records,
            "removed_through_segment": self.removed_through,
            "signed_checkpoint": None
            if signed is None
            else {"seq": signed.seq, "at": signed.at, "key": signed.key},
            "unsigned_lines": self.unsigned_lines,
            "finding": None
            if finding is None
            else {
                "file": finding.file,
                "line": finding.line,
                "problem": finding.problem.value,
                "text": finding.text,
            },
        }
