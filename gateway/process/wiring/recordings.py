"""Recordings of live consoles: the directory, its keys and index, retention, and their gauges."""

import asyncio
import socket
from dataclasses import dataclass

from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.recordings.file_recordings import FileRecordings, RecordingFiles
from gateway.drivers.recordings.part_closer import PartCloser
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_index import RecordingIndex
from gateway.drivers.recordings.recording_keys import RecordingKeys
from gateway.drivers.recordings.retention import RecordingRetention
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.drivers.telemetry.recording_metrics import RecordingMetrics
from gateway.process.runtime import Runtime

_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class OpenRecordings:
    """The parts of recordings that other parts of a process use."""

    writer: FileRecordings
    stored: StoredRecordings


def open_recordings(runtime: Runtime) -> OpenRecordings | None:
    """Return None if the config has no directory for recordings."""
    config, clock = runtime.config, runtime.clock
    settings = config.recordings
    if settings.directory is None:
        return None
    signing_key = config.audit.signing_key
    directory, keys = RecordingDirectory(settings.directory), RecordingKeys(settings.keys)
    signer = load_signer(signing_key) if signing_key is not None else None
    index = RecordingIndex(settings.directory, clock, signer)
    telemetry = RecordingMetrics(
        runtime.metrics, [account.name for account in config.accounts if account.records]
    )
    writer = FileRecordings(
        RecordingFiles(directory, keys, index, socket.gethostname()),
        PartCloser(keys, index, clock, telemetry),
        RecordingRetention(
            directory,
            index,
            clock,
            telemetry,
            keep_s=settings.keep_days * _SECONDS_PER_DAY,
            bytes_max=settings.bytes_max,
        ),
        clock,
        telemetry,
    )

    async def close() -> None:
        await writer.close()
        await asyncio.to_thread(index.close)

    runtime.stack.push_async_callback(close)
    runtime.tasks["recordings"] = writer.run
    gauge = runtime.metrics.gauge
    gauge("gateway_recordings_open", lambda: writer.open_parts)
    gauge("gateway_recording_lag_seconds", lambda: writer.lag_s)
    gauge("gateway_recordings_bytes", lambda: writer.usage.total)
    gauge("gateway_recordings_disk_free_bytes", lambda: writer.usage.free)
    gauge("gateway_recordings_disk_days", lambda: writer.usage.days_left)
    return OpenRecordings(writer, StoredRecordings(directory, keys))
