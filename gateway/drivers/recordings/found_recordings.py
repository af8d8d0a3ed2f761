"""Reads what a directory of recordings has, to compare it with the index. Everything here blocks.

Raises OSError.
"""

import os
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from gateway.domain.recordings.part_format import Stream
from gateway.domain.recordings.records import RecordKind, decode_records
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
    directory: RecordingDirectory, keys: RecordingKeys | None, *, only: Container[str] | None = None
) -> Iterator[FoundRecording]:
    """Yield every recording, or `only` these IDs.

    Without `keys`, the content of open parts is not checked.
    """
    for path in directory.recordings():
        if only is not None and path.name not in only:
            continue
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
    content = _check_content(path, part.file, keys)
    return FoundPart(
        part.number,
        False,
        sha256(line).hexdigest(),
        is_locked,
        content.problem,
        content.detail,
        part.file.stat().st_size <= len(line),
        content.is_cut,
    )


def _is_locked(file: Path) -> bool:
    try:
        lock = lock_part(file)
    except OSError:  # a copy that may only be read
        return False
    if lock is None:
        return file.exists()
    os.close(lock)
    return False


@dataclass(frozen=True, slots=True)
class _Content:
    problem: str = ""
    detail: str = ""
    is_cut: bool = False


def _check_content(path: Path, file: Path, keys: RecordingKeys | None) -> _Content:
    """Return where the content is not authentic, and where it ends."""
    if keys is None:
        return _Content(detail="its content is not checked without `recordings.keys`")
    try:
        data_keys = keys.unwrap(path.name, read_wrapped_keys(path))
    except RecordingKeyMissing as error:
        return _Content(detail=f"its content is not checked: {error}")
    last = b""
    with file.open("rb") as opened:
        reader = OpenPartReader(opened, data_keys)
        try:
            for block in reader.blocks():
                last = block.plain or b"" if block.stream is Stream.SCREEN else last
        except PartChanged as changed:
            return _Content(problem=f"{file.name}:{changed}")
    detail = f"{file.name}:{reader.detail}" if reader.detail else "no part of it is missing"
    is_cut = all(one.kind is not RecordKind.END for one in decode_records(last))
    return _Content(detail=detail, is_cut=is_cut)
