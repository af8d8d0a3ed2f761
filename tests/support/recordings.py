"""Recordings in a directory of a test: the real driver, and what it has written."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.domain.audit.chain import Signer
from gateway.domain.consoles.model import ConsoleTarget, PersonRef, SessionMode
from gateway.domain.model import ProjectId, Secret, ServerId
from gateway.domain.recordings.index_lines import RemovalReason
from gateway.domain.recordings.model import RecordingDetails, RecordingPolicy
from gateway.domain.recordings.part_format import Stream
from gateway.domain.recordings.records import Record, RecordKind, decode_records
from gateway.drivers.recordings.closed_part import ClosedPart
from gateway.drivers.recordings.file_recordings import FileRecordings, RecordingFiles
from gateway.drivers.recordings.open_part import OpenPartReader
from gateway.drivers.recordings.part_closer import PartCloser
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    part_files,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_index import RecordingIndex
from gateway.drivers.recordings.recording_keys import RecordingKeys
from gateway.drivers.recordings.retention import RecordingRetention
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingFailure, RewriteOutcome

ACCOUNT = "main"
STARTED_AT = 1_900_000_000.0


def a_key(letter: bytes) -> Secret:
    return Secret(base64.b64encode(letter * 32).decode())


KEY, OTHER_KEY = a_key(b"a"), a_key(b"b")


def a_recording(number: int = 1, **changes: Any) -> RecordingDetails:
    values: dict[str, Any] = {
        "id": f"{number:032x}",
        "target": ConsoleTarget(ACCOUNT, ProjectId("p" * 32), ServerId("s-1")),
        "person": PersonRef("ann", "corp"),
        "mode": SessionMode.CONTROL,
        "started_at": STARTED_AT,
        "policy": RecordingPolicy.REQUIRED,
        "has_keystrokes": False,
        "client_address": "192.0.2.7",
        "request_id": "r-1",
    }
    return RecordingDetails(**{**values, **changes})


class CountedRecordings:
    """A `RecordingTelemetry` that counts its calls."""

    def __init__(self) -> None:
        self.written = 0
        self.failures: Counter[RecordingFailure] = Counter()
        self.rewrites: Counter[RewriteOutcome] = Counter()
        self.removals: Counter[RemovalReason] = Counter()

    def recording_written(self, account: str, size: int) -> None:
        self.written += size

    def recording_failed(self, account: str, failure: RecordingFailure) -> None:
        self.failures[failure] += 1

    def recording_rewritten(self, outcome: RewriteOutcome) -> None:
        self.rewrites[outcome] += 1

    def recording_removed(self, reason: RemovalReason) -> None:
        self.removals[reason] += 1


class RecordingScene:
    """A directory of recordings with the parts of its driver."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Clock,
        keys: Sequence[Secret] = (KEY,),
        keep_s: float = 0.0,
        bytes_max: int | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.clock = clock
        self.directory = RecordingDirectory(root)
        self.keys = RecordingKeys(keys)
        self.index = RecordingIndex(root, clock, signer)
        self.telemetry = CountedRecordings()
        self.closer = PartCloser(self.keys, self.index, clock, self.telemetry)
        self.retention = RecordingRetention(
            self.directory,
            self.index,
            clock,
            self.telemetry,
            keep_s=keep_s,
            bytes_max=bytes_max,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FileRecordings]:
        """Run the writer with its background task."""
        files = RecordingFiles(self.directory, self.keys, self.index, "host-1")
        recordings = FileRecordings(files, self.closer, self.retention, self.clock, self.telemetry)
        task = asyncio.create_task(recordings.run())
        try:
            yield recordings
        finally:
            task.cancel()
            await asyncio.wait({task})
            await recordings.close()
            self.index.close()

    def records(self, recording: str) -> list[Record]:
        """Return the records of all parts, closed or open, without keystrokes."""
        path = self.directory.find(recording)
        assert path is not None
        keys = self.keys.unwrap(recording, read_wrapped_keys(path))
        found: list[Record] = []
        for part in part_files(path):
            if part.is_closed:
                with ClosedPart(part.file, keys) as closed:
                    found += closed.records()
            else:
                with part.file.open("rb") as opened:
                    for block in OpenPartReader(opened, keys).blocks():
                        if block.stream is Stream.SCREEN:
                            found += decode_records(block.plain or b"")
        return found

    def screen(self, recording: str) -> bytes:
        """Return the screen data of all parts."""
        return b"".join(
            one.payload for one in self.records(recording) if one.kind is RecordKind.SCREEN
        )
