"""A bounded search of the audit directory for a running gateway (port `AuditSearch`).

It reads from the newest line back, in a thread, and at most a fixed number of bytes. The hash chain
of the lines that it reads is checked; signatures and the rest of the chain are not.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.domain.audit.chain import Line, parse_line
from gateway.domain.audit.search import FoundRecords, RecordFilter
from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit.directory import (
    ChainUnreadable,
    chain_directories,
    read_first_line,
    read_last_line,
    segment_files,
)

_BYTES_MAX: Final = 33_554_432
_RETRY_AFTER_S: Final = 5.0


class RecordSearch:
    def __init__(self, directory: Path, *, bytes_max: int = _BYTES_MAX) -> None:
        """`bytes_max`: what one search reads."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._one_at_a_time = asyncio.Lock()

    async def search(self, wanted: RecordFilter, *, records_max: int) -> FoundRecords:
        async with self._one_at_a_time:
            try:
                return await asyncio.to_thread(self._search, wanted, records_max)
            except OSError as error:
                raise AuditLogUnavailable(
                    f"the audit directory cannot be read: {error.strerror}",
                    retry_after_s=_RETRY_AFTER_S,
                ) from None

    def _search(self, wanted: RecordFilter, records_max: int) -> FoundRecords:
        since = wanted.since or 0.0
        directories = [
            one for one in chain_directories(self._directory) if not _ended_before(one, since)
        ]
        found: list[dict[str, Any]] = []
        is_complete = is_intact = True
        for directory in directories:
            chain = _ChainSearch(wanted, records_max, self._bytes_max // len(directories))
            chain.read(directory)
            found += chain.found
            is_complete &= chain.is_complete
            is_intact &= chain.is_intact
        found.sort(key=lambda record: float(record["at"]), reverse=True)
        is_complete &= len(found) <= records_max
        return FoundRecords(found[:records_max], is_complete=is_complete, is_intact=is_intact)


def _ended_before(directory: Path, since: float) -> bool:
    """Return whether a chain has no line of this time or later, as one of a former process."""
    try:
        files = segment_files(directory)
        return not files or read_last_line(files[-1][1]).at < since
    except ChainUnreadable:
        return False
    except FileNotFoundError:  # retention removed it just now
        return True


@dataclass(slots=True)
class _ChainSearch:
    wanted: RecordFilter
    records_max: int
    bytes_left: int
    found: list[dict[str, Any]] = field(default_factory=list)
    is_complete: bool = True
    is_intact: bool = True
    _next: Line | None = None
    """The first line of the segment that was read before, which follows the one that is read."""

    def read(self, directory: Path) -> None:
        """Read the segments from the newest back, within the filter and the bounds."""
        since, until = self.wanted.since or 0.0, self.wanted.until
        for _, file in reversed(segment_files(directory)):
            try:
                first = read_first_line(file)
            except ChainUnreadable:
                self.is_intact = False
                return
            except FileNotFoundError:  # retention removed it just now
                return
            if until is None or first.at < until:
                self._read_segment(file)
            self._next = first
            if first.at < since or not self.is_intact:
                return
            if self.bytes_left <= 0 or len(self.found) >= self.records_max:
                self.is_complete = False
                return

    def _read_segment(self, file: Path) -> None:
        size = file.stat().st_size
        found: deque[dict[str, Any]] = deque(maxlen=self.records_max)
        matching, last = 0, None
        with file.open("rb") as opened:
            if size > self.bytes_left:
                self.is_complete = False
                opened.seek(size - self.bytes_left)
                opened.readline()  # the rest of a line
            self.bytes_left -= size
            for raw in opened:
                if not raw.endswith(b"\n"):
                    break  # it is being written
                line = self._check(raw, last)
                if line is None:
                    break
                last = line
                if self.wanted.matches(line.fields):
                    found.append(line.fields)
                    matching += 1
        if last is not None and self._next is not None and last.hash != self._next.prev:
            self.is_intact = False
        self.is_complete &= matching <= self.records_max
        self.found += found

    def _check(self, raw: bytes, before: Line | None) -> Line | None:
        """Return the line; None if it does not continue the chain."""
        try:
            line = parse_line(raw)
        except ValueError:
            line = None
        if line is None or (before is not None and line.prev != before.hash):
            self.is_intact = False
            return None
        return line
