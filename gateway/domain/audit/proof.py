"""Which checkpoint proves the lines of a chain that a search reads. Pure: lines come in as bytes.

A checkpoint signs every line from which an unbroken chain leads to it. So a line is proven by the
next checkpoint, and lines after a broken place can be proven while those before it are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from gateway.domain.audit.chain import (
    CHECKPOINT,
    Head,
    Line,
    is_checkpoint_overdue,
    line_start,
    parse_line,
)
from gateway.domain.audit.search import FoundRecord, Proof
from gateway.domain.audit.verify import Checkpoint, SignatureCheck

_MAY_BE_CHECKPOINT: Final = f'"event":"{CHECKPOINT}"'.encode()


@dataclass(slots=True)
class ProofFollower:
    """Follows the lines of one segment in order, and sets the proofs of the records in them."""

    keys: Mapping[str, SignatureCheck]
    """By key ID; the keys of this gateway."""
    first: Proof | None = None
    """Of the first line; None: no checkpoint has come yet."""
    is_intact: bool = True
    _head: Head | None = None
    _last: Checkpoint | None = None
    _waiting: list[FoundRecord] = field(default_factory=list)

    def follow(self, raw: bytes) -> Proof:
        """Take the next line; return BROKEN, or NOT_SIGNED_YET for one that may be proven later."""
        head, line = self._head, None
        is_linked = head is not None and raw.startswith(line_start(head))
        try:
            if not is_linked or _MAY_BE_CHECKPOINT in raw:
                line = parse_line(raw)
        except ValueError:
            self._break()
            self._head = None
            return Proof.BROKEN
        if head is not None and not is_linked:
            self._break()
        if is_linked and head is not None:
            self._head = Head(head.chain, head.seq + 1, sha256(raw).hexdigest())
        elif line is not None:
            self._head = line.head
        if line is not None and line.event == CHECKPOINT:
            self._conclude(line)
        return Proof.NOT_SIGNED_YET

    def wait(self, found: FoundRecord) -> None:
        """Set the proof of a record later; it is in the line that `follow` took last."""
        self._waiting.append(found)

    def end(self) -> Proof:
        """End a chain; return the proof of the first line."""
        for one in self._waiting:
            one.proof = Proof.BROKEN if self._is_overdue(one) else Proof.NOT_SIGNED_YET
            self.is_intact &= one.proof is not Proof.BROKEN
        self._waiting.clear()
        return self.first or Proof.NOT_SIGNED_YET

    def continue_with(self, prev: str, proof: Proof) -> Proof:
        """End a segment; return the proof of the first line.

        The next segment's first line has the previous hash `prev`, and this proof.
        """
        if self._head is not None and self._head.hash != prev:
            self._break()
        self._settle(proof)
        return self.first or proof

    def _conclude(self, line: Line) -> None:
        self._last = Checkpoint.read(line)
        proof = self._proof_by(self._last)
        self.is_intact &= proof is not Proof.BROKEN
        self._settle(proof)

    def _proof_by(self, checkpoint: Checkpoint | None) -> Proof:
        if checkpoint is None:
            return Proof.BROKEN
        if not checkpoint.is_signed:
            return Proof.UNSIGNED
        check = self.keys.get(checkpoint.key)
        if check is None:
            return Proof.UNKNOWN_KEY
        return Proof.SIGNED if checkpoint.is_valid(check) else Proof.BROKEN

    def _break(self) -> None:
        self.is_intact = False
        self._last = None
        self._settle(Proof.BROKEN)

    def _settle(self, proof: Proof) -> None:
        self.first = self.first or proof
        for one in self._waiting:
            one.proof = proof
        self._waiting.clear()

    def _is_overdue(self, found: FoundRecord) -> bool:
        """Return whether the gateway would have written a checkpoint before the record."""
        last, record = self._last, found.record
        if last is None:
            return False
        line = Line("", 0, "", record.get("event", ""), found.at, record, "")
        return is_checkpoint_overdue(line, last.line.at, last.next_within_s)
