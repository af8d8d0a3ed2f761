"""What is too old in a directory of audit chains: it is removed, and told before it is done."""

import logging
import os
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from gateway.domain.audit.chain import Line, segment_removed_body
from gateway.drivers.audit.paths import LOCK_FILE, chain_directories, lock_chain, segment_files
from gateway.drivers.audit.reader import ChainUnreadable, log_unreadable, read_last_line
from gateway.drivers.files.durable import sync_directory
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.audit")

_CLOCK_STEP_S = 86_400.0


class Retention:
    """Its methods block and raise OSError."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        keep_s: float,
        tell: Callable[[Sequence[bytes]], None],
    ) -> None:
        """`tell` makes lines of our own chain durable, with a checkpoint right after them."""
        self._directory = directory
        self._clock = clock
        self._keep_s = keep_s
        self._tell = tell
        self._clock_offset_s = 0.0
        """Of the wall clock from the monotonic one."""

    def set_reference_time(self, at: float) -> None:
        """Take it that the clock is right if it shows about this time now."""
        self._clock_offset_s = at - self._clock.monotonic()

    def remove_expired(self, own: Path) -> None:
        """Remove old segments of our own chain, and old chains that nobody writes."""
        if self._keep_s <= 0 or self._has_clock_stepped():
            return
        before = self._clock.now() - self._keep_s
        for chain_directory in chain_directories(self._directory):
            try:
                if chain_directory == own:
                    self._remove_own_segments(chain_directory, before)
                else:
                    self._remove_other_chain(chain_directory, before)
            except ChainUnreadable as unreadable:  # it stays, for somebody to look at
                log_unreadable(chain_directory, unreadable)

    def _has_clock_stepped(self) -> bool:
        """Tell whether the wall clock went another way than time since somebody asked.

        A wrong one would remove all; by the next time it is right again, or somebody was told.
        """
        stepped_s = self._clock.now() - self._clock.monotonic() - self._clock_offset_s
        self._clock_offset_s += stepped_s
        if has_stepped := abs(stepped_s) > _CLOCK_STEP_S:
            log.warning("audit_clock_stepped", extra={"by_s": round(stepped_s)})
        return has_stepped

    def _remove_own_segments(self, chain_directory: Path, before: float) -> None:
        """Remove segments whose last line was written before that."""
        closed = segment_files(chain_directory)[:-1]
        ends = ((number, file, read_last_line(file)) for number, file in closed)
        old = [*takewhile(lambda end: end[2].at < before, ends)]
        if old:
            self._remove(old, before, "older than keep_days")
            sync_directory(chain_directory)

    def _remove_other_chain(self, chain_directory: Path, before: float) -> None:
        lock = lock_chain(chain_directory)
        if lock is None:
            return
        try:
            files = segment_files(chain_directory)
            if not files or read_last_line(files[-1][1]).at >= before:
                return
            ends = [(number, file, read_last_line(file)) for number, file in files]
            self._remove(ends, before, f"{chain_directory.name} is older than keep_days")
            for begun in chain_directory.glob("segment-*.new"):
                begun.unlink()
            (chain_directory / LOCK_FILE).unlink()
            chain_directory.rmdir()
        finally:
            os.close(lock)

    def _remove(self, ends: Sequence[tuple[int, Path, Line]], before: float, why: str) -> None:
        """Tell it, sealed, before it is done; what is left after an interruption is told, too."""
        now = self._clock.now()
        told = [
            segment_removed_body(
                now, segment=number, head=last.head, expired_before=before, why=why
            )
            for number, _, last in ends
        ]
        self._tell(told)
        for _, file, _ in ends:
            file.unlink()
