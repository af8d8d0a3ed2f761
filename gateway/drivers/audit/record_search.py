"""A bounded search of the audit directory for a running gateway (port `AuditSearch`).

It reads from the newest line back, in a thread, and at most a fixed number of bytes. The hash chain
of the lines that it reads is checked, and the signatures of the checkpoints among them; the rest of
the chain is not. The directory may be shared by several hosts: it has the chains of all.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.domain.audit.chain import CHAIN_OPENED
from gateway.domain.audit.proof import ProofFollower
from gateway.domain.audit.search import FoundRecord, FoundRecords, Proof, RecordFilter
from gateway.domain.audit.verify import SignatureCheck
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
_OPENING_LINES: Final = 16
"""Within these a segment has its first checkpoint, and a chain the name of its host."""
_PAUSE_S: Final = 0.0005
"""After some lines the thread lets the loop have the interpreter."""
_CHAIN_OPENED: Final = f'"event":"{CHAIN_OPENED}"'.encode()
_HOST: Final = re.compile(rb'"process \d+ on ([^\s";]{1,255})')


class RecordSearch:
    def __init__(
        self,
        directory: Path,
        keys: Mapping[str, SignatureCheck],
        *,
        bytes_max: int = _BYTES_MAX,
    ) -> None:
        """`keys`: of this gateway, by key ID. `bytes_max`: what one search reads."""
        self._directory = directory
        self._keys = keys
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
        found: list[FoundRecord] = []
        hosts = set[str]()
        is_complete = is_intact = True
        for directory in directories:
            bytes_max = self._bytes_max // len(directories)
            chain = _ChainSearch(wanted, self._keys, records_max, bytes_max)
            chain.read(directory)
            found += chain.found
            hosts |= chain.hosts
            is_complete &= chain.is_complete
            is_intact &= chain.is_intact
        found.sort(key=lambda one: one.at, reverse=True)
        is_complete &= len(found) <= records_max
        return FoundRecords(
            found[:records_max],
            is_complete=is_complete,
            is_intact=is_intact,
            hosts=frozenset(hosts),
        )


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
    keys: Mapping[str, SignatureCheck]
    records_max: int
    bytes_left: int
    found: list[FoundRecord] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    is_complete: bool = True
    is_intact: bool = True
    _next: tuple[str, Proof] | None = None
    """Of the segment after the one that is read: `prev` and the proof of its first line."""

    def read(self, directory: Path) -> None:
        """Read the segments from the newest back, within the filter and the bounds."""
        since, until = self.wanted.since or 0.0, self.wanted.until
        files = segment_files(directory)
        for _, file in files[:1]:
            self._read_hosts(file)
        for _, file in reversed(files):
            try:
                first = read_first_line(file)
            except ChainUnreadable:
                self.is_intact = self.is_complete = False
                return
            except FileNotFoundError:  # retention removed it just now
                return
            if until is None or first.at < until:
                proof = self._read_segment(file)
            else:
                proof = self._read_opening(file)
            self._next = first.prev, proof
            if first.at < since:
                return
            if self.bytes_left <= 0 or len(self.found) >= self.records_max:
                self.is_complete = False
                return

    def _read_segment(self, file: Path) -> Proof:
        """Find the records of a segment; return the proof of its first line."""
        found: deque[FoundRecord] = deque(maxlen=self.records_max)
        follower = ProofFollower(self.keys)
        needles = _needles(self.wanted)
        matching = 0
        for raw in self._lines(file):
            proof = follower.follow(raw)
            if all(one in raw for one in needles) and (record := self._matching(raw)) is not None:
                one = FoundRecord(record, proof)
                found.append(one)
                matching += 1
                if proof is not Proof.BROKEN:
                    follower.wait(one)
            if _CHAIN_OPENED in raw:
                self._take_host(raw)
        self.is_complete &= matching <= self.records_max
        self.found += found
        first = follower.end() if self._next is None else follower.continue_with(*self._next)
        self.is_intact &= follower.is_intact
        return first

    def _read_opening(self, file: Path) -> Proof:
        """Return the proof of the first line of a segment whose records are not wanted."""
        follower = ProofFollower(self.keys)
        with file.open("rb") as opened:
            for raw in islice(opened, _OPENING_LINES):
                follower.follow(raw)
                if follower.first is not None:
                    break
        return follower.end()

    def _read_hosts(self, file: Path) -> None:
        with suppress(FileNotFoundError), file.open("rb") as opened:
            for raw in islice(opened, _OPENING_LINES):
                self._take_host(raw)

    def _take_host(self, raw: bytes) -> None:
        if _CHAIN_OPENED in raw and (host := _HOST.search(raw)) is not None:
            self.hosts.add(host[1].decode(errors="replace"))

    def _lines(self, file: Path) -> Iterator[bytes]:
        """Yield the complete lines of a segment, or the newest that may be read."""
        size = file.stat().st_size
        with file.open("rb") as opened:
            if size > self.bytes_left:
                self.is_complete = False
                opened.seek(size - self.bytes_left)
                opened.readline()  # the rest of a line
            self.bytes_left -= size
            for number, raw in enumerate(opened):
                if not raw.endswith(b"\n"):
                    return  # it is being written
                if number % _LINES_AT_ONCE == 0:
                    time.sleep(_PAUSE_S)
                yield raw

    def _matching(self, raw: bytes) -> dict[str, Any] | None:
        """Return the record of a line, also of a changed one, if it is one and matches."""
        try:
            record = orjson.loads(raw)
            if isinstance(record.get("servers", []), list) and self.wanted.matches(record):
                return {**record, "at": float(record["at"])}
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
            self.is_intact = False
        return None


def _needles(wanted: RecordFilter) -> list[bytes]:
    """Return what every matching line contains, so that others need not be decoded."""
    exact = (wanted.subject, wanted.issuer, wanted.event, wanted.request_id)
    return [orjson.dumps(one)[1:-1] for one in exact if one is not None]
