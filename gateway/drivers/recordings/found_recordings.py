"""Reads what a directory of recordings has, to compare it with the index. Everything here blocks.

Raises OSError.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from gateway.domain.recordings.index_lines import OpenedContent, read_index
from gateway.domain.recordings.part_format import Stream
from gateway.domain.recordings.records import RecordKind, decode_records
from gateway.domain.recordings.verdicts import FoundPart, FoundRecording, Judgement, judge
from gateway.drivers.recordings.open_part import OpenPartReader, PartChanged
from gateway.drivers.recordings.recording_directory import (
    PartFile,
    RecordingDirectory,
    details_hash,
    frame_hash,
    has_header,
    keys_hash,
    lock_part,
    part_files,
    read_footer,
    read_header,
    read_wrapped_keys,
)
from gateway.drivers.recordings.recording_index import find_lines
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys


def found_recordings(
    directory: RecordingDirectory, keys: RecordingKeys | None, wanted: Collection[str] = ()
) -> Iterator[FoundRecording]:
    """Yield every recording, or those in `wanted`, with the hashes of whole files.

    Without `keys`, the content of open parts is not checked.
    """
    for path in directory.recordings():
        if wanted and path.name not in wanted:
            continue
        with suppress(FileNotFoundError):  # retention
            details, wrapped = details_hash(path), keys_hash(path)
            lacks_key = keys is not None and bool(wrapped) and not _has_key(path, keys)
            parts = tuple(_found_part(path, one, keys) for one in part_files(path))
            yield FoundRecording(path.name, details, wrapped, parts, lacks_key)


def find_problems(
    directory: RecordingDirectory, recordings: Collection[str]
) -> Mapping[str, list[Judgement]]:
    """Return what does not match the index, by recording, without reading whole files.

    The signatures of the index are not verified.
    """
    problems = _find_problems(directory, recordings)
    # A part that was opened, closed or removed between the two readings is no problem.
    return _find_problems(directory, problems) if problems else {}


def _find_problems(
    directory: RecordingDirectory, recordings: Collection[str]
) -> Mapping[str, list[Judgement]]:
    index = read_index(find_lines(directory.root, recordings))
    found = (_found_quickly(path) for path in directory.find_each(recordings))
    problems: dict[str, list[Judgement]] = {}
    for one in judge(index, found):
        if one.verdict.is_problem:
            problems.setdefault(one.recording, []).append(one)
    return problems


def _found_quickly(path: Path) -> FoundRecording:
    """Return a recording without the hashes of whole parts."""
    details, wrapped = details_hash(path), keys_hash(path)
    parts = tuple(_found_part_quickly(one) for one in part_files(path))
    return FoundRecording(path.name, details, wrapped, parts)


def _found_part_quickly(part: PartFile) -> FoundPart:
    if part.is_closed:
        return FoundPart(part.number, True, "", frame_hash(part.file))
    try:
        line, _ = read_header(part.file)
    except ValueError as error:
        is_empty = not has_header(part.file)
        return FoundPart(part.number, False, "", problem=str(error), is_empty=is_empty)
    is_empty = part.file.stat().st_size <= len(line)
    return FoundPart(part.number, False, sha256(line).hexdigest(), is_empty=is_empty)


def _has_key(path: Path, keys: RecordingKeys) -> bool:
    try:
        keys.unwrap(path.name, read_wrapped_keys(path))
    except RecordingKeyMissing:
        return False
    return True


def _found_part(path: Path, part: PartFile, keys: RecordingKeys | None) -> FoundPart:
    if part.is_closed:
        with part.file.open("rb") as opened:
            whole = file_digest(opened, "sha256").hexdigest()
        omitted = 0
        with suppress(ValueError):  # without an end, its hash differs
            omitted = read_footer(part.file).omitted_marks
        frame = frame_hash(part.file)
        return FoundPart(part.number, True, whole, frame, omitted_marks=omitted)
    is_locked = _is_locked(part.file)
    try:
        line, _ = read_header(part.file)
    except ValueError as error:
        is_empty = not has_header(part.file)
        return FoundPart(
            part.number,
            False,
            "",
            is_locked=is_locked,
            problem=f"{part.file.name} {error}",
            is_empty=is_empty,
        )
    content = _check_content(path, part.file, keys)
    return FoundPart(
        part.number,
        False,
        sha256(line).hexdigest(),
        is_locked=is_locked,
        problem=content.problem,
        detail=content.detail,
        is_empty=part.file.stat().st_size <= len(line),
        is_cut=content.is_cut,
        content=content.opened,
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
    opened: OpenedContent | None = None


def _check_content(path: Path, file: Path, keys: RecordingKeys | None) -> _Content:
    """Return where the content is not authentic, and where it ends."""
    if keys is None:
        return _Content(detail="its content is not checked without `recordings.keys`")
    try:
        data_keys = keys.unwrap(path.name, read_wrapped_keys(path))
    except RecordingKeyMissing as error:
        return _Content(detail=f"its content is not checked: {error}")
    except FileNotFoundError:
        return _Content(detail="its content is not checked: keys.json is missing")
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
    return _Content(detail=detail, is_cut=is_cut, opened=reader.content)
