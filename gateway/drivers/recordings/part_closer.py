"""Closes parts of recordings: rewrites an open part as a closed one. A crash loses nothing.

The closed part is written beside the open one, its hash is added to the index, and only then does
it replace the open part. After a crash in between, the open part is still there, without a lock,
and the next pass closes it again. Everything here blocks.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gateway.domain.recordings.index_lines import part_closed
from gateway.drivers.files.durable import sync_directory
from gateway.drivers.recordings.closed_part import write_closed_part
from gateway.drivers.recordings.open_part import PartChanged
from gateway.drivers.recordings.recording_directory import (
    PartFile,
    closed_file,
    has_header,
    lock_part,
    open_part_files,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_index import RecordingIndex
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingTelemetry, RewriteOutcome

log = logging.getLogger("gateway.recording")

_FAILED_MAX: Final = 10_000


class PartCloser:
    def __init__(
        self,
        keys: RecordingKeys,
        index: RecordingIndex,
        clock: Clock,
        telemetry: RecordingTelemetry,
    ) -> None:
        self._keys = keys
        self._index = index
        self._clock = clock
        self._telemetry = telemetry
        self._failed: set[Path] = set()
        """Open parts, and recordings, whose failure is logged."""

    def close(self, part: PartFile) -> None:
        """Close a part that this process has locked; log a failure: a later pass tries again."""
        if self._try(part):
            self._telemetry.recording_rewritten(RewriteOutcome.CLOSED)

    def recover(self, recordings: Iterable[Path]) -> None:
        """Close the parts whose process has died."""
        for path in recordings:
            try:
                for part in open_part_files(path):
                    self._recover(part)
            except FileNotFoundError:  # retention
                continue
            except OSError as error:
                if self._is_first_failure(path):
                    extra = {"recording": path.name, "error": _reason(error)}
                    log.error("recording_inaccessible", extra=extra)  # noqa: TRY400 - no text of a library

    def _recover(self, part: PartFile) -> None:
        lock = lock_part(part.file)
        if lock is None:
            return
        try:
            is_closed = closed_file(part.file.parent, part.number).exists()
            if is_closed or not has_header(part.file):
                # The index has the hash of the closed part, and no line about a part without a
                # header: its process died while it opened the part.
                part.file.unlink()
                sync_directory(part.file.parent)
            elif self._try(part):
                self._telemetry.recording_rewritten(RewriteOutcome.RECOVERED)
                extra = {"recording": part.file.parent.name, "part": part.number}
                log.warning("recording_recovered", extra=extra)
        finally:
            os.close(lock)

    def _try(self, part: PartFile) -> bool:
        try:
            self._rewrite(part)
        except (OSError, ValueError, PartChanged, RecordingKeyMissing) as error:
            self._report(part, error)
            return False
        self._failed.discard(part.file)
        return True

    def _rewrite(self, part: PartFile) -> None:
        path = part.file.parent
        keys = self._keys.unwrap(path.name, read_wrapped_keys(path))
        new = part.file.with_suffix(".new")
        written = write_closed_part(part.file, new, keys)
        try:
            line = part_closed(
                self._clock.now(),
                path.name,
                part.number,
                file_hash=written.hash,
                frame_hash=written.frame_hash,
                cut=written.footer.cut,
                opened=written.opened,
            )
            self._index.append(line)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        new.rename(closed_file(path, part.number))
        part.file.unlink()
        sync_directory(path)

    def _report(self, part: PartFile, error: Exception) -> None:
        self._telemetry.recording_rewritten(RewriteOutcome.FAILED)
        if not self._is_first_failure(part.file):
            return
        extra = {"recording": part.file.parent.name, "part": part.number, "error": _reason(error)}
        if isinstance(error, RecordingKeyMissing):
            log.error("recording_key_missing", extra=extra)
        else:
            log.error("recording_rewrite_failed", extra=extra)

    def _is_first_failure(self, path: Path) -> bool:
        is_first = path not in self._failed
        if len(self._failed) < _FAILED_MAX:
            self._failed.add(path)
        return is_first


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
