"""Writes recordings to a directory, closes and removes them (port `RecordingWriter`)."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final

from gateway.domain.recordings.index_lines import part_opened, recording_opened
from gateway.domain.recordings.model import PartId, RecordingDetails
from gateway.domain.recordings.records import Record
from gateway.drivers.host.worker_thread import WorkerThread
from gateway.drivers.recordings.open_part import OpenPart, create_part
from gateway.drivers.recordings.part_closer import PartCloser
from gateway.drivers.recordings.part_threads import PartThreads
from gateway.drivers.recordings.recording_directory import (
    PartFile,
    RecordingDirectory,
    encode_details,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_index import RecordingIndex
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys
from gateway.drivers.recordings.retention import RecordingRetention, RecordingUsage
from gateway.drivers.recordings.threaded_part import ThreadedPart, describe
from gateway.flow.clock import Clock
from gateway.flow.recordings.recording_telemetry import RecordingFailure, RecordingTelemetry
from gateway.flow.recordings.recording_writer import RecordingFailed

log = logging.getLogger("gateway.recording")

_RECOVER_EVERY_S: Final = 30.0
_RECOVER_DAYS: Final = 2
_RETENTION_EVERY_S: Final = 600.0
_ENDS_MAX: Final = 8
"""Parts whose last records are made durable at the same time."""
_CLOSE_S: Final = 5.0
"""How long a stopping process waits for the parts that are being closed; the others are recovered
by another process."""


@dataclass(frozen=True, slots=True)
class RecordingFiles:
    """The directory and what writing to it needs."""

    directory: RecordingDirectory
    keys: RecordingKeys
    index: RecordingIndex
    host: str


@dataclass(frozen=True, slots=True)
class _Ending:
    part: ThreadedPart
    records: Sequence[Record]


class FileRecordings:
    def __init__(
        self,
        files: RecordingFiles,
        closer: PartCloser,
        retention: RecordingRetention,
        clock: Clock,
        telemetry: RecordingTelemetry,
    ) -> None:
        self.usage = RecordingUsage()
        """As of the last pass of retention."""
        self._files = files
        self._closer = closer
        self._retention = retention
        self._clock = clock
        self._telemetry = telemetry
        self._threads = PartThreads(clock)
        self._closes = WorkerThread("recording closes")
        self._passes = WorkerThread("recording passes")
        self._ending: asyncio.Queue[_Ending] = asyncio.Queue()
        self._closing: asyncio.Queue[OpenPart] = asyncio.Queue()
        self._on_change: Callable[[str], None] = lambda _: None
        self._on_removal: Callable[[str, Collection[PartId]], None] = lambda *_: None

    def on_change(self, call: Callable[[str], None]) -> None:
        """Call `call` with the ID of a recording when a part of it has begun or was closed."""
        self._on_change = call

    def on_removal(self, call: Callable[[str, Collection[PartId]], None]) -> None:
        """Call `call` with the ID and parts of a recording that retention has removed."""
        self._on_removal = call

    @property
    def open_parts(self) -> int:
        return len(self._threads.parts)

    @property
    def lag_s(self) -> float:
        """Age of the oldest byte that is not durable yet, in seconds."""
        return self._threads.lag_s

    async def open_part(
        self, details: RecordingDetails, on_failure: Callable[[str], None]
    ) -> "FilePart":
        try:
            part = await self._threads.open(
                lambda: open_recording_part(self._files, details, self._clock.now()),
                unused=self._closing.put_nowait,
            )
        except (OSError, ValueError, RecordingKeyMissing) as error:
            detail = describe(error) if isinstance(error, OSError) else str(error)
            self._report(details, RecordingFailure.START, detail)
            raise RecordingFailed(f"start: {detail}") from None

        def failed(kind: RecordingFailure, detail: str) -> None:
            self._report(details, kind, detail)
            on_failure(f"{kind.value}: {detail}")

        written = self._threads.add(part, failed)
        self._on_change(details.id)
        return FilePart(written, self._threads, self._ending, self._count(details))

    async def run(self) -> None:
        """Write, close, recover and remove, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for work in (
                self._threads.run,
                *(self._end_parts for _ in range(_ENDS_MAX)),
                self._close_parts,
                self._recover,
                self._retain,
            ):
                _ = group.create_task(work())

    async def close(self) -> None:
        """Finish the parts that are being closed, within a bound; the background task has ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                ending = [self._ending.get_nowait() for _ in range(self._ending.qsize())]
                await asyncio.gather(*(self._end_part(one) for one in ending))
                while not self._closing.empty():
                    await self._close_part(self._closing.get_nowait())
        self._threads.end()
        for thread in (self._closes, self._passes):
            thread.end()

    def _count(self, details: RecordingDetails) -> Callable[[int], None]:
        return partial(self._telemetry.recording_written, details.target.account)

    def _report(self, details: RecordingDetails, kind: RecordingFailure, detail: str) -> None:
        self._telemetry.recording_failed(details.target.account, kind)
        extra = {"recording": details.id, "kind": kind.value, "error": detail}
        log.error("recording_failed", extra=extra)

    async def _end_parts(self) -> None:
        while True:
            await self._end_part(await self._ending.get())

    async def _end_part(self, ending: _Ending) -> None:
        """Write the last records, before any part is rewritten: a crash then cuts nothing."""
        with suppress(RecordingFailed):
            await self._threads.write(ending.part, ending.records)
        await self._threads.release(ending.part)
        # The thread that closes parts must not wait for one whose write or sync hangs.
        ending.part.when_idle(lambda: self._closing.put_nowait(ending.part.open_part))

    async def _close_parts(self) -> None:
        while True:
            await self._close_part(await self._closing.get())

    async def _close_part(self, part: OpenPart) -> None:
        rewritten = PartFile(part.header.part, part.file, is_closed=False)
        await self._closes.do(partial(self._closer.close, rewritten))
        await self._closes.do(part.close)
        self._on_change(part.header.recording)

    async def _recover(self) -> None:
        directory = self._files.directory
        while True:
            for _ in range(round(_RETENTION_EVERY_S / _RECOVER_EVERY_S)):
                await self._pass(
                    lambda: self._closer.recover(directory.recordings(days=_RECOVER_DAYS))
                )
                await self._clock.sleep(_RECOVER_EVERY_S)
            await self._pass(lambda: self._closer.recover(directory.recordings()))

    async def _retain(self) -> None:
        while True:
            await self._pass(self._measure)
            for recording, parts in self._retention.take_removed().items():
                self._on_removal(recording, parts)
            await self._clock.sleep(_RETENTION_EVERY_S)

    def _measure(self) -> None:
        self.usage = self._retention.apply()

    async def _pass(self, work: Callable[[], None]) -> None:
        """Run one pass over the directory; an error of the disk does not end the task."""
        try:
            await self._passes.do(work)
        except OSError as error:
            log.error("recording_directory_unavailable", extra={"error": describe(error)})  # noqa: TRY400 - no text of a library


def open_recording_part(files: RecordingFiles, details: RecordingDetails, now: float) -> OpenPart:
    """Create the next part of a recording, and the recording with its first part.

    Raises OSError, ValueError and RecordingKeyMissing.
    """
    path = files.directory.path(details)
    if not path.is_dir():
        _, wrapped = files.keys.create(details.id, with_keystrokes=details.has_keystrokes)
        hashes = (sha256(one).hexdigest() for one in (encode_details(details), wrapped))
        files.index.append(recording_opened(now, details.id, *hashes))
        path = files.directory.create(details, wrapped)
    # Another process may have made it at the same time.
    keys = files.keys.unwrap(details.id, read_wrapped_keys(path))
    part = create_part(path, details.id, keys, started_at=now, host=files.host)
    try:
        number = part.header.part
        files.index.append(part_opened(now, details.id, number, part.header_hash))
    except OSError:
        part.file.unlink(missing_ok=True)
        part.close()
        raise
    return part


class FilePart:
    """Implements `PartWriter`."""

    def __init__(
        self,
        part: ThreadedPart,
        threads: PartThreads,
        ending: asyncio.Queue[_Ending],
        count: Callable[[int], None],
    ) -> None:
        self._part = part
        self._threads = threads
        self._ending = ending
        self._count = count

    async def append(self, records: Sequence[Record]) -> None:
        self._count(await self._threads.write(self._part, records))

    def close(self, records: Sequence[Record]) -> None:
        self._ending.put_nowait(_Ending(self._part, records))
