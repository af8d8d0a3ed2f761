"""Retention of recordings: by age and by size, recorded in the index before a file is deleted.

Everything here blocks and raises OSError.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.domain.recordings.index_lines import RemovalReason, recording_removed
from gateway.domain.recordings.model import PartId
from gateway.drivers.host.clock_steps import ClockSteps
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    delete_removed,
    lock_part,
    locked,
    mark_removed,
    on_hold,
    part_files,
    read_footer,
    read_info,
    removals_locked,
)
from gateway.drivers.recordings.recording_index import RecordingIndex
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingTelemetry

log = logging.getLogger("gateway.recording")

_LOCK_FILE: Final = "retention.lock"
_SECONDS_PER_DAY: Final = 86_400
_RATE_DAYS: Final = 7
_YOUNG_S: Final = 600.0
"""A recording that ended this recently may get another part: its session may be resumed."""


@dataclass(frozen=True, slots=True)
class RecordingUsage:
    """What the recordings take, in bytes."""

    total: int = 0
    on_hold: int = 0
    """Of those on hold."""
    per_day: float = 0.0
    """The mean of the last 7 days, or since the first recording."""
    free: int = 0
    """On the disk."""

    @property
    def days_left(self) -> float:
        """Days until the disk is full at the present rate, if nothing is removed."""
        return self.free / self.per_day if self.per_day else float("inf")


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    ended_at: float
    size: int
    is_removable: bool
    is_on_hold: bool


class RecordingRetention:
    def __init__(
        self,
        directory: RecordingDirectory,
        index: RecordingIndex,
        clock: Clock,
        telemetry: RecordingTelemetry,
        *,
        keep_s: float,
        bytes_max: int | None,
    ) -> None:
        """Take `keep_s` 0 and `bytes_max` None for no bound."""
        self._directory = directory
        self._index = index
        self._clock = clock
        self._telemetry = telemetry
        self._keep_s = keep_s
        self._bytes_max = bytes_max
        self._steps = ClockSteps(clock)
        self._has_reference_time = False
        self._removed: dict[str, frozenset[PartId]] = {}

    def take_removed(self) -> Mapping[str, frozenset[PartId]]:
        """Return the parts of each recording that was removed since the last call."""
        removed, self._removed = self._removed, {}
        return removed

    def apply(self) -> RecordingUsage:
        """Remove what is due; return what is left."""
        root = self._directory.root
        if not root.is_dir():
            return RecordingUsage()
        with locked(root / _LOCK_FILE) as is_locked:
            if is_locked:
                for path, error in self._directory.clean_up(self._clock.now()):
                    _report(path, error)
                self._remove_due()
        usage = measure_usage(self._directory, self._clock.now())
        if self._bytes_max is not None and usage.on_hold > self._bytes_max:
            extra = {"on_hold_bytes": usage.on_hold, "bytes_max": self._bytes_max}
            log.warning("recording_holds_large", extra=extra)
        return usage

    def _remove_due(self) -> None:
        now = self._clock.now()
        stored = sorted(_stored(self._directory), key=lambda one: one.ended_at)
        if not self._has_reference_time:
            self._has_reference_time = True
            self._steps.set_reference_time(stored[-1].ended_at if stored else now)
        if stepped_s := self._steps.last_step_s():
            log.warning("recording_clock_stepped", extra={"by_s": round(stepped_s)})
            return
        # A hold must not remove other recordings: those on hold are not counted.
        total = sum(one.size for one in stored if not one.is_on_hold)
        for one in stored:
            is_expired = self._keep_s > 0 and one.ended_at < now - self._keep_s
            is_too_much = self._bytes_max is not None and total > self._bytes_max
            if not (is_expired or is_too_much):
                if self._bytes_max is None:
                    return
                continue
            if one.is_removable and one.ended_at < now - _YOUNG_S:
                reason = RemovalReason.KEEP_DAYS if is_expired else RemovalReason.BYTES_MAX
                total -= self._try_remove(one, reason)

    def _try_remove(self, one: _Stored, reason: RemovalReason) -> int:
        """Return the bytes of a recording that is removed; one that cannot be stops no other."""
        try:
            removed = self._take_out(one, reason)
        except OSError as error:
            _report(one.path, error)
            return 0
        if removed is None:
            return 0
        self._telemetry.recording_removed(reason)
        extra = {"recording": one.path.name, "reason": reason.value}
        log.info("recording_removed", extra=extra)
        try:
            delete_removed(removed)
        except OSError as error:  # the next pass tries again
            _report(removed, error)
        return one.size

    def _take_out(self, one: _Stored, reason: RemovalReason) -> Path | None:
        """Mark a recording as removed; None: it is on hold, or in use, since it was read."""
        path = one.path
        with removals_locked(self._directory.root) as is_locked:
            if not is_locked or _read_stored(path) != one:
                return None
            parts = _parts(path)
            self._index.append(recording_removed(self._clock.now(), path.name, reason))
            removed = mark_removed(path)
            self._removed[path.name] = parts
            return removed


def _parts(path: Path) -> frozenset[PartId]:
    try:
        return frozenset((one.host, one.number) for one in read_info(path).parts)
    except (OSError, ValueError):  # damaged
        return frozenset()


def measure_usage(directory: RecordingDirectory, now: float) -> RecordingUsage:
    """Return what the recordings take and the disk has; raise OSError."""
    total, size_on_hold, recent, first = 0, 0, 0, now
    for path in directory.recordings():
        is_on_hold = on_hold(directory.root, path.name)
        with suppress(OSError):  # removed meanwhile, or reported by retention
            for part in part_files(path):
                found = part.file.stat()
                total += found.st_size
                size_on_hold += found.st_size if is_on_hold else 0
                if found.st_mtime >= now - _RATE_DAYS * _SECONDS_PER_DAY:
                    recent += found.st_size
                first = min(first, found.st_mtime)
    days = min(max(1.0, (now - first) / _SECONDS_PER_DAY), _RATE_DAYS)
    root = directory.root
    while not root.exists():
        root = root.parent
    disk = os.statvfs(root)
    return RecordingUsage(total, size_on_hold, recent / days, disk.f_bavail * disk.f_frsize)


def _stored(directory: RecordingDirectory) -> Iterator[_Stored]:
    for path in directory.recordings():
        try:
            stored = _read_stored(path)
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            _report(path, error)
            continue
        yield stored


def _report(path: Path, error: OSError) -> None:
    extra = {"recording": path.name.partition(".")[0], "error": error.strerror or ""}
    log.error("recording_inaccessible", extra=extra)


def _read_stored(path: Path) -> _Stored:
    size, ended_at = 0, path.stat().st_mtime
    is_on_hold = on_hold(path.parent.parent, path.name)
    is_removable = not is_on_hold
    ends = []
    for part in part_files(path):
        found = part.file.stat()
        size += found.st_size
        ends.append(_ended_at(part.file, found.st_mtime, is_closed=part.is_closed))
        if not part.is_closed:
            lock = lock_part(part.file)
            if lock is None:
                is_removable = False
            else:
                os.close(lock)
    return _Stored(path, max(ends, default=ended_at), size, is_removable, is_on_hold)


def _ended_at(file: Path, modified_at: float, *, is_closed: bool) -> float:
    """Return when a part ended; a part that cannot be read expires by its file's time."""
    if is_closed:
        with suppress(ValueError):
            return read_footer(file).ended_at
    return modified_at
