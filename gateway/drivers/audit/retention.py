"""Retention of an audit directory: removes expired segments after recording the removal."""

import logging
import os
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

from gateway.domain.audit.chain import Line, segment_removed_body
from gateway.drivers.audit.directory import (
    LOCK_FILE,
    ChainUnreadable,
    chain_directories,
    lock_chain,
    log_unreadable,
    read_last_line,
    segment_files,
)
from gateway.drivers.files.durable import sync_directory
from gateway.drivers.host.clock_steps import ClockSteps
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.audit")


class Retention:
    """Its methods block and raise OSError."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        keep_s: float,
        append: Callable[[Sequence[bytes]], None],
    ) -> None:
        """`append` makes lines of this process's chain durable, directly before a checkpoint."""
        self._directory = directory
        self._clock = clock
        self._keep_s = keep_s
        self._append = append
        self._steps = ClockSteps(clock)

    def set_reference_time(self, at: float) -> None:
        """Treat the wall clock as right if it is now near this time, otherwise as stepped."""
        self._steps.set_reference_time(at)

    def remove_expired(self, own: Path) -> None:
        """Remove expired segments of the own chain, and expired chains that no process writes."""
        if self._keep_s <= 0:
            return
        if stepped_s := self._steps.last_step_s():
            log.warning("audit_clock_stepped", extra={"by_s": round(stepped_s)})
            return
        before = self._clock.now() - self._keep_s
        for chain_directory in chain_directories(self._directory):
            try:
                if chain_directory == own:
                    self._remove_own_segments(chain_directory, before)
                else:
                    self._remove_other_chain(chain_directory, before)
            except ChainUnreadable as unreadable:  # left for an operator to inspect
                log_unreadable(chain_directory, unreadable)

    def _remove_own_segments(self, chain_directory: Path, before: float) -> None:
        """Remove closed segments with a last line before `before`."""
        closed = segment_files(chain_directory)[:-1]
        ends = ((number, file, read_last_line(file)) for number, file in closed)
        expired = [*takewhile(lambda end: end[2].at < before, ends)]
        if expired:
            self._remove(expired, before, "older than keep_days")
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

    def _remove(self, ends: Sequence[tuple[int, Path, Line]], before: float, reason: str) -> None:
        """Record the removals under a checkpoint, then remove the files.

        One record per segment: if the removal is interrupted, the remaining segments verify.
        """
        now = self._clock.now()
        self._append(
            [
                segment_removed_body(
                    now, segment=number, head=last.head, expired_before=before, reason=reason
                )
                for number, _, last in ends
            ]
        )
        for _, file, _ in ends:
            file.unlink()
