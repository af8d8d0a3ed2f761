"""Reads what a directory of recordings has, to compare it with the index. Everything here blocks.

Raises OSError.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path

from gateway.domain.recordings.verdicts import FoundPart, FoundRecording
from gateway.drivers.recordings.open_part import OpenPartReader, PartChanged
from gateway.drivers.recordings.recording_directory import (
    PartFile,
    RecordingDirectory,
    details_hash,
    has_header,
    lock_part,
    part_files,
    read_header,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys


def found_recordings(
    directory: RecordingDirectory, keys: RecordingKeys | None
) -> Iterator[FoundRecording]:
    """Yield every recording; without `keys`, the content of open parts is not checked."""
    for path in directory.recordings():
        with suppress(FileNotFoundError):  # retention
            parts = tuple(_found_part(path, one, keys) for one in part_files(path))
            yield FoundRecording(path.name, details_hash(path), parts)


def _found_part(path: Path, part: PartFile, keys: RecordingKeys | None) -> FoundPart:
    if part.is_closed:
        with part.file.open("rb") as opened:
            return FoundPart(part.number, True, file_digest(opened, "sha256").hexdigest())
    is_locked = _is_locked(part.file)
    try:
        line, _ = read_header(part.file)
    except ValueError as error:
        is_empty = not has_header(part.file)
        return FoundPart(
            part.number, False, "", is_locked, f"{part.file.name} {error}", is_empty=is_empty
        )
    problem, detail = _check_content(path, part.file, keys)
    is_empty = part.file.stat().st_size <= len(line)
    hashed = sha256(line).hexdigest()
    return FoundPart(part.number, False, hashed, is_locked, problem, detail, is_empty)


def _is_locked(file: Path) -> bool:
    try:
        lock = lock_part(file)
    except OSError:  # a copy that may only be read
        return False
    if lock is None:
        return file.exists()
    os.close(lock)
    return False


def _check_content(path: Path, file: Path, keys: RecordingKeys | None) -> tuple[str, str]:
    """Return where the content is not authentic, and where it ends."""
    if keys is None:
        return "", "its content is not checked without `recordings.keys`"
    try:
        data_keys = keys.unwrap(path.name, read_wrapped_keys(path))
    except RecordingKeyMissing as error:
        return "", f"its content is not checked: {error}"
    with file.open("rb") as opened:
        reader = OpenPartReader(opened, data_keys)
        try:
            for _ in reader.blocks():
                pass
        except PartChanged as changed:
            return f"{file.name}:{changed}", ""
        return "", f"{file.name}:{reader.detail}" if reader.detail else "no part of it is missing"
