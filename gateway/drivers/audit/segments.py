"""The segments of all chains below some directories, for verification and search."""

import errno
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path

from gateway.domain.audit.chain import LINE_BYTES_MAX
from gateway.domain.audit.report import Segment
from gateway.drivers.audit.directory import (
    ChainUnreadable,
    chain_directories,
    read_first_line,
    segment_files,
)

_LINE_TIMEOUT_S = 1.0
"""How long a partial last line may be one that a running gateway is writing."""
_POLL_S = 0.02


def read_chains(directories: Sequence[Path]) -> dict[str, list[Segment]]:
    """Return each chain's segments in order, by the names of its directories.

    A directory contains chains, or segments of one chain. Raises OSError.
    """
    found: dict[str, list[Path]] = {}
    for directory in _with_segments(directories):
        found.setdefault(_chain_of(directory), []).append(directory)
    return {" + ".join(map(str, parts)): _segments(parts) for parts in found.values()}


def without_copies(segments: Sequence[Segment]) -> list[Segment]:
    """Leave out each segment that equals the previous one."""
    found: list[Segment] = []
    for one in segments:
        last = found[-1] if found else None
        if last is None or last.number != one.number or not cmp(last.file, one.file, shallow=False):
            found.append(one)
    return found


def ending_after(segments: Sequence[Segment], since: float) -> Sequence[Segment]:
    """Leave out segments that ended before `since`, the time of the next segment's first line."""
    first = 0
    for i, following in enumerate(segments[1:], 1):
        try:
            if read_first_line(Path(following.file)).at < since:
                first = i
        except ChainUnreadable:
            break
    return segments[first:]


def _with_segments(directories: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(directory))
        found += [directory] if segment_files(directory) else chain_directories(directory)
    return [directory for directory in dict.fromkeys(found) if segment_files(directory)]


def _chain_of(directory: Path) -> str:
    (_, first), *_ = segment_files(directory)
    try:
        return read_first_line(first).chain
    except ChainUnreadable:
        return str(directory)


def _segments(directories: Sequence[Path]) -> list[Segment]:
    files = sorted(file for directory in directories for file in segment_files(directory))
    last, _ = files[-1]
    return [
        Segment(number, str(file), _Lines(file, grows=number == last)) for number, file in files
    ]


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a segment; waits for the end of the last line if the file may grow."""

    file: Path
    grows: bool

    def __iter__(self) -> Iterator[bytes]:
        with self.file.open("rb") as opened:
            while line := opened.readline(LINE_BYTES_MAX):
                waited_s = 0.0
                while self.grows and not line.endswith(b"\n") and waited_s < _LINE_TIMEOUT_S:
                    time.sleep(_POLL_S)
                    waited_s += _POLL_S
                    line += opened.readline(LINE_BYTES_MAX)
                yield line
