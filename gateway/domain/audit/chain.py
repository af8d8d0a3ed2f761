"""The lines of a hash chain: how they are encoded, linked, signed and parsed. Pure.

Each line is one JSON object with its chain, its number and the SHA-256 of the previous line,
newline included. A checkpoint is a line with a signature over everything before it. A chain is
split into segments; the first line of a segment contains its number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

CHECKPOINT: Final = "checkpoint"
SEGMENT_OPENED: Final = "segment_opened"
SEGMENTS_REMOVED: Final = "segments_removed"
CHAIN_OPENED: Final = "audit_chain_opened"
CHAIN_EVENTS: Final = frozenset({CHECKPOINT, SEGMENT_OPENED, SEGMENTS_REMOVED})
"""Events about the chain itself; they are not counted as records."""
NO_PREVIOUS_HASH: Final = "0" * 64
LINE_BYTES_MAX: Final = 1_048_576
OVERDUE_PERIODS: Final = 2
"""A record that comes this many checkpoint periods after a checkpoint waits for another one."""
PROMISED_PERIODS: Final = 3
"""A checkpoint promises the next one within this many checkpoint periods."""
_SIGNATURE_CONTEXT = b"console-gateway audit checkpoint\0"


@dataclass(frozen=True, slots=True)
class Head:
    """The last line of a chain: its number and hash."""

    chain: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.chain}:{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line, not verified yet."""

    chain: str
    seq: int
    prev: str
    event: str
    at: float
    fields: dict[str, Any]
    hash: str

    @property
    def head(self) -> Head:
        return Head(self.chain, self.seq, self.hash)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another chain in the same audit directory."""

    head: Head
    """A line that the chain certainly contains."""
    at: float
    """A lower bound of the time at which that line was written."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs checkpoints; only the driver has the private key."""

    key_id: str
    sign: Callable[[bytes], bytes]


def empty_head(chain: str) -> Head:
    """Return the head of a chain that has no line yet."""
    return Head(chain, 0, NO_PREVIOUS_HASH)


def encode_body(fields: dict[str, object]) -> bytes:
    """Return a line's own members for `link_lines`; at least one member is required."""
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def link_lines(head: Head, bodies: Iterable[bytes]) -> tuple[list[bytes], Head]:
    """Return the lines that append these bodies to `head`, and the new head."""
    chain, seq, last = head.chain.encode(), head.seq, head.hash.encode()
    lines = []
    for body in bodies:
        seq += 1
        line = b'{"chain":"%b","seq":%d,"prev":"%b",%b' % (chain, seq, last, body[1:])
        last = sha256(line).hexdigest().encode()
        lines.append(line)
    return lines, Head(head.chain, seq, last.decode())


def line_start(head: Head) -> bytes:
    """Return how the line after `head` begins; its own members follow."""
    start = f'{{"chain":"{head.chain}","seq":{head.seq + 1},"prev":"{head.hash}",'
    return start.encode()


def segment_opened_body(
    number: int, at: float, *, neighbours: dict[str, object] | None = None
) -> bytes:
    """Return the first line of a segment; `neighbours` comes from `neighbour_fields`."""
    return encode_body({"event": SEGMENT_OPENED, "at": at, "segment": number, **(neighbours or {})})


def neighbour_fields(neighbours: Iterable[Neighbour], keep_s: float) -> dict[str, object]:
    """Return the fields that record the neighbours and the retention time in seconds."""
    found = [
        {"chain": one.head.chain, "seq": one.head.seq, "hash": one.head.hash, "at": one.at}
        for one in neighbours
    ]
    return {"neighbours": found, "keep_s": keep_s} if found else {}


def segment_removed_body(
    at: float, *, segment: int, head: Head, expired_before: float, reason: str
) -> bytes:
    """Record that a segment, ending with line `head`, and all earlier ones are removed.

    Segments that ended before `expired_before` were due for removal. The record counts only if a
    checkpoint follows it directly: only the holder of the signing key can write one.
    """
    return encode_body(
        {
            "event": SEGMENTS_REMOVED,
            "at": at,
            "of_chain": head.chain,
            "removed_through": segment,
            "last_seq": head.seq,
            "last_hash": head.hash,
            "expired_before": expired_before,
            "detail": reason,
        }
    )


def checkpoint_body(
    head: Head, at: float, signer: Signer | None, *, next_within_s: float = 0.0
) -> bytes:
    """Return a checkpoint that follows `head`; without a signer it has no signature.

    `next_within_s` promises that no later line is written without another checkpoint; 0 promises
    nothing.
    """
    key = signature = ""
    if signer is not None:
        key = signer.key_id
        payload = signed_payload(head.chain, head.seq + 1, head.hash, at, key, next_within_s)
        signature = signer.sign(payload).hex()
    promise = {"next_within_s": next_within_s} if next_within_s else {}
    return encode_body(
        {"event": CHECKPOINT, "at": at, "key": key, "signature": signature, **promise}
    )


def is_checkpoint_by(line: Line, signer: Signer | None) -> bool:
    """Return whether this signer wrote the checkpoint; None: whether it is an unsigned one."""
    before = Head(line.chain, line.seq - 1, line.prev)
    # Ed25519 is deterministic, so signing again must produce the same line.
    promise = line.fields.get("next_within_s", 0.0)
    if not isinstance(promise, int | float):
        return False
    _, again = link_lines(before, [checkpoint_body(before, line.at, signer, next_within_s=promise)])
    return again == line.head


def is_checkpoint_overdue(line: Line, checkpoint_at: float, next_within_s: float) -> bool:
    """Return whether the last checkpoint promised another one before this line.

    Openings are exempt: they may follow a long pause, and record no access.
    """
    if not next_within_s or line.event in {SEGMENT_OPENED, CHAIN_OPENED}:
        return False
    return line.at > checkpoint_at + next_within_s


def signed_payload(
    chain: str, seq: int, prev: str, at: float, key: str, next_within_s: float = 0.0
) -> bytes:
    """Return the bytes that a checkpoint's signature covers; its prefix excludes any other use."""
    promise = [next_within_s] if next_within_s else []
    return _SIGNATURE_CONTEXT + orjson.dumps([chain, seq, prev, at, key, *promise])


def key_id(public_key: bytes) -> str:
    """Return the ID of an Ed25519 public key, given its 32 bytes."""
    return sha256(public_key).hexdigest()[:16]


def parse_line(line: bytes) -> Line:
    """Parse a line; raise ValueError if `link_lines` could not have written it.

    The same object in another spelling is a change and is rejected as well.
    """
    try:
        fields = orjson.loads(line)
        if orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE) != line:
            raise ValueError("has another JSON spelling than the gateway writes")
    except orjson.JSONDecodeError:
        raise ValueError("is not JSON") from None
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        raise ValueError("is nested deeper than the gateway writes") from None
    match fields:
        case {
            "chain": str(chain),
            "seq": int(seq),
            "prev": str(prev),
            "event": str(event),
            "at": float() | int() as at,
        }:
            return Line(chain, seq, prev, event, at, fields, sha256(line).hexdigest())
        case _:
            raise ValueError("is not an audit log line")
