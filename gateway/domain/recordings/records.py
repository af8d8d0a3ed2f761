"""The records in a part of a recording: what happened, and when. Pure.

A record is a time in ms since the part's start (4 bytes), a kind (1 byte), a length (4 bytes) and
the payload; numbers are big-endian.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import orjson

_HEADER: Final = struct.Struct(">IBI")
_KEY: Final = struct.Struct(">BI")
_MS_MAX: Final = 0xFFFF_FFFF


class RecordKind(IntEnum):
    SCREEN = 1
    """Bytes that went to the browser: RFB from the server's first byte."""
    INPUT = 2
    """The person typed or moved the pointer; at most one a second, without content."""
    WATCHERS = 3
    """JSON list of those who watch: `subject`, `issuer`, `since`."""
    MODE = 4
    """The session's mode from now on."""
    END = 5
    """JSON object: `end` and `detail`. The last record of a part that no crash has cut."""
    KEY = 6
    """A key that went to the server: 1 byte down, 4 bytes keysym. In the keystrokes only."""


@dataclass(frozen=True, slots=True)
class Record:
    at_ms: int
    kind: RecordKind
    payload: bytes


def screen_record(at_ms: int, data: bytes) -> Record:
    return Record(at_ms, RecordKind.SCREEN, data)


def key_record(at_ms: int, keysym: int, *, is_down: bool) -> Record:
    return Record(at_ms, RecordKind.KEY, _KEY.pack(is_down, keysym))


def json_record(at_ms: int, kind: RecordKind, value: Any) -> Record:
    return Record(at_ms, kind, orjson.dumps(value))


def encode_records(records: Iterable[Record]) -> bytes:
    return b"".join(
        part
        for one in records
        for part in (
            _HEADER.pack(min(one.at_ms, _MS_MAX), one.kind, len(one.payload)),
            one.payload,
        )
    )


def records_size(records: Iterable[Record]) -> int:
    """Return the number of bytes that `encode_records` would write."""
    return sum(_HEADER.size + len(one.payload) for one in records)


def encode_records_into(records: Iterable[Record], out: memoryview) -> None:
    """Write what `encode_records` returns; `out` has `records_size` bytes."""
    at = 0
    for one in records:
        _HEADER.pack_into(out, at, min(one.at_ms, _MS_MAX), one.kind, len(one.payload))
        at += _HEADER.size
        out[at : at + len(one.payload)] = one.payload
        at += len(one.payload)


def decode_records(data: bytes) -> Iterator[Record]:
    """Yield the records; raise ValueError if `encode_records` did not write them."""
    offset = 0
    while offset < len(data):
        try:
            at_ms, kind, size = _HEADER.unpack_from(data, offset)
        except struct.error:
            raise ValueError("the data ends within a record") from None
        offset += _HEADER.size
        if offset + size > len(data):
            raise ValueError("the data ends within a record")
        yield Record(at_ms, RecordKind(kind), data[offset : offset + size])
        offset += size
