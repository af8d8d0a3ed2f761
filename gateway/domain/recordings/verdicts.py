"""Verify recordings: compare the files with the index. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from gateway.domain.recordings.index_lines import IndexedPart, IndexedRecording, OpenedContent

_LOST_ITS_END: Final = "the index has its end, and the file has not"
_LOST_BLOCKS: Final = "the index has more of it than the file"


class Verdict(Enum):
    INTACT = "intact"
    IN_PROGRESS = "in progress"
    """A process writes it."""
    CUT_SHORT = "cut short"
    """A crash ended it; all that it has is authentic."""
    REMOVED = "removed by retention"
    KEY_MISSING = "unreadable"
    """No key of `recordings.keys` opens its data key; nothing says that it was changed."""
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
        return f"{where}: {self.described}"

    @property
    def described(self) -> str:
        """The verdict and its detail."""
        return self.verdict.value + (f": {self.detail}" if self.detail else "")

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
    """SHA-256 of a closed part, or of the header line of an open part; "": not computed."""
    frame_hash: str = ""
    """Of a closed part, as in `IndexedPart`; "": it has no first line or no end."""
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
    content: OpenedContent | None = None
    """Of an open part; None: not checked."""
    omitted_marks: int = 0
    """Of a closed part."""


@dataclass(frozen=True, slots=True)
class FoundRecording:
    id: str
    details_hash: str
    """SHA-256 of recording.json; "": missing."""
    keys_hash: str
    """SHA-256 of keys.json; "": missing."""
    parts: tuple[FoundPart, ...]
    lacks_key: bool = False
    """keys.json was checked, and no key of the config opens it."""


def judge(
    index: Mapping[str, IndexedRecording],
    found: Iterable[FoundRecording],
    wanted: Collection[str] = (),
) -> Iterator[Judgement]:
    """Yield a judgement for each part, and for each recording that is wrong as a whole.

    `wanted`: the recordings that must be in the index or the directory; () judges all.
    """
    seen = set()
    for recording in found:
        seen.add(recording.id)
        indexed = index.get(recording.id)
        if indexed is None:
            detail = "no line of the index is about it"
            yield Judgement(recording.id, 0, Verdict.UNKNOWN, detail)
        else:
            yield from _judge_recording(indexed, recording)
    for name in sorted(set(wanted) - seen - index.keys()):
        detail = "neither the index nor the directory has it"
        yield Judgement(name, 0, Verdict.UNKNOWN, detail)
    for name, indexed in index.items():
        if name in seen or not indexed.parts or (wanted and name not in wanted):
            continue
        if indexed.removed is not None:
            yield Judgement(name, 0, Verdict.REMOVED, f"by {indexed.removed.value}")
        else:
            detail = "its directory is missing, and no line records the removal"
            yield Judgement(name, 0, Verdict.MISSING, detail)


def _judge_recording(indexed: IndexedRecording, found: FoundRecording) -> Iterator[Judgement]:
    yield from _judge_file(found, "recording.json", found.details_hash, {indexed.details_hash})
    yield from _judge_file(found, "keys.json", found.keys_hash, indexed.keys_hashes)
    if found.lacks_key and found.keys_hash in indexed.keys_hashes:
        detail = "no key of `recordings.keys` opens keys.json"
        yield Judgement(found.id, 0, Verdict.KEY_MISSING, detail)
    for part in found.parts:
        yield Judgement(found.id, part.number, *_judge_part(indexed.parts.get(part.number), part))
    for number in sorted(indexed.parts.keys() - {one.number for one in found.parts}):
        if indexed.removed is not None:  # the removal was interrupted
            yield Judgement(found.id, number, Verdict.REMOVED, f"by {indexed.removed.value}")
        else:
            detail = "its file is missing, and no line records the removal"
            yield Judgement(found.id, number, Verdict.MISSING, detail)


def _judge_file(
    found: FoundRecording, name: str, hash_now: str, hashes: Collection[str]
) -> Iterator[Judgement]:
    if not hash_now:
        yield Judgement(found.id, 0, Verdict.MISSING, f"{name} is missing")
    elif hash_now not in hashes:
        detail = f"{name} differs from the hash in the index"
        yield Judgement(found.id, 0, Verdict.CHANGED, detail)


def _judge_part(indexed: IndexedPart | None, part: FoundPart) -> tuple[Verdict, str]:
    if indexed is not None:
        return _judge_closed(indexed, part) if part.is_closed else _judge_open(indexed, part)
    if part.is_empty:
        detail = "the gateway's process has died, or is working, while it opened the part"
        return Verdict.CUT_SHORT, detail
    return Verdict.UNKNOWN, "no line of the index is about it"


def _judge_closed(indexed: IndexedPart, part: FoundPart) -> tuple[Verdict, str]:
    if not indexed.file_hash:
        return Verdict.UNKNOWN, "the index has no hash of the closed part"
    is_same = part.hash == indexed.file_hash if part.hash else True
    if not is_same or part.frame_hash != indexed.frame_hash:
        return Verdict.CHANGED, "the file differs from the hash in the index"
    if indexed.cut and indexed.was_whole:
        return Verdict.CHANGED, _LOST_ITS_END
    if indexed.was_changed:
        return Verdict.CHANGED, _LOST_BLOCKS
    if indexed.cut:
        return Verdict.CUT_SHORT, "the gateway's process has died while it recorded"
    omitted = f"the list of its marks leaves out {part.omitted_marks}, which its chunks have"
    return Verdict.INTACT, omitted if part.omitted_marks else ""


def _judge_open(indexed: IndexedPart, part: FoundPart) -> tuple[Verdict, str]:
    if part.hash != indexed.header_hash:
        return Verdict.CHANGED, "its first line differs from the hash in the index"
    if part.problem:
        return Verdict.CHANGED, part.problem
    if part.is_locked:
        return Verdict.IN_PROGRESS, ""
    if part.is_cut and indexed.was_whole:
        return Verdict.CHANGED, _LOST_ITS_END
    if part.content is not None and indexed.lacks_blocks(part.content):
        return Verdict.CHANGED, _LOST_BLOCKS
    return Verdict.CUT_SHORT, part.detail
