"""Verify recordings: compare the files with the index. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from gateway.domain.recordings.index_lines import IndexedPart, IndexedRecording

_LOST_ITS_END: Final = "the index has its end, and the file has not"


class Verdict(Enum):
    INTACT = "intact"
    IN_PROGRESS = "in progress"
    """A process writes it."""
    CUT_SHORT = "cut short"
    """A crash ended it; all that it has is authentic."""
    REMOVED = "removed by retention"
    CHANGED = "changed"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """The index has no line about it."""

    @property
    def is_problem(self) -> bool:
        return self in (Verdict.CHANGED, Verdict.MISSING, Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Judgement:
    recording: str
    part: int
    """0: the recording as a whole."""
    verdict: Verdict
    detail: str = ""

    def __str__(self) -> str:
        where = f"recording {self.recording}" + (f" part {self.part}" if self.part else "")
        return f"{where}: {self.verdict.value}" + (f": {self.detail}" if self.detail else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "recording": self.recording,
            "part": self.part or None,
            "verdict": self.verdict.name.lower(),
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class FoundPart:
    """The file of a part."""

    number: int
    is_closed: bool
    hash: str
    """SHA-256 of a closed part, or of the header line of an open part."""
    is_locked: bool = False
    """A process writes it."""
    problem: str = ""
    """Where the content of an open part is not authentic; "" if it is, or was not checked."""
    detail: str = ""
    """Where an open part ends."""
    is_empty: bool = False
    """An open part without a block, or without its whole header."""
    is_cut: bool = False
    """An open part without its end; False if its content was not checked."""


@dataclass(frozen=True, slots=True)
class FoundRecording:
    id: str
    details_hash: str
    parts: tuple[FoundPart, ...]


def judge(
    index: Mapping[str, IndexedRecording], found: Iterable[FoundRecording]
) -> Iterator[Judgement]:
    """Yield a judgement for each part, and for each recording that is wrong as a whole."""
    seen = set()
    for recording in found:
        seen.add(recording.id)
        indexed = index.get(recording.id)
        if indexed is None:
            detail = "no line of the index is about it"
            yield Judgement(recording.id, 0, Verdict.UNKNOWN, detail)
        else:
            yield from _judge_recording(indexed, recording)
    for name, indexed in index.items():
        if name in seen or not indexed.parts:
            continue
        if indexed.removed is not None:
            yield Judgement(name, 0, Verdict.REMOVED, f"by {indexed.removed.value}")
        else:
            detail = "its directory is missing, and no line records the removal"
            yield Judgement(name, 0, Verdict.MISSING, detail)


def _judge_recording(indexed: IndexedRecording, found: FoundRecording) -> Iterator[Judgement]:
    if found.details_hash != indexed.details_hash:
        detail = "recording.json differs from the hash in the index"
        yield Judgement(found.id, 0, Verdict.CHANGED, detail)
    numbers = set()
    for part in found.parts:
        numbers.add(part.number)
        of_index = indexed.parts.get(part.number)
        if of_index is None and part.is_empty:
            detail = "the gateway's process has died, or is working, while it opened the part"
            yield Judgement(found.id, part.number, Verdict.CUT_SHORT, detail)
        elif of_index is None:
            detail = "no line of the index is about it"
            yield Judgement(found.id, part.number, Verdict.UNKNOWN, detail)
        else:
            judge_part = _judge_closed if part.is_closed else _judge_open
            yield Judgement(found.id, part.number, *judge_part(of_index, part))
    for number in sorted(indexed.parts.keys() - numbers):
        if indexed.removed is not None:  # the removal was interrupted
            yield Judgement(found.id, number, Verdict.REMOVED, f"by {indexed.removed.value}")
        else:
            detail = "its file is missing, and no line records the removal"
            yield Judgement(found.id, number, Verdict.MISSING, detail)


def _judge_closed(indexed: IndexedPart, part: FoundPart) -> tuple[Verdict, str]:
    if not indexed.file_hash:
        return Verdict.UNKNOWN, "the index has no hash of the closed part"
    if part.hash != indexed.file_hash:
        return Verdict.CHANGED, "the file differs from the hash in the index"
    if indexed.cut and indexed.was_whole:
        return Verdict.CHANGED, _LOST_ITS_END
    if indexed.cut:
        return Verdict.CUT_SHORT, "the gateway's process has died while it recorded"
    return Verdict.INTACT, ""


def _judge_open(indexed: IndexedPart, part: FoundPart) -> tuple[Verdict, str]:
    if part.hash != indexed.header_hash:
        return Verdict.CHANGED, "its first line differs from the hash in the index"
    if part.problem:
        return Verdict.CHANGED, part.problem
    if part.is_locked:
        return Verdict.IN_PROGRESS, ""
    if part.is_cut and indexed.was_whole:
        return Verdict.CHANGED, _LOST_ITS_END
    return Verdict.CUT_SHORT, part.detail
