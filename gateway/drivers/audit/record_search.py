"""A bounded search of the audit directory for a running gateway (port `AuditSearch`).

It reads from the newest line back, in a thread, and at most a fixed number of bytes. The hash chain
of the lines that it reads is checked; signatures and the rest of the chain are not.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.domain.audit.chain import Head, Line, line_start, parse_line
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
_LINES_AT_ONCE: Final = 200
_PAUSE_S: Final = 0.0005
"""After some lines the thread lets the loop have the interpreter."""


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
        found: deque[dict[str, Any]] = deque(maxlen=self.records_max)
        needles = _needles(self.wanted)
        matching = 0
        for raw in self._checked_lines(file):
            if all(one in raw for one in needles):
                record = orjson.loads(raw)
                if self.wanted.matches(record):
                    found.append(record)
                    matching += 1
        self.is_complete &= matching <= self.records_max
        self.found += found

    def _checked_lines(self, file: Path) -> Iterator[bytes]:
        """Yield the lines of a segment as long as they continue the chain."""
        size = file.stat().st_size
        head: Head | None = None
        with file.open("rb") as opened:
            if size > self.bytes_left:
                self.is_complete = False
                opened.seek(size - self.bytes_left)
                opened.readline()  # the rest of a line
            self.bytes_left -= size
            for number, raw in enumerate(opened):
                if not raw.endswith(b"\n"):
                    break  # it is being written
                if number % _LINES_AT_ONCE == 0:
                    time.sleep(_PAUSE_S)
                head = self._check(raw, head)
                if head is None:
                    return
                yield raw
        if head is not None and self._next is not None and head.hash != self._next.prev:
            self.is_intact = False

    def _check(self, raw: bytes, before: Head | None) -> Head | None:
        """Return the head after a line; None if the line does not continue the chain."""
        if before is not None and raw.startswith(line_start(before)):
            return Head(before.chain, before.seq + 1, sha256(raw).hexdigest())
        try:
            line = parse_line(raw)
        except ValueError:
            line = None
        if line is None or before is not None:
            self.is_intact = False
            return None
        return line.head


def _needles(wanted: RecordFilter) -> list[bytes]:
    """Return what every matching line contains, so that others need not be decoded."""
    exact = (wanted.subject, wanted.issuer, wanted.event, wanted.request_id)
    return [orjson.dumps(one)[1:-1] for one in exact if one is not None]
