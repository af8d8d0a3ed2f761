"""Recordings of live consoles: the directory, its keys and index, retention, and their gauges."""

import asyncio
import math
import socket
from dataclasses import dataclass

from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.recordings.file_recordings import FileRecordings, RecordingFiles
from gateway.drivers.recordings.part_closer import PartCloser
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_index import RecordingIndex
from gateway.drivers.recordings.recording_keys import RecordingKeys
from gateway.drivers.recordings.retention import RecordingRetention
from gateway.drivers.recordings.stored_recordings import StoredRecordings
from gateway.drivers.telemetry.recording_metrics import RecordingMetrics
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.recording_catalogue import ValkeyRecordingCatalogue
from gateway.flow.recordings.known_recordings import KnownRecordings
from gateway.flow.recordings.recording_publisher import REFRESH_EVERY_S, RecordingPublisher
from gateway.process.runtime import Runtime

_SECONDS_PER_DAY = 86_400
_UNLIMITED_DAYS = 3_650.0
"""An entry of a host that publishes it no more expires then, where recordings have no limit."""


@dataclass(frozen=True, slots=True)
class OpenRecordings:
    """The parts of recordings that other parts of a process use."""

    writer: FileRecordings
    known: KnownRecordings


def open_recordings(runtime: Runtime, valkey: Valkey) -> OpenRecordings | None:
    """Return None if the config has no directory for recordings."""
    config, clock = runtime.config, runtime.clock
    settings = config.recordings
    if settings.directory is None:
        return None
    signing_key = config.audit.signing_key
    host = socket.gethostname()
    directory, keys = RecordingDirectory(settings.directory), RecordingKeys(settings.keys)
    signer = load_signer(signing_key) if signing_key is not None else None
    index = RecordingIndex(settings.directory, clock, signer)
    telemetry = RecordingMetrics(
        runtime.metrics, [account.name for account in config.accounts if account.records]
    )
    writer = FileRecordings(
        RecordingFiles(directory, keys, index, host),
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
    gauge("gateway_recordings_on_hold_bytes", lambda: writer.usage.on_hold)
    gauge("gateway_recordings_max_bytes", lambda: settings.bytes_max or math.inf)
    gauge("gateway_recordings_disk_free_bytes", lambda: writer.usage.free)
    gauge("gateway_recordings_disk_days", lambda: writer.usage.days_left)
    stored = StoredRecordings(directory, keys)
    return OpenRecordings(writer, _open_known(runtime, valkey, writer, stored, host))


def _open_known(
    runtime: Runtime,
    valkey: Valkey,
    writer: FileRecordings,
    stored: StoredRecordings,
    host: str,
) -> KnownRecordings:
    """Publish the recordings of this host, and read those of the others."""
    config = runtime.config
    catalogue = ValkeyRecordingCatalogue(
        valkey,
        Sealer(config.store.seal_keys),
        host=host,
        ttl_s=(config.recordings.keep_days or _UNLIMITED_DAYS) * _SECONDS_PER_DAY
        + 2 * REFRESH_EVERY_S,
    )
    publisher = RecordingPublisher(stored, catalogue, runtime.clock)
    writer.on_change(publisher.publish_soon)
    writer.on_removal(publisher.unpublish_soon)
    valkey.on_availability_change(publisher.publish_all_soon)
    runtime.tasks["recording catalogue"] = publisher.run
    return KnownRecordings(stored, catalogue, host=host)
