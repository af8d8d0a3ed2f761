"""How the lines of an audit log hang together. Pure: bytes in, bytes out.

Each line is one JSON object that bears its chain, its number and the SHA-256 of the line before,
over all that line's bytes, the newline too. A checkpoint is such a line with a signature, which
vouches for everything before it. A chain lies in segments; the first line of each tells its number.
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
"""Events that tell of the trail itself."""
NO_PREVIOUS_HASH: Final = "0" * 64
LINE_BYTES_MAX: Final = 1_048_576
OVERDUE_PERIODS: Final = 2
PROMISED_PERIODS: Final = 3
"""In periods of checkpoints: when a record waits for one, and what each promises of the next."""
_SIGNATURE_CONTEXT = b"console-gateway audit checkpoint\0"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain stands: its last line."""

    chain: str
    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.chain}:{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it was read; what it says of itself is yet to be judged."""

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
    """Another chain in the same directory, as it was found."""

    head: Head
    """A line that it has for certain."""
    at: float
    """It was written after that."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs checkpoints; the key itself stays with the driver."""

    key_id: str
    sign: Callable[[bytes], bytes]


def empty_head(chain: str) -> Head:
    """Return where a chain stands that has no line yet."""
    return Head(chain, 0, NO_PREVIOUS_HASH)


def body(fields: dict[str, object]) -> bytes:
    """Return a line's own members, as `link` takes them; it has one member at least."""
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def link(head: Head, bodies: Iterable[bytes]) -> tuple[list[bytes], Head]:
    """Make lines of these bodies, after `head`; return them and where the chain stands then."""
    chain, seq, last = head.chain.encode(), head.seq, head.hash.encode()
    lines = []
    for one in bodies:
        seq += 1
        line = b'{"chain":"%b","seq":%d,"prev":"%b",%b' % (chain, seq, last, one[1:])
        last = sha256(line).hexdigest().encode()
        lines.append(line)
    return lines, Head(head.chain, seq, last.decode())


def segment_opened_body(
    number: int, at: float, *, beside: dict[str, object] | None = None
) -> bytes:
    return body({"event": SEGMENT_OPENED, "at": at, "segment": number, **(beside or {})})


def neighbour_fields(neighbours: Iterable[Neighbour], keep_s: float) -> dict[str, object]:
    """Return what an opening tells of the chains beside its own, and how long they are kept."""
    told = [
        {"chain": one.head.chain, "seq": one.head.seq, "hash": one.head.hash, "at": one.at}
        for one in neighbours
    ]
    return {"beside": told, "keep_s": keep_s} if told else {}


def segment_removed_body(
    at: float, *, segment: int, head: Head, expired_before: float, why: str
) -> bytes:
    """Tell that a segment is gone, and those before it; `head` was its last line.

    `due_before` is until when it must have ended for that. The line counts only if a checkpoint
    follows it directly: nobody else can make one.
    """
    return body(
        {
            "event": SEGMENTS_REMOVED,
            "at": at,
            "of_chain": head.chain,
            "removed_through": segment,
            "last_seq": head.seq,
            "last_hash": head.hash,
            "expired_before": expired_before,
            "detail": why,
        }
    )


def checkpoint(
    head: Head, at: float, signer: Signer | None, *, next_within_s: float = 0.0
) -> bytes:
    """Return the body that follows `head`; without a signer it is a mark and proves nothing.

    `next_within_s` promises that no line will be later than that without another; 0: no promise.
    """
    key = signature = ""
    if signer is not None:
        key = signer.key_id
        text = signed_payload(head.chain, head.seq + 1, head.hash, at, key, next_within_s)
        signature = signer.sign(text).hex()
    promise = {"next_within_s": next_within_s} if next_within_s else {}
    return body({"event": CHECKPOINT, "at": at, "key": key, "signature": signature, **promise})


def is_checkpoint_by(line: Line, signer: Signer | None) -> bool:
    """Tell whether this signer made the checkpoint; None: whether it is one without a signature."""
    before = Head(line.chain, line.seq - 1, line.prev)
    # Made again it is the same: Ed25519 has one signature for one text.
    promise = line.fields.get("next_within_s", 0.0)
    if not isinstance(promise, int | float):
        return False
    _, again = link(before, [checkpoint(before, line.at, signer, next_within_s=promise)])
    return again == line.head


def is_checkpoint_overdue(line: Line, sealed_at: float, next_within_s: float) -> bool:
    """Tell whether another checkpoint was promised before this line.

    Openings are excepted: they come after any pause, and a forged one tells nothing.
    """
    if not next_within_s or line.event in {SEGMENT_OPENED, CHAIN_OPENED}:
        return False
    return line.at > sealed_at + next_within_s


def signed_payload(
    chain: str, seq: int, prev: str, at: float, key: str, next_within_s: float = 0.0
) -> bytes:
    """Return what a checkpoint's signature is over; it holds nothing for any other purpose."""
    promise = [next_within_s] if next_within_s else []
    return _SIGNATURE_CONTEXT + orjson.dumps([chain, seq, prev, at, key, *promise])


def key_id(public_key: bytes) -> str:
    """Name an Ed25519 public key, given its 32 bytes."""
    return sha256(public_key).hexdigest()[:16]


def parse_line(line: bytes) -> Line:
    """Read a line; raise ValueError when it is not one that `link` could have made.

    It must be written as we write: another spelling of the same object is a change, too.
    """
    try:
        fields = orjson.loads(line)
        if orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE) != line:
            raise ValueError("is spelt in another way than it was written")
    except orjson.JSONDecodeError:
        raise ValueError("is no JSON") from None
    except orjson.JSONEncodeError:  # it can read deeper than it writes
        raise ValueError("is nested deeper than any that is written") from None
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
            raise ValueError("is no line of an audit log")
