"""The audit directory: `chain-K` directories of segment files, and where each chain ends.

A process locks the chain that it writes. A process that continues a chain signs everything in it,
so it verifies the end first: the last checkpoint is signed with its own key, and each line after
that checkpoint is linked to the previous one.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

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
from gateway.drivers.files.durable import sync_directory

log = logging.getLogger("gateway.audit")

LOCK_FILE: Final = "lock"
_SEGMENT = re.compile(r"segment-(\d{8})\.jsonl")
_LOOKBACK_BYTES = (1 << 20, 1 << 23, 1 << 26)
"""How far before the end of a segment the last checkpoint is searched, step by step."""


class ChainUnreadable(Exception):
    """The end of a chain is not one that this gateway wrote, so the chain is not continued."""


class KeyMismatch(ChainUnreadable):
    """The last checkpoint has another key or none, as after a change of the signing key."""


@dataclass(frozen=True, slots=True)
class ChainEnd:
    head: Head
    segment: int
    """Number of the last segment."""
    opened_at: float
    at: float = 0.0
    """Time of the last line."""
    partial_line: bytes = b""
    """Bytes after the last complete line, of a write that was interrupted."""


def make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(directory.parent)


def chain_directories(directory: Path) -> list[Path]:
    return sorted(one for one in directory.glob("chain-*") if one.is_dir())


def segment_files(chain_directory: Path) -> list[tuple[int, Path]]:
    """Return the segments of a chain in order, each with its number."""
    return sorted(
        (int(found[1]), file)
        for file in chain_directory.iterdir()
        if (found := _SEGMENT.fullmatch(file.name)) is not None
    )


def segment_file(chain_directory: Path, number: int) -> Path:
    return chain_directory / f"segment-{number:08}.jsonl"


def lock_chain(chain_directory: Path) -> int | None:
    """Lock the chain for this process; return None if another process holds it.

    The lock ends when the returned descriptor is closed, at the latest with the process.
    """
    file = chain_directory / LOCK_FILE
    try:
        fd = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:  # retention removed the chain just now
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 1:
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def is_file_at(file: Path, found: os.stat_result) -> bool:
    """Return whether the path still names the file with this status."""
    try:
        return os.path.samestat(file.stat(), found)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_chain_end(chain_directory: Path, signer: Signer | None) -> ChainEnd | None:
    """Return the end that this signer may continue; None if the directory has no chain.

    Raises ChainUnreadable.
    """
    files = segment_files(chain_directory)
    if not files:
        return None
    number, file = files[-1]
    opening = read_first_line(file)
    if opening.event != SEGMENT_OPENED or opening.fields.get("segment") != number:
        raise ChainUnreadable(f"{file.name} does not begin with its number")
    lines, partial_line = _read_end(file)
    _verify_end(lines, signer)
    return ChainEnd(lines[-1].head, number, opening.at, lines[-1].at, partial_line)


def read_neighbours(chain_directory: Path) -> list[Neighbour]:
    """Return the other chains in the same audit directory."""
    found = []
    for other in chain_directories(chain_directory.parent):
        with suppress(ChainUnreadable, FileNotFoundError):
            if other != chain_directory and (files := segment_files(other)):
                # Only the line before the last segment: later lines may not be durable yet.
                opening = read_first_line(files[-1][1])
                head = Head(opening.chain, opening.seq - 1, opening.prev)
                found.append(Neighbour(head, opening.at))
    return found


def read_first_line(file: Path) -> Line:
    with file.open("rb") as opened:
        return _parse(opened.readline(LINE_BYTES_MAX), f"the first line of {file.name}")


def read_last_line(file: Path) -> Line:
    """Return the last complete line."""
    lines, _ = _read_end(file)
    return lines[-1]


def lines_after(directory: Path, chain: str, seq: int) -> Iterator[bytes]:
    """Yield the existing lines of the chain after line `seq`.

    The last one may be partial. Raises OSError if a segment cannot be read.
    """
    for chain_directory in chain_directories(directory):
        try:
            segments = [(read_first_line(file), file) for _, file in segment_files(chain_directory)]
        except ChainUnreadable:
            continue  # no process writes such a chain
        if not segments or segments[0][0].chain != chain:
            continue
        ends = [first.seq for first, _ in segments[1:]]
        for i, (first, file) in enumerate(segments):
            if i < len(ends) and ends[i] <= seq + 1:
                continue
            with file.open("rb") as opened:
                for number, line in enumerate(opened, first.seq):
                    if number > seq:
                        yield line


def log_unreadable(chain_directory: Path, unreadable: ChainUnreadable) -> None:
    extra = {"directory": str(chain_directory), "error": str(unreadable)}
    if isinstance(unreadable, KeyMismatch):
        log.warning("audit_chain_key_mismatch", extra=extra)
    else:
        log.error("audit_chain_unreadable", extra=extra)


def _read_end(file: Path) -> tuple[list[Line], bytes]:
    """Return the lines from the last checkpoint on, or all, and the bytes of a partial line."""
    size = file.stat().st_size
    for lookback in _LOOKBACK_BYTES:
        with file.open("rb") as opened:
            opened.seek(max(0, size - lookback))
            whole, newline, partial_line = opened.read().rpartition(b"\n")
        texts = (whole + newline).splitlines(keepends=True)
        if lookback < size:
            del texts[:1]  # its beginning may have been left out
        lines: list[Line] = []
        for text in reversed(texts):
            lines.append(_parse(text, f"a line near the end of {file.name}"))
            if lines[-1].event == CHECKPOINT:
                return lines[::-1], partial_line
        if lookback >= size and lines:
            return lines[::-1], partial_line
    raise ChainUnreadable(f"{file.name} has no checkpoint near its end")


def _parse(text: bytes, where: str) -> Line:
    try:
        return parse_line(text)
    except ValueError as error:
        raise ChainUnreadable(f"{where} {error}") from None


def _verify_end(lines: list[Line], signer: Signer | None) -> None:
    """Verify `lines`, which begin with the last checkpoint; raise ChainUnreadable."""
    checkpoint = lines[0]
    if checkpoint.event != CHECKPOINT:
        raise ChainUnreadable("the chain has no checkpoint")
    key, own = checkpoint.fields.get("key"), signer.key_id if signer is not None else ""
    if key != own:
        raise KeyMismatch(
            f"its checkpoints are signed with {_key_name(key)}, this gateway uses {_key_name(own)}"
        )
    if not is_checkpoint_by(checkpoint, signer):
        raise ChainUnreadable(f"the signature of checkpoint {checkpoint.seq} does not match")
    for before, line in pairwise(lines):
        if (line.chain, line.seq - 1, line.prev) != (before.chain, before.seq, before.hash):
            raise ChainUnreadable(f"line {line.seq} is not linked to the previous line")
        if is_checkpoint_overdue(line, checkpoint.at, checkpoint.fields.get("next_within_s", 0.0)):
            raise ChainUnreadable(
                f"line {line.seq} is later than checkpoint {checkpoint.seq} allows"
            )


def _key_name(key: object) -> str:
    return f"the key {key}" if key else "no key"
