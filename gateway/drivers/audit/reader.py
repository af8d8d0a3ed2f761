"""What a directory of audit chains holds, and where a chain was left.

Who goes on with a chain signs all that is in it. So its end must be proved before: its last
checkpoint is of the same key, and from there each line follows from the one before.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gateway.domain.audit.chain import (
    CHECKPOINT,
    LINE_BYTES_MAX,
    SEGMENT_OPENED,
    Head,
    Line,
    Neighbour,
    Signer,
    is_beyond,
    is_checkpoint_of,
    parse,
)
from gateway.drivers.audit.paths import chain_places, segment_files

_REACHES_BYTES = (1 << 20, 1 << 23, 1 << 26)
"""How far back a checkpoint is looked for, step by step."""


log = logging.getLogger("gateway.audit")


class ChainUnreadable(Exception):
    """The end of a chain is none that we wrote, so nothing can follow it."""


class KeyDiffers(ChainUnreadable):
    """The chain's last checkpoint is of another key, or of none; so after a change of keys."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a chain was left."""

    head: Head
    number: int
    """Of the last segment."""
    opened_at: float
    at: float = 0.0
    """Of the last line."""
    torn: bytes = b""


def stand_of(place: Path, signer: Signer | None) -> Stand | None:
    """Return where this signer may go on; None: there is no chain. Raises ChainUnreadable."""
    files = segment_files(place)
    if not files:
        return None
    number, file = files[-1]
    opening = first_line(file)
    if opening.event != SEGMENT_OPENED or opening.fields.get("segment") != number:
        raise ChainUnreadable(f"{file.name} does not begin with its number")
    lines, torn = _end_of(file)
    _raise_unless_proved(lines, signer)
    return Stand(lines[-1].head, number, opening.at, lines[-1].at, torn)


def neighbours_of(place: Path) -> list[Neighbour]:
    """Return the other chains in the same directory."""
    found = []
    for other in chain_places(place.parent):
        with suppress(ChainUnreadable, FileNotFoundError):
            if other != place and (files := segment_files(other)):
                # Its later lines may not be durable yet.
                opening = first_line(files[-1][1])
                head = Head(opening.chain, opening.seq - 1, opening.prev)
                found.append(Neighbour(head, opening.at))
    return found


def first_line(file: Path) -> Line:
    with file.open("rb") as opened:
        return _parsed(opened.readline(LINE_BYTES_MAX), f"the first line of {file.name}")


def last_line(file: Path) -> Line:
    """Return the last whole line."""
    lines, _ = _end_of(file)
    return lines[-1]


def _end_of(file: Path) -> tuple[list[Line], bytes]:
    """Return the lines from the last checkpoint on, or all; and the bytes of one that was torn."""
    size = file.stat().st_size
    for reach in _REACHES_BYTES:
        with file.open("rb") as opened:
            opened.seek(max(0, size - reach))
            whole, newline, torn = opened.read().rpartition(b"\n")
        texts = (whole + newline).splitlines(keepends=True)
        if reach < size:
            del texts[:1]  # its beginning may be out of reach
        lines: list[Line] = []
        for text in reversed(texts):
            lines.append(_parsed(text, f"a line near the end of {file.name}"))
            if lines[-1].event == CHECKPOINT:
                return lines[::-1], torn
        if reach >= size and lines:
            return lines[::-1], torn
    raise ChainUnreadable(f"{file.name} has no checkpoint near its end")


def _parsed(text: bytes, where: str) -> Line:
    try:
        return parse(text)
    except ValueError as error:
        raise ChainUnreadable(f"{where} {error}") from None


def _raise_unless_proved(lines: list[Line], signer: Signer | None) -> None:
    """`lines` begin with the last checkpoint."""
    sealed = lines[0]
    if sealed.event != CHECKPOINT:
        raise ChainUnreadable("there is no checkpoint")
    key, own = sealed.fields.get("key"), signer.key_id if signer is not None else ""
    if key != own:
        raise KeyDiffers(f"its checkpoints are of {_named(key)}, ours of {_named(own)}")
    if not is_checkpoint_of(sealed, signer):
        raise ChainUnreadable(f"checkpoint {sealed.seq} is not what was signed")
    for before, line in pairwise(lines):
        if (line.chain, line.seq - 1, line.prev) != (before.chain, before.seq, before.hash):
            raise ChainUnreadable(f"line {line.seq} does not follow from the one before")
        if is_beyond(line, sealed.at, sealed.fields.get("next_within_s", 0.0)):
            raise ChainUnreadable(f"line {line.seq} is later than checkpoint {sealed.seq} allows")


def _named(key: object) -> str:
    return f"the key {key}" if key else "no key"


def tell_unreadable(place: Path, unreadable: ChainUnreadable) -> None:
    extra = {"directory": str(place), "error": str(unreadable)}
    if isinstance(unreadable, KeyDiffers):
        log.warning("audit_chain_key_mismatch", extra=extra)
    else:
        log.error("audit_chain_unreadable", extra=extra)
