"""The files of a part: a header line, then encrypted blocks. Pure: it takes the ciphers.

The header line is JSON in clear text. A block is the length of its ciphertext (4 bytes), its stream
(1 byte) and the ciphertext with its tag (AES-256-GCM). The nonce is the number of the block; each
part has keys of its own. A block also authenticates the header line and the tag of the previous
block, so blocks cannot be changed, reordered, removed from the middle or moved to another part.

While it is written, a part is open: each block has the records that were written together. A closed
part has compressed chunks of records; its last block is the time index. The footer after it is JSON
in clear text again: why the part ended, and the offset of the index.
"""

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final, Protocol

import orjson

from gateway.domain.recordings.records import Record, RecordKind

FORMAT: Final = "console-gateway-recording/1"
HEADER_BYTES_MAX: Final = 4_096
BLOCK_BYTES_MAX: Final = 8 * 1024 * 1024
PLAIN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a decompressed chunk."""
BLOCK_HEADER: Final = struct.Struct(">IB")
TAG_BYTES: Final = 16
_NO_TAG: Final = bytes(TAG_BYTES)
_TRAILER: Final = struct.Struct(">I8s")
"""Length of the footer, and `_MAGIC`."""
_MAGIC: Final = b"CGRECEND"
TRAILER_BYTES: Final = _TRAILER.size
FOOTER_BYTES_MAX: Final = 4_096
CHUNK_BYTES: Final = 1_048_576
"""A chunk is complete when it has this many bytes of records, or records of `CHUNK_MS`."""
CHUNK_MS: Final = 10_000
MARKS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of the marks in a time index, as JSON."""


class Stream(IntEnum):
    """What a block contains, which decides on its key."""

    SCREEN = ord("s")
    KEYSTROKES = ord("k")
    INDEX = ord("i")
    """With the key of SCREEN."""


class BlockCipher(Protocol):
    """AES-256-GCM with the key of one part and stream."""

    def encrypt_into(
        self, nonce: bytes, data: bytes | memoryview, associated_data: bytes, buf: memoryview
    ) -> int: ...
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """Raise an exception if the data is not authentic."""


Ciphers = Mapping[Stream, BlockCipher]
"""A reader may lack the cipher of the keystrokes."""


@dataclass(frozen=True, slots=True)
class PartHeader:
    """The first line of a part's file."""

    recording: str
    part: int
    salt: str
    """16 random bytes in hexadecimal; the part's keys are derived from them and the data key."""
    started_at: float
    host: str
    is_closed: bool = False

    def encode(self) -> bytes:
        fields = {"format": FORMAT, **asdict(self)}
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def parse_header(line: bytes) -> PartHeader:
    """Raise ValueError if the line is no header of this format."""
    try:
        fields = orjson.loads(line)
        if fields.pop("format") != FORMAT:
            raise ValueError("has a format of another release")
        header = PartHeader(**fields)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise ValueError("does not begin like a part of a recording") from None
    if header.encode() != line:
        raise ValueError("begins with a line that the gateway does not write")
    return header


def block_size(plain_bytes: int) -> int:
    """Return the bytes of a block in the file."""
    return BLOCK_HEADER.size + plain_bytes + TAG_BYTES


class BlockSealer:
    """Encrypts the blocks of one part, in order. After a failed write it must not be used again."""

    def __init__(self, header_line: bytes, ciphers: Ciphers) -> None:
        self._header_hash = sha256(header_line).digest()
        self._ciphers = ciphers
        self._number = 0
        self._tag = _NO_TAG

    def seal(self, stream: Stream, plain: bytes) -> bytes:
        block = bytearray(block_size(len(plain)))
        self.seal_into(stream, plain, memoryview(block))
        return bytes(block)

    def seal_into(self, stream: Stream, plain: bytes | memoryview, out: memoryview) -> None:
        """Write a block; `out` has its `block_size`, and is not `plain`."""
        if len(plain) > BLOCK_BYTES_MAX - TAG_BYTES:
            raise ValueError("a block is too long to be read again")
        nonce, bound = _bound(self._header_hash, self._number, stream, self._tag)
        BLOCK_HEADER.pack_into(out, 0, len(plain) + TAG_BYTES, stream)
        sealed = out[BLOCK_HEADER.size :]
        self._ciphers[_key_of(stream)].encrypt_into(nonce, plain, bound, sealed)
        self._number += 1
        self._tag = bytes(sealed[-TAG_BYTES:])


