"""Verify an audit chain: report how far it is intact, or the first problem and its place.

Pure: lines come in as bytes. Reading ends at the first problem, because later lines have no proof.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, zip_longest

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
from gateway.domain.audit.report import Finding, Problem, Report, Segment, SignedCheckpoint

_LOOK_AHEAD_LINES = 1_000
"""Lines after a problem that are read to classify it."""

SignatureCheck = Callable[[bytes, bytes], bool]
"""Return whether the first argument is the signature of the second."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A recorded removal of a segment by retention."""

    through: int
    head: Head
    """Last line of the segment."""
    expired_before: float = field(default=0.0, compare=False)
    """Segments that ended before this time were due for removal."""


def verify(
    name: str,
    segments: Sequence[Segment],
    keys: Mapping[str, SignatureCheck] | None = None,
    heads: Iterable[Head] = (),
) -> Report:
    """Verify one chain by itself; `neighbours.verify_chains` verifies several together.

    `keys` by key ID; with None, signatures are neither checked nor required. `heads` were saved
    elsewhere: their lines must exist and have the same hashes.
    """
    verifier = ChainVerifier(name, segments, keys, [*heads])
    verifier.conclude({*verifier.removals})
    return verifier.report


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint with its members; its signature is not verified yet."""

    line: Line
    key: str
    signature: str
    next_within_s: float

    @classmethod
    def read(cls, line: Line) -> "Checkpoint | None":
        """Return None if the gateway writes no such checkpoint."""
        match line.fields:
            case {"event": "checkpoint", "key": str(key), "signature": str(signature), **rest} if (
                rest.keys() - {"next_within_s"} == {"chain", "seq", "prev", "at"}
                and isinstance(within_s := rest.get("next_within_s", 0.0), int | float)
            ):
                return cls(line, key, signature, within_s)
            case _:
                return None

    @property
    def is_signed(self) -> bool:
        return bool(self.key or self.signature)

    def is_valid(self, check: SignatureCheck) -> bool:
        """Return whether the signature is one of the key of `check`."""
        line = self.line
        payload = signed_payload(
            line.chain, line.seq, line.prev, line.at, self.key, self.next_within_s
        )
        return check(_from_hex(self.signature), payload)


@dataclass(frozen=True, slots=True)
class _MissingSegments:
    first: int
    through: int
    before: Head
    """Their last line, according to the line that follows."""
    left: Head | None
    """The last line before them."""
    file: str

    def __str__(self) -> str:
        if self.first == self.through:
            return f"segment {self.first} is missing"
        return f"segments {self.first} to {self.through} are missing"


class _ProblemFound(Exception):
    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem = problem


class ChainVerifier:
    """Reads a chain at once; `conclude` completes the report with the removals of all chains."""

    def __init__(
        self,
        name: str,
        segments: Sequence[Segment],
        keys: Mapping[str, SignatureCheck] | None,
        heads: Sequence[Head],
    ) -> None:
        self.report = Report(name)
        self.removals: list[Removal] = []
        """Removals that this chain records, also of other chains' segments."""
        self.checked_at = 0.0
        """Time of the last checkpoint."""
        self._keys = keys
        self._saved_heads = heads
        self._expected_hashes: dict[int, set[str]] = {}
        """Hashes of saved heads of this chain by line number, until their line is read."""
        self._head: Head | None = None
        self._segment_number = 0
        self._missing: list[_MissingSegments] = []
        self._unconfirmed_removals: list[Removal] = []
        """Removals that no checkpoint follows yet."""
        self._is_signed = False
        """The last line is a signed checkpoint."""
        self._must_be_signed = False
        """The previous segment does not end with a signed checkpoint: this one must begin so."""
        self._overdue_at: tuple[str, int] | None = None
        """The first line later than the last signed checkpoint allows."""
        self._file, self._line = name, 0
        self._rest: Iterator[bytes] = iter(())
        with self._catch_problem():
            self._read(segments)

    def conclude(self, removals: AbstractSet[Removal]) -> None:
        """Check the chain as a whole; `removals` are those that any chain records."""
        if self.report.intact and self._head is not None:
            with self._catch_problem():
                self._check_missing_segments(removals)
                self._check_signatures()
                self._check_saved_heads(self._head)

    @contextmanager
    def _catch_problem(self) -> Iterator[None]:
        try:
            yield
        except _ProblemFound as found:
            self.report.finding = Finding(self._file, self._line, found.problem, str(found))

    def _read(self, segments: Sequence[Segment]) -> None:
        before = None
        for segment in segments:
            if before is not None and segment.number == before.number:
                self._compare_copies(segment, before, is_last=before.number == segments[-1].number)
            else:
                self._read_segment(segment, is_last=segment.number == segments[-1].number)
                before = segment
        self._file, self._line = self.report.name, 0
        if self._head is None:
            raise _ProblemFound(Problem.REMOVED, "the chain has no line")

    def _compare_copies(self, segment: Segment, other: Segment, *, is_last: bool) -> None:
        self._file, self._line = segment.file, 0
        if any(one != two for one, two in zip_longest(segment.lines, other.lines)):
            raise _ProblemFound(Problem.FORKED, f"the file differs from {other.file}")
        if is_last:
            raise _ProblemFound(
                Problem.FORKED, f"{other.file} is a copy of the last segment: both may be continued"
            )

    def _read_segment(self, segment: Segment, *, is_last: bool) -> None:
        self._file, self._line = segment.file, 0
        due, self._segment_number = self._segment_number + 1, segment.number
        self.report.segments += 1
        self._rest = iter(segment.lines)
        for raw in self._rest:
            self._line += 1
            line = _parse(raw, is_last=is_last)
            if self._line == 1 and segment.number > due:
                self._note_missing_segments(line, due)
            elif self._head is not None:
                self._check_sequence(line, self._head)
            elif line.seq != 1 or line.prev != NO_PREVIOUS_HASH:
                raise _ProblemFound(Problem.REMOVED, "the chain does not begin here")
            if self._head is None:
                self._begin(line)
            self._accept(line)
        if self._line == 0:
            raise _ProblemFound(Problem.TRUNCATED, "the segment is empty")

    def _begin(self, line: Line) -> None:
        self.report.chain, self.report.first_seq = line.chain, line.seq
        for head in self._saved_heads:
            if head.chain == line.chain and head.seq > 0:
                self._expected_hashes.setdefault(head.seq, set()).add(head.hash)

    def _note_missing_segments(self, line: Line, due: int) -> None:
        """Continue after missing segments; `_check_missing_segments` decides about them later."""
        if self._head is not None and line.chain != self._head.chain:
            raise _ProblemFound(Problem.INSERTED, f"the line belongs to chain {line.chain}")
        before = Head(line.chain, line.seq - 1, line.prev)
        self._missing.append(
            _MissingSegments(due, self._segment_number - 1, before, self._head, self._file)
        )

    def _check_sequence(self, line: Line, head: Head) -> None:
        due = head.seq + 1
        if line.chain != head.chain:
            raise _ProblemFound(Problem.INSERTED, f"the line belongs to chain {line.chain}")
        if line.seq == due and line.prev == head.hash:
            return
        later = self._following_numbers()
        if line.seq > due:
            if due in later:
                raise _ProblemFound(Problem.REORDERED, f"line {due} of the chain comes later")
            missing = (
                f"line {due} is" if line.seq == due + 1 else f"lines {due} to {line.seq - 1} are"
            )
            raise _ProblemFound(Problem.REMOVED, f"{missing} missing")
        if line.seq < due or due in later:
            raise _ProblemFound(Problem.INSERTED, f"line {line.seq} of the chain occurs twice")
        raise _ProblemFound(
            Problem.CHANGED,
            "the hash of the previous line does not match: this line or the previous one was"
            " changed",
        )

    def _following_numbers(self) -> set[int]:
        found = set()
        for raw in islice(self._rest, _LOOK_AHEAD_LINES):
            try:
                found.add(parse_line(raw).seq)
            except ValueError:
                continue
        return found

    def _accept(self, line: Line) -> None:
        opens = line.event == SEGMENT_OPENED
        has_number = line.fields.get("segment") == self._segment_number
        if opens != (self._line == 1) or (opens and not has_number):
            raise _ProblemFound(
                Problem.CHANGED, "exactly the first line must contain the segment's number"
            )
        expected = self._expected_hashes.pop(line.seq, None)
        if expected is not None and expected != {line.hash}:
            raise _ProblemFound(Problem.HEAD_DIFFERS, "the line's hash differs from the saved head")
        self._account(line)
        self._head = self.report.head = line.head

    def _account(self, line: Line) -> None:
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
        """Return whether the checkpoint is signed."""
        checkpoint = Checkpoint.read(line)
        if checkpoint is None:
            raise _ProblemFound(Problem.CHANGED, "the checkpoint has other fields than written")
        if not checkpoint.is_signed:
            if self._keys is not None:
                raise _ProblemFound(Problem.NOT_SIGNED, "the checkpoint has no signature")
            return False
        if self._keys is not None:
            is_valid = self._keys.get(checkpoint.key)
            if is_valid is None:
                raise _ProblemFound(
                    Problem.UNKNOWN_KEY, f"the checkpoint is signed with the key {checkpoint.key}"
                )
            if not checkpoint.is_valid(is_valid):
                raise _ProblemFound(
                    Problem.INVALID_SIGNATURE, "the signature does not match the checkpoint"
                )
        self.report.signed = SignedCheckpoint(
            line.seq, line.at, checkpoint.key, checkpoint.next_within_s
        )
        return True

    def _check_signed_coverage(self, line: Line, *, is_signed: bool) -> None:
        """Require signed checkpoints where the gateway writes them."""
        if self._must_be_signed and not is_signed:
            raise _ProblemFound(
                Problem.NOT_SIGNED,
                "no signed checkpoint at the end of the previous segment or at the start of this",
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
        for missing in self._missing:
            if Removal(missing.through, missing.before) not in removals:
                self._file, self._line, self.report.head = missing.file, 1, missing.left
                raise _ProblemFound(Problem.REMOVED, f"{missing}, and no line records the removal")
            self.report.removed.append((missing.first, missing.through))

    def _check_signatures(self) -> None:
        signed = self.report.signed
        if self._keys is None:
            return
        if signed is None:
            raise _ProblemFound(Problem.NOT_SIGNED, "no checkpoint is signed")
        if self._must_be_signed:
            raise _ProblemFound(
                Problem.NOT_SIGNED, "the last segment but one ends without a signed checkpoint"
            )
        if self._overdue_at is not None:
            self._file, self._line = self._overdue_at
            raise _ProblemFound(
                Problem.NOT_SIGNED,
                f"line {signed.seq} promised a signed checkpoint within {signed.next_within_s:g} s;"
                " this line is later, and no signed checkpoint follows",
            )

    def _check_saved_heads(self, last: Head) -> None:
        """Compare the saved heads of lines that were not read."""
        before = {missing.before.seq: missing.before.hash for missing in self._missing}
        for seq, hashes in sorted(self._expected_hashes.items()):
            if seq > last.seq:
                raise _ProblemFound(
                    Problem.TRUNCATED,
                    f"line {seq} of a saved head is missing; the last line is {last.seq}",
                )
            if seq in before and hashes != {before[seq]}:
                raise _ProblemFound(
                    Problem.HEAD_DIFFERS, f"the hash of line {seq} differs from the saved head"
                )
            if seq not in before:
                self.report.not_compared += [Head(last.chain, seq, digest) for digest in hashes]


def _parse(raw: bytes, *, is_last: bool) -> Line:
    if not raw.endswith(b"\n"):
        cause = ": a killed gateway leaves this and removes it at its next start" if is_last else ""
        raise _ProblemFound(Problem.TRUNCATED, f"the file ends within a line{cause}")
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
    """Return the signature's bytes; b"" unless it is spelt as the gateway writes it."""
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        return b""
    return raw if raw.hex() == signature else b""
