"""Is an audit log as it was written? Says up to where it is intact, or what is wrong, and where.

Pure: the lines come in as bytes. What is read after the first flaw proves nothing, so reading
ends there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice, zip_longest
from typing import Any

from gateway.domain.audit.chain import (
    CHAIN_EVENTS,
    CHECKPOINT,
    NO_PREVIOUS_HASH,
    SEGMENT_OPENED,
    SEGMENTS_REMOVED,
    Head,
    Line,
    is_checkpoint_overdue,
    parse_line,
    signed_payload,
)

_LOOK_AHEAD = 1_000
"""Lines after a flaw that are looked at to tell what was done."""

SignatureCheck = Callable[[bytes, bytes], bool]
"""Tell whether this is the signature (first) over that text (second)."""


class Problem(Enum):
    CHANGED = "changed"
    REMOVED = "removed"
    INSERTED = "inserted"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    SIGNATURE_WRONG = "signature wrong"
    KEY_UNKNOWN = "key unknown"
    NOT_SIGNED = "not signed"
    HEAD_DIFFERS = "head differs"
    FORKED = "forked"


@dataclass(frozen=True, slots=True)
class Finding:
    file: str
    line: int
    """0: the file, or all of the chain."""
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
    """To be read more than once."""


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    seq: int
    at: float
    key: str
    next_within_s: float = 0.0
    """When another was promised; 0: no promise."""


@dataclass(slots=True)
class Report:
    """What is known of one chain; `head` is the last line that is intact."""

    name: str
    chain: str = ""
    head: Head | None = None
    first_seq: int = 0
    segments: int = 0
    records: int = 0
    signed: SignedCheckpoint | None = None
    """The last checkpoint with a signature, verified if keys were given."""
    removed: list[tuple[int, int]] = field(default_factory=list)
    """Segments, from and to, that were removed when they were old, as a chain tells."""
    not_compared: list[Head] = field(default_factory=list)
    """Heads that were kept of lines that were removed with their segment."""
    finding: Finding | None = None

    @property
    def intact(self) -> bool:
        return self.finding is None

    @property
    def removed_through(self) -> int:
        """The last segment that is gone by right; 0: none is."""
        return self.removed[-1][1] if self.removed else 0

    @property
    def unsigned_lines(self) -> int:
        """How many lines stand after the last signed checkpoint."""
        last = 0 if self.head is None else self.head.seq
        return last - (self.signed.seq if self.signed is not None else self.first_seq - 1)


@dataclass(frozen=True, slots=True)
class Removal:
    """A chain tells that a segment was removed when it was old."""

    through: int
    head: Head
    """Its last line."""
    expired_before: float = field(default=0.0, compare=False)
    """What ended before that was old."""


def verify(
    name: str,
    segments: Sequence[Segment],
    keys: Mapping[str, SignatureCheck] | None = None,
    heads: Iterable[Head] = (),
) -> Report:
    """Judge one chain by itself; `audit_trails` judges several.

    `keys` by their ids; None: signatures are not looked at, nor missed. `heads` were kept
    elsewhere: their lines must be there, and be the same.
    """
    reading = ChainVerifier(name, segments, keys, [*heads])
    reading.judge({*reading.removals})
    return reading.report


@dataclass(frozen=True, slots=True)
class _MissingSegments:
    """Segments that are not there."""

    first: int
    through: int
    before: Head
    """Their last line, as the one after it tells."""
    left: Head | None
    """The last line before them."""
    file: str

    def __str__(self) -> str:
        if self.first == self.through:
            return f"segment {self.first} is not there"
        return f"segments {self.first} to {self.through} are not there"


class _ProblemFound(Exception):
    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem = problem


class ChainVerifier:
    """A chain as it was read; to be judged when it is known what others tell of it."""

    def __init__(
        self,
        name: str,
        segments: Sequence[Segment],
        keys: Mapping[str, SignatureCheck] | None,
        heads: Sequence[Head],
    ) -> None:
        self.report = Report(name)
        self.removals: list[Removal] = []
        """What it tells of, also of other chains."""
        self.checked_at = 0.0
        """When its last checkpoint was written."""
        self._keys = keys
        self._expected = heads
        self._heads: dict[int, set[str]] = {}
        """Of this chain, hashes by line, those that are not found yet."""
        self._head: Head | None = None
        self._number = 0
        """Of the segment."""
        self._missing: list[_MissingSegments] = []
        self._unconfirmed_removals: list[Removal] = []
        """Removals that a checkpoint has yet to follow."""
        self._is_signed = False
        """The last line is a signed checkpoint."""
        self._must_be_signed = False
        """The segment before does not end with one, so this one must begin with one."""
        self._overdue_at: tuple[str, int] | None = None
        """The first line that came later than the last signed checkpoint allows."""
        self._file, self._line = name, 0
        self._rest: Iterator[bytes] = iter(())
        with self._recording_problem():
            self._read(segments)

    def judge(self, removals: AbstractSet[Removal]) -> None:
        """Judge what was read as a whole, with the removals that any chain tells of."""
        if self.report.intact and self._head is not None:
            with self._recording_problem():
                self._check_missing_segments(removals)
                self._check_signatures()
                self._check_heads(self._head)

    @contextmanager
    def _recording_problem(self) -> Iterator[None]:
        try:
            yield
        except _ProblemFound as broken:
            self.report.finding = Finding(self._file, self._line, broken.problem, str(broken))

    def _read(self, segments: Sequence[Segment]) -> None:
        before = None
        for segment in segments:
            if before is not None and segment.number == before.number:
                self._compare(segment, before, is_last=before.number == segments[-1].number)
            else:
                self._segment(segment, is_last=segment.number == segments[-1].number)
                before = segment
        self._file, self._line = self.report.name, 0
        if self._head is None:
            raise _ProblemFound(Problem.REMOVED, "there is no line")

    def _compare(self, segment: Segment, other: Segment, *, is_last: bool) -> None:
        self._file, self._line = segment.file, 0
        if any(one != two for one, two in zip_longest(segment.lines, other.lines)):
            raise _ProblemFound(Problem.FORKED, f"this is not the same as {other.file}")
        if is_last:
            raise _ProblemFound(
                Problem.FORKED, f"the chain ends here and in {other.file}: each may be gone on with"
            )

    def _segment(self, segment: Segment, *, is_last: bool) -> None:
        self._file, self._line = segment.file, 0
        due, self._number = self._number + 1, segment.number
        self.report.segments += 1
        self._rest = iter(segment.lines)
        for raw in self._rest:
            self._line += 1
            line = _parse_line(raw, is_last=is_last)
            if self._line == 1 and segment.number > due:
                self._note_missing_segments(line, due)
            elif self._head is not None:
                self._follow(line, self._head)
            elif line.seq != 1 or line.prev != NO_PREVIOUS_HASH:
                raise _ProblemFound(Problem.REMOVED, "the chain does not begin here")
            if self._head is None:
                self._begin(line)
            self._take(line)
        if self._line == 0:
            raise _ProblemFound(Problem.TRUNCATED, "the segment is empty")

    def _begin(self, line: Line) -> None:
        self.report.chain, self.report.first_seq = line.chain, line.seq
        for head in self._expected:
            if head.chain == line.chain and head.seq > 0:
                self._heads.setdefault(head.seq, set()).add(head.hash)

    def _note_missing_segments(self, line: Line, due: int) -> None:
        """Let segments be missing before this line, until we know whether that is right."""
        if self._head is not None and line.chain != self._head.chain:
            raise _ProblemFound(Problem.INSERTED, f"the line is of another chain, {line.chain}")
        before = Head(line.chain, line.seq - 1, line.prev)
        self._missing.append(
            _MissingSegments(due, self._number - 1, before, self._head, self._file)
        )

    def _take(self, line: Line) -> None:
        opens = line.event == SEGMENT_OPENED
        if opens != (self._line == 1) or (opens and line.fields.get("segment") != self._number):
            raise _ProblemFound(Problem.CHANGED, "the first line of a segment tells its number")
        kept = self._heads.pop(line.seq, None)
        if kept is not None and kept != {line.hash}:
            raise _ProblemFound(
                Problem.HEAD_DIFFERS, "this line is not the one whose hash was kept"
            )
        self._note(line)
        self._head = self.report.head = line.head

    def _follow(self, line: Line, head: Head) -> None:
        due = head.seq + 1
        if line.chain != head.chain:
            raise _ProblemFound(Problem.INSERTED, f"the line is of another chain, {line.chain}")
        if line.seq == due and line.prev == head.hash:
            return
        later = self._following_numbers()
        if line.seq > due:
            if due in later:
                raise _ProblemFound(Problem.REORDERED, f"line {due} of the chain comes later")
            raise _ProblemFound(
                Problem.REMOVED, f"lines {due} to {line.seq - 1} of the chain are missing"
            )
        if line.seq < due or due in later:
            raise _ProblemFound(Problem.INSERTED, f"line {line.seq} of the chain is there twice")
        raise _ProblemFound(
            Problem.CHANGED,
            "the line does not follow from the one before: one of the two was changed",
        )

    def _following_numbers(self) -> set[int]:
        found = set()
        for raw in islice(self._rest, _LOOK_AHEAD):
            try:
                found.add(parse_line(raw).seq)
            except ValueError:
                continue
        return found

    def _note(self, line: Line) -> None:
        is_checkpoint = line.event == CHECKPOINT or "signature" in line.fields
        is_signed = is_checkpoint and self._check_checkpoint(line)
        if is_checkpoint:
            self.checked_at = max(self.checked_at, line.at)
        if line.event == SEGMENTS_REMOVED:
            self._unconfirmed_removals += _parse_removal(line)
        else:
            self.removals += self._unconfirmed_removals if is_checkpoint else ()
            self._unconfirmed_removals.clear()
        if line.event not in CHAIN_EVENTS:
            self.report.records += 1
        if self._keys is not None:
            self._check_signed_coverage(line, is_signed=is_signed)

    def _check_checkpoint(self, line: Line) -> bool:
        """Tell whether it is signed."""
        match line.fields:
            case {"event": "checkpoint", "key": str(key), "signature": str(signature), **rest} if (
                rest.keys() - {"next_within_s"} == {"chain", "seq", "prev", "at"}
                and isinstance(within_s := rest.get("next_within_s", 0.0), int | float)
            ):
                pass
            case _:
                raise _ProblemFound(
                    Problem.CHANGED, "the line is no checkpoint as they are written"
                )
        if not key and not signature:
            if self._keys is not None:
                raise _ProblemFound(Problem.NOT_SIGNED, "the checkpoint has no signature")
            return False
        if self._keys is not None:
            proves = self._keys.get(key)
            if proves is None:
                raise _ProblemFound(
                    Problem.KEY_UNKNOWN, f"the checkpoint is signed with the key {key}"
                )
            text = signed_payload(line.chain, line.seq, line.prev, line.at, key, within_s)
            if not proves(_from_hex(signature), text):
                raise _ProblemFound(
                    Problem.SIGNATURE_WRONG, "the checkpoint is not what was signed"
                )
        self.report.signed = SignedCheckpoint(line.seq, line.at, key, within_s)
        return True

    def _check_signed_coverage(self, line: Line, *, is_signed: bool) -> None:
        """Miss signed checkpoints where the gateway puts them."""
        if self._must_be_signed and not is_signed:
            raise _ProblemFound(
                Problem.NOT_SIGNED,
                "the segment before does not end with a checkpoint, nor does this begin with one",
            )
        opens = line.event == SEGMENT_OPENED and self._head is not None
        self._must_be_signed = opens and not self._is_signed
        self._is_signed = is_signed
        signed = self.report.signed
        if is_signed:
            self._overdue_at = None
        elif (
            self._overdue_at is None
            and signed is not None
            and is_checkpoint_overdue(line, signed.at, signed.next_within_s)
        ):
            self._overdue_at = self._file, self._line

    def _check_missing_segments(self, removals: AbstractSet[Removal]) -> None:
        for gap in self._missing:
            if Removal(gap.through, gap.before) not in removals:
                self._file, self._line, self.report.head = gap.file, 1, gap.left
                raise _ProblemFound(Problem.REMOVED, f"{gap}, and no line tells of a removal")
            self.report.removed.append((gap.first, gap.through))

    def _check_signatures(self) -> None:
        signed = self.report.signed
        if self._keys is None:
            return
        if signed is None:
            raise _ProblemFound(Problem.NOT_SIGNED, "no checkpoint is signed")
        if self._must_be_signed:
            raise _ProblemFound(
                Problem.NOT_SIGNED, "the last segment but one ends without a checkpoint"
            )
        if self._overdue_at is not None:
            self._file, self._line = self._overdue_at
            raise _ProblemFound(
                Problem.NOT_SIGNED,
                f"line {signed.seq} promised a signed checkpoint within {signed.next_within_s:g} s;"
                " this line is later, and none follows",
            )

    def _check_heads(self, last: Head) -> None:
        """Compare those whose lines were not read."""
        before = {gap.before.seq: gap.before.hash for gap in self._missing}
        for seq, hashes in sorted(self._heads.items()):
            if seq > last.seq:
                raise _ProblemFound(
                    Problem.TRUNCATED,
                    f"line {seq}, whose hash was kept, is gone; the last is {last.seq}",
                )
            if seq in before and hashes != {before[seq]}:
                raise _ProblemFound(
                    Problem.HEAD_DIFFERS, f"line {seq} was another when its hash was kept"
                )
            if seq not in before:
                self.report.not_compared += [Head(last.chain, seq, digest) for digest in hashes]


def _parse_line(raw: bytes, *, is_last: bool) -> Line:
    if not raw.endswith(b"\n"):
        left_by_a_kill = (
            ": a gateway that was killed leaves this, and cuts it off when it next starts"
            if is_last
            else ""
        )
        raise _ProblemFound(Problem.TRUNCATED, f"the file ends within a line{left_by_a_kill}")
    try:
        return parse_line(raw)
    except ValueError as error:
        raise _ProblemFound(Problem.CHANGED, f"the line {error}") from None


def _parse_removal(line: Line) -> list[Removal]:
    match line.fields:
        case {
            "of_chain": str(chain),
            "removed_through": int(through),
            "last_seq": int(seq),
            "last_hash": str(digest),
            "expired_before": int() | float() as expired_before,
        }:
            return [Removal(through, Head(chain, seq, digest), expired_before)]
        case _:
            return []


def _from_hex(signature: str) -> bytes:
    """Return its bytes; what is not spelt as we write is no signature."""
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        return b""
    return raw if raw.hex() == signature else b""


def summary(report: Report) -> dict[str, Any]:
    """Return the report as JSON tells it."""
    head, signed, finding = report.head, report.signed, report.finding
    return {
        "name": report.name,
        "intact": report.intact,
        "chain": report.chain or None,
        "first_seq": report.first_seq,
        "last_seq": 0 if head is None else head.seq,
        "last_hash": None if head is None else head.hash,
        "segments": report.segments,
        "records": report.records,
        "removed_through_segment": report.removed_through,
        "signed": None
        if signed is None
        else {"seq": signed.seq, "at": signed.at, "key": signed.key},
        "lines_not_signed": report.unsigned_lines,
        "finding": None
        if finding is None
        else {
            "file": finding.file,
            "line": finding.line,
            "problem": finding.problem.value,
            "text": finding.text,
        },
    }
