"""The index of recordings in files: a signed hash chain, written as the audit log is."""

import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from gateway.domain.audit.chain import Line, Signer, parse_line
from gateway.drivers.audit.directory import chain_directories, segment_files
from gateway.drivers.audit.file_store import ChainFiles
from gateway.drivers.audit.segments import read_chains, without_copies
from gateway.flow.clock import Clock

INDEX_DIRECTORY: Final = "index"
_SEGMENT_BYTES_MAX: Final = 67_108_864
_READ_BYTES: Final = 1_048_576
_RECORDING: Final = re.compile(rb'"recording":"([0-9a-f]{32})"')


@dataclass(slots=True)
class _Entry:
    """The lines of one call of `append`."""

    bodies: Sequence[bytes]
    is_committed: bool = False
    error: Exception | None = None


class RecordingIndex:
    """Its methods block and may be called by several threads.

    Threads that wait for a commit share the next one, as requests do in the audit log: that one
    gathers in an event loop, which the commands that write the index do not have.
    """

    def __init__(self, directory: Path, clock: Clock, signer: Signer | None) -> None:
        """`directory`: of the recordings."""
        self._files = ChainFiles(
            directory / INDEX_DIRECTORY,
            clock=clock,
            signer=signer,
            segment_bytes_max=_SEGMENT_BYTES_MAX,
            keep_s=0.0,  # a few hundred bytes for each part, which stay
        )
        self._lock = Lock()
        """Of the files; a thread that has it commits what waits."""
        self._waiting: deque[_Entry] = deque()

    def append(self, *bodies: bytes) -> None:
        """Add lines and a checkpoint; return when they are durable. Raises OSError.

        An error rejects all lines of the commit.
        """
        entry = _Entry(bodies)
        self._waiting.append(entry)
        with self._lock:
            if not entry.is_committed:
                self._commit_waiting()
        if entry.error is not None:
            raise entry.error

    def _commit_waiting(self) -> None:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        bodies = [body for entry in entries for body in entry.bodies]
        error: Exception | None = None
        try:
            self._files.commit(bodies, with_checkpoint=True)
        except Exception as failure:  # noqa: BLE001 - raised in each thread that waits
            error = failure
        for entry in entries:
            entry.error, entry.is_committed = error, True

    def close(self) -> None:
        with self._lock:
            self._files.close()


def index_lines(directory: Path) -> Iterator[Line]:
    """Yield the lines of all chains of the index below the recordings' directory.

    Verify the chains first. Raises OSError, and ValueError for a line that is damaged.
    """
    chains = read_chains([directory / INDEX_DIRECTORY])
    for segments in chains.values():
        for segment in without_copies(segments):
            for raw in segment.lines:
                if raw.endswith(b"\n"):
                    yield parse_line(raw)


def find_lines(directory: Path, recordings: Collection[str]) -> Iterator[Line]:
    """Yield the lines about these recordings, without a look at the chains around them.

    It reads tens of megabytes in a tenth of a second. A line that is damaged is left out: what it
    said is then missing. Raises OSError.
    """
    wanted = {one.encode() for one in recordings}
    index = directory / INDEX_DIRECTORY
    for chain in chain_directories(index) if wanted else ():
        for _, file in segment_files(chain):
            yield from _lines_about(file, wanted)


def _lines_about(file: Path, wanted: Collection[bytes]) -> Iterator[Line]:
    # Not mapped: a commit that fails truncates the file, and a mapping would then end the process.
    with file.open("rb") as opened:
        while content := opened.read(_READ_BYTES):
            content += opened.readline()
            for found in _RECORDING.finditer(content):
                if found[1] in wanted:
                    begin = content.rfind(b"\n", 0, found.start()) + 1
                    end = content.find(b"\n", found.end()) + 1
                    with suppress(ValueError):
                        yield parse_line(content[begin:end])
