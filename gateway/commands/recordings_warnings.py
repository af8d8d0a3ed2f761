"""The warnings of `gateway check` about recordings: their keys, and space at the present rate."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gateway.config.errors import ConfigWarning
from gateway.config.located_yaml import Document
from gateway.config.settings import Settings
from gateway.drivers.recordings.recording_directory import RecordingDirectory, read_wrapped_keys
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys
from gateway.drivers.recordings.retention import RecordingUsage, measure_usage


def recording_warnings(config: Settings, document: Document, now: float) -> Iterator[ConfigWarning]:
    directory = config.recordings.directory
    if directory is None or not directory.is_dir():
        return
    recordings = RecordingDirectory(directory)
    with suppress(OSError):  # another user than the gateway's may not read it
        yield from _key_warnings(config, document, recordings)
        yield from warnings_at(config, document, measure_usage(recordings, now))


def _key_warnings(
    config: Settings, document: Document, recordings: RecordingDirectory
) -> Iterator[ConfigWarning]:
    keys = RecordingKeys(config.recordings.keys)
    paths = [*recordings.recordings()]
    lost = sum(not _has_key(keys, path) for path in paths)
    if lost:
        message = f"none of them opens {lost} of {len(paths)} recordings, which cannot be played"
        error = document.error(("recordings", "keys"), message)
        yield ConfigWarning("recordings_key_missing", error)


def _has_key(keys: RecordingKeys, path: Path) -> bool:
    try:
        keys.unwrap(path.name, read_wrapped_keys(path))
    except RecordingKeyMissing:
        return False
    except FileNotFoundError:  # retention, or `verify` reports it
        pass
    return True


def warnings_at(
    config: Settings, document: Document, usage: RecordingUsage
) -> Iterator[ConfigWarning]:
    """Yield the warnings about recordings that take this much."""
    keep_days, bytes_max = config.recordings.keep_days or math.inf, config.recordings.bytes_max
    if not usage.per_day:
        return
    needed, rate = usage.per_day * keep_days, f"{usage.per_day / 1e6:,.0f} MB a day"
    if bytes_max is not None and needed > bytes_max:
        message = f"recordings are removed after {bytes_max / usage.per_day:.0f} days, at {rate}"
        error = document.error(("recordings", "bytes_max"), message)
        yield ConfigWarning("recordings_bytes_max_small", error)
        needed = bytes_max
    if needed > usage.total + usage.free:
        message = f"the disk is full in {usage.days_left:.0f} days, at {rate}"
        error = document.error(("recordings", "directory"), message)
        yield ConfigWarning("recordings_disk_small", error)
