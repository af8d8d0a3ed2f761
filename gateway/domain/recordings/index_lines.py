"""The index of recordings: which parts exist, and the hashes of their files. Pure.

The index is a signed hash chain like the audit log (`gateway/domain/audit/chain.py`), in a
directory of its own. It names no person except in `by` and `reason` of a hold. Several processes
write a chain each, so what the lines say is merged by their time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from gateway.domain.audit.chain import Line, encode_body

RECORDING_OPENED: Final = "recording_opened"
KEYS_REWRAPPED: Final = "keys_rewrapped"
PART_OPENED: Final = "part_opened"
PART_CLOSED: Final = "part_closed"
RECORDING_REMOVED: Final = "recording_removed"
HOLD_SET: Final = "hold_set"
HOLD_LIFTED: Final = "hold_lifted"


@dataclass(frozen=True, slots=True)
class OpenedContent:
    """What an open part had when it was read to its end, or to the place of a cut."""

    blocks: int
    tag: str
    """Of the last block, in hexadecimal; it authenticates all blocks before."""


class RemovalReason(Enum):
    KEEP_DAYS = "keep_days"
    BYTES_MAX = "bytes_max"


def recording_opened(at: float, recording: str, details_hash: str, keys_hash: str) -> bytes:
    """`details_hash` and `keys_hash`: SHA-256 of recording.json and keys.json, in hexadecimal."""
    return _body(RECORDING_OPENED, at, recording, details=details_hash, keys=keys_hash)


def keys_rewrapped(at: float, recording: str, keys_hash: str) -> bytes:
    """`keys_hash`: of the keys.json that is about to replace the one before."""
    return _body(KEYS_REWRAPPED, at, recording, keys=keys_hash)


def part_opened(at: float, recording: str, part: int, header_hash: str) -> bytes:
    """`header_hash`: SHA-256 of the header line of the open part."""
    return _body(PART_OPENED, at, recording, part=part, header=header_hash)


def part_closed(  # noqa: PLR0913 - the fields of the line
    at: float,
    recording: str,
    part: int,
    *,
    file_hash: str,
    frame_hash: str,
    cut: bool,
    opened: OpenedContent,
) -> bytes:
    """`file_hash`: SHA-256 of the closed part; `frame_hash`: see `IndexedPart`."""
    return _body(
        PART_CLOSED,
        at,
        recording,
        part=part,
        file=file_hash,
        frame=frame_hash,
        cut=cut,
        blocks=opened.blocks,
        tag=opened.tag,
    )


def recording_removed(at: float, recording: str, reason: RemovalReason) -> bytes:
    return _body(RECORDING_REMOVED, at, recording, reason=reason.value)


def hold_changed(at: float, recording: str, *, by: str, reason: str, is_set: bool) -> bytes:
    event = HOLD_SET if is_set else HOLD_LIFTED
    return _body(event, at, recording, by=by, reason=reason)


def _body(event: str, at: float, recording: str, **fields: Any) -> bytes:
    return encode_body({"event": event, "at": at, "recording": recording, **fields})


@dataclass(slots=True)
class IndexedPart:
    header_hash: str = ""
    """Of the open part; "" if no line says that it was opened."""
    file_hash: str = ""
    """Of the closed part; "" while it is open."""
    frame_hash: str = ""
    """Of its header line, time index and footer. Each block authenticates the one before, so that
    this hash stands for all of them, and a player need not read the whole file."""
    cut: bool = False
    was_whole: bool = False
    """A line says that it was closed with its end."""
    opened: OpenedContent | None = None
    """The longest open part that a line says was closed; an older copy of the file is shorter."""
    was_changed: bool = False
    """It was closed again from a file that was shorter, or that had other blocks."""

    def lacks_blocks(self, content: OpenedContent) -> bool:
        """Return whether a file has not all the blocks that a line of the index counts."""
        longest = self.opened
        if longest is None or content.blocks > longest.blocks:
            return False
        return content != longest


@dataclass(slots=True)
class IndexedRecording:
    details_hash: str = ""
    keys_hashes: set[str] = field(default_factory=set)
    """Of every keys.json that the gateway has written for the recording."""
    removed: RemovalReason | None = None
    parts: dict[int, IndexedPart] = field(default_factory=dict)


def read_index(lines: Iterable[Line]) -> dict[str, IndexedRecording]:
    """Return what the lines of all chains say about each recording, by its ID."""
    found: dict[str, IndexedRecording] = {}
    for line in sorted(lines, key=lambda one: one.at):
        match line.fields:
            case {"recording": str(recording), **fields}:
                _apply(found.setdefault(recording, IndexedRecording()), line.event, fields)
            case _:
                continue  # a line about the chain itself
    return found


def _apply(indexed: IndexedRecording, event: str, fields: dict[str, Any]) -> None:
    match event, fields:
        case "recording_opened", {"details": str(details_hash), "keys": str(keys_hash)}:
            indexed.details_hash, indexed.removed = details_hash, None
            indexed.keys_hashes.add(keys_hash)
        case "keys_rewrapped", {"keys": str(keys_hash)}:
            indexed.keys_hashes.add(keys_hash)
        case "part_opened", {"part": int(part), "header": str(header_hash)}:
            # Hosts' clocks differ, so it may come after the line of the closed part.
            indexed.parts.setdefault(part, IndexedPart()).header_hash = header_hash
        case (
            "part_closed",
            {
                "part": int(part),
                "file": str(file_hash),
                "frame": str(frame_hash),
                "cut": bool(cut),
                "blocks": int(blocks),
                "tag": str(tag),
            },
        ):
            closed = indexed.parts.setdefault(part, IndexedPart())
            closed.file_hash, closed.frame_hash, closed.cut = file_hash, frame_hash, cut
            closed.was_whole = closed.was_whole or not cut
            content = OpenedContent(blocks, tag)
            closed.was_changed = closed.lacks_blocks(content)
            if not closed.was_changed:
                closed.opened = content
        case "recording_removed", {"reason": str(reason)}:
            indexed.removed = RemovalReason(reason)
        case _:
            pass