class BlockOpener:
    """Decrypts the blocks of one part, in order or each by its number."""

    def __init__(self, header_line: bytes, ciphers: Ciphers) -> None:
        self._header_hash = sha256(header_line).digest()
        self._ciphers = ciphers

    def open(self, number: int, stream: Stream, tag_before: bytes, sealed: bytes) -> bytes | None:
        """Return the plain bytes; None without the stream's cipher.

        `tag_before`: the last bytes of the previous block; any bytes for the first block. Raises
        an exception of the cipher if the block is not authentic.
        """
        cipher = self._ciphers.get(_key_of(stream))
        if cipher is None:
            return None
        tag = tag_before if number else _NO_TAG
        nonce, bound = _bound(self._header_hash, number, stream, tag)
        return cipher.decrypt(nonce, sealed, bound)


def _key_of(stream: Stream) -> Stream:
    return Stream.SCREEN if stream is Stream.INDEX else stream


def _bound(header_hash: bytes, number: int, stream: Stream, tag: bytes) -> tuple[bytes, bytes]:
    nonce = number.to_bytes(12, "big")
    return nonce, b"%b%b%c%b" % (header_hash, nonce, stream, tag)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A chunk of a closed part; the entries are in the order of the blocks."""

    offset: int
    """Of the block in the file."""
    first_ms: int
    last_ms: int
    plain_bytes: int
    stream: Stream


@dataclass(frozen=True, slots=True)
class TimeIndex:
    """The last block of a closed part."""

    entries: list[IndexEntry]
    marks: list[Record]
    """Records but screen data and keys, so that a player need not read the part for them."""

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "chunks": [
                    [one.offset, one.first_ms, one.last_ms, one.plain_bytes, one.stream]
                    for one in self.entries
                ],
                "marks": [_mark(one) for one in self.marks],
            }
        )


def mark_size(mark: Record) -> int:
    """Return the bytes that a mark takes in a time index."""
    return len(orjson.dumps(_mark(mark))) + 1


def _mark(record: Record) -> tuple[int, int, str]:
    return record.at_ms, record.kind, record.payload.decode()


def decode_index(data: bytes) -> TimeIndex:
    fields = orjson.loads(data)
    return TimeIndex(
        [
            IndexEntry(offset, first_ms, last_ms, plain_bytes, Stream(stream))
            for offset, first_ms, last_ms, plain_bytes, stream in fields["chunks"]
        ],
        [
            Record(at_ms, RecordKind(kind), payload.encode())
            for at_ms, kind, payload in fields["marks"]
        ],
    )


@dataclass(frozen=True, slots=True)
class PartFooter:
    """The end of a closed part."""

    ended_at: float
    """Seconds since the epoch."""
    end: str
    """Name of the SessionEnd; "": the page's connection was lost, or `cut`."""
    cut: bool
    """The process that recorded it died."""
    index: int
    """Offset of the block with the time index."""
    blocks: int
    """Number of blocks before it."""
    omitted_marks: int = 0
    """Marks that the time index leaves out: it has the first `MARKS_BYTES_MAX` of them. The chunks
    have all of them."""

    def encode(self) -> bytes:
        footer = orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)
        return footer + _TRAILER.pack(len(footer), _MAGIC)


def footer_size(trailer: bytes) -> int:
    """Return the bytes of the footer, from the last `TRAILER_BYTES` of a file; raise ValueError."""
    if len(trailer) == TRAILER_BYTES:
        size, magic = _TRAILER.unpack(trailer)
        if magic == _MAGIC and size <= FOOTER_BYTES_MAX:
            return int(size)
    raise ValueError("does not end like a closed part of a recording")


def parse_footer(data: bytes) -> PartFooter:
    """Raise ValueError."""
    match orjson.loads(data):
        case {
            "ended_at": int() | float() as ended_at,
            "end": str(end),
            "cut": bool(cut),
            "index": int(index),
            "blocks": int(blocks),
            "omitted_marks": int(omitted_marks),
        }:
            return PartFooter(ended_at, end, cut, index, blocks, omitted_marks)
        case _:
            raise ValueError("does not end like a closed part of a recording")
