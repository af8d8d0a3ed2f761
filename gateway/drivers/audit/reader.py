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
    is_checkpoint_by,
    is_checkpoint_overdue,
    parse_line,
)
from gateway.drivers.audit.paths import chain_directories, segment_files

_LOOKBACK_BYTES = (1 << 20, 1 << 23, 1 << 26)
"""How far back a checkpoint is looked for, step by step."""


log = logging.getLogger("gateway.audit")


class ChainUnreadable(Exception):
    """The end of a chain is none that we wrote, so nothing can follow it."""


class KeyMismatch(ChainUnreadable):
    """The chain's last checkpoint is of another key, or of none; so after a change of keys."""


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """Where a chain was left."""

    head: Head
    number: int
    """Of the last segment."""
    opened_at: float
    at: float = 0.0
    """Of the last line."""
    partial: bytes = b""


def read_chain_end(chain_directory: Path, signer: Signer | None) -> ChainEnd | None:
    """Return where this signer may go on; None: there is no chain. Raises ChainUnreadable."""
    files = segment_files(chain_directory)
    if not files:
        return None
    number, file = files[-1]
    opening = read_first_line(file)
    if opening.event != SEGMENT_OPENED or opening.fields.get("segment") != number:
        raise ChainUnreadable(f"{file.name} does not begin with its number")
    lines, partial = _read_end(file)
    _verify_end(lines, signer)
    return ChainEnd(lines[-1].head, number, opening.at, lines[-1].at, partial)


def read_neighbours(chain_directory: Path) -> list[Neighbour]:
    """Return the other chains in the same directory."""
    found = []
    for other in chain_directories(chain_directory.parent):
        with suppress(ChainUnreadable, FileNotFoundError):
            if other != chain_directory and (files := segment_files(other)):
                # Its later lines may not be durable yet.
                opening = read_first_line(files[-1][1])
                head = Head(opening.chain, opening.seq - 1, opening.prev)
                found.append(Neighbour(head, opening.at))
    return found


def read_first_line(file: Path) -> Line:
    with file.open("rb") as opened:
        return _parse_line(opened.readline(LINE_BYTES_MAX), f"the first line of {file.name}")


def read_last_line(file: Path) -> Line:
    """Return the last whole line."""
    lines, _ = _read_end(file)
    return lines[-1]


def _read_end(file: Path) -> tuple[list[Line], bytes]:
    """Return the lines from the last checkpoint on, or all; and the bytes of one that was torn."""
    size = file.stat().st_size
    for reach in _LOOKBACK_BYTES:
        with file.open("rb") as opened:
            opened.seek(max(0, size - reach))
            whole, newline, partial = opened.read().rpartition(b"\n")
        texts = (whole + newline).splitlines(keepends=True)
        if reach < size:
            del texts[:1]  # its beginning may be out of reach
        lines: list[Line] = []
        for text in reversed(texts):
            lines.append(_parse_line(text, f"a line near the end of {file.name}"))
            if lines[-1].event == CHECKPOINT:
                return lines[::-1], partial
        if reach >= size and lines:
            return lines[::-1], partial
    raise ChainUnreadable(f"{file.name} has no checkpoint near its end")


def _parse_line(text: bytes, where: str) -> Line:
    try:
        return parse_line(text)
    except ValueError as error:
        raise ChainUnreadable(f"{where} {error}") from None


def _verify_end(lines: list[Line], signer: Signer | None) -> None:
    """`lines` begin with the last checkpoint."""
    sealed = lines[0]
    if sealed.event != CHECKPOINT:
        raise ChainUnreadable("there is no checkpoint")
    key, own = sealed.fields.get("key"), signer.key_id if signer is not None else ""
    if key != own:
        raise KeyMismatch(f"its checkpoints are of {_key_name(key)}, ours of {_key_name(own)}")
    if not is_checkpoint_by(sealed, signer):
        raise ChainUnreadable(f"checkpoint {sealed.seq} is not what was signed")
    for before, line in pairwise(lines):
        if (line.chain, line.seq - 1, line.prev) != (before.chain, before.seq, before.hash):
            raise ChainUnreadable(f"line {line.seq} does not follow from the one before")
        if is_checkpoint_overdue(line, sealed.at, sealed.fields.get("next_within_s", 0.0)):
            raise ChainUnreadable(f"line {line.seq} is later than checkpoint {sealed.seq} allows")


def _key_name(key: object) -> str:
    return f"the key {key}" if key else "no key"


def log_unreadable(chain_directory: Path, unreadable: ChainUnreadable) -> None:
    extra = {"directory": str(chain_directory), "error": str(unreadable)}
    if isinstance(unreadable, KeyMismatch):
        log.warning("audit_chain_key_mismatch", extra=extra)
    else:
        log.error("audit_chain_unreadable", extra=extra)
