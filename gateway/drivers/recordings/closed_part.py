"""A closed part of a recording: compressed chunks with a time index. Everything here blocks."""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import orjson
import zstandard
from cryptography.exceptions import InvalidTag

from gateway.domain.recordings.index_lines import OpenedContent
from gateway.domain.recordings.model import ChunkTimes
from gateway.domain.recordings.part_format import (
    BLOCK_BYTES_MAX,
    BLOCK_HEADER,
    CHUNK_BYTES,
    CHUNK_MS,
    HEADER_BYTES_MAX,
    MARKS_BYTES_MAX,
    PLAIN_BYTES_MAX,
    TAG_BYTES,
    BlockOpener,
    BlockSealer,
    IndexEntry,
    PartFooter,
    PartHeader,
    Stream,
    TimeIndex,
    decode_index,
    mark_size,
    parse_header,
)
from gateway.domain.recordings.records import Record, RecordKind, decode_records, encode_records
from gateway.drivers.audit.file_store import sync
from gateway.drivers.recordings.open_part import OpenPartReader, PartChanged
from gateway.drivers.recordings.recording_directory import read_footer
from gateway.drivers.recordings.recording_keys import DataKeys

_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class WrittenPart:
    hash: str
    frame_hash: str
    footer: PartFooter
    opened: OpenedContent


def write_closed_part(open_part: Path, new: Path, keys: DataKeys) -> WrittenPart:
    """Write the records of an open part as a closed one, durably, to the file `new`.

    Raises OSError, ValueError, and PartChanged; then there is no file `new`.
    """
    fd = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        with open_part.open("rb") as opened:
            reader = OpenPartReader(opened, keys)
            header = replace(reader.header, salt=secrets.token_hex(16), is_closed=True)
            writer = _ClosedPartWriter(fd, header, keys)
            for block in reader.blocks():
                for record in decode_records(block.plain or b""):
                    writer.add(block.stream, record)
            # The index counts the blocks: a power failure must not take one of them later.
            sync(opened.fileno())
        written = writer.finish(reader.content)
        sync(fd)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return written


class _ClosedPartWriter:
    def __init__(self, fd: int, header: PartHeader, keys: DataKeys) -> None:
        self._fd = fd
        self._started_at = header.started_at
        self._hash = sha256()
        self._offset = 0
        self._header = header.encode()
        self._sealer = BlockSealer(self._header, keys.ciphers(header.salt))
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._chunks: dict[Stream, list[Record]] = {Stream.SCREEN: [], Stream.KEYSTROKES: []}
        self._sizes = dict.fromkeys(self._chunks, 0)
        self._entries: list[IndexEntry] = []
        self._marks: list[Record] = []
        self._marks_size = 0
        self._omitted_marks = 0
        self._last_ms = 0
        self._end: dict[str, Any] | None = None
        self._write(self._header)

    def add(self, stream: Stream, record: Record) -> None:
        chunk = self._chunks[stream]
        is_late = bool(chunk) and record.at_ms - chunk[0].at_ms >= CHUNK_MS
        if is_late or self._sizes[stream] >= CHUNK_BYTES:
            self._flush(stream)
        self._chunks[stream].append(record)
        self._sizes[stream] += len(record.payload)
        self._last_ms = max(self._last_ms, record.at_ms)
        if record.kind not in (RecordKind.SCREEN, RecordKind.KEY):
            self._add_mark(record)
        if record.kind is RecordKind.END:
            self._end = orjson.loads(record.payload)

    def finish(self, opened: OpenedContent) -> WrittenPart:
        for stream in self._chunks:
            self._flush(stream)
        footer = PartFooter(
            ended_at=self._started_at + self._last_ms / 1000,
            end="" if self._end is None else self._end["end"],
            cut=self._end is None,
            index=self._offset,
            blocks=len(self._entries),
            omitted_marks=self._omitted_marks,
        )
        index = TimeIndex(self._entries, self._marks).encode()
        tail = self._sealer.seal(Stream.INDEX, index) + footer.encode()
        self._write(tail)
        frame = sha256(self._header + tail)
        return WrittenPart(self._hash.hexdigest(), frame.hexdigest(), footer, opened)

    def _add_mark(self, record: Record) -> None:
        """Add a mark to the time index, which must stay short enough to be read again."""
        size = mark_size(record)
        if record.kind is not RecordKind.END and self._marks_size + size > MARKS_BYTES_MAX:
            self._omitted_marks += 1
            return
        self._marks_size += size
        self._marks.append(record)

    def _flush(self, stream: Stream) -> None:
        records = self._chunks[stream]
        if not records:
            return
        plain = encode_records(records)
        entry = IndexEntry(self._offset, records[0].at_ms, records[-1].at_ms, len(plain), stream)
        self._entries.append(entry)
        self._write(self._sealer.seal(stream, self._compressor.compress(plain)))
        self._chunks[stream], self._sizes[stream] = [], 0

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._offset += len(data)
        while data:
            data = data[os.write(self._fd, data) :]


class ClosedPart:
    """Reads a closed part; raises PartChanged where the file is not authentic."""

    def __init__(self, file: Path, keys: DataKeys) -> None:
        self._name = file.name
        self._has_keys = keys.keystrokes is not None
        self._file = file.open("rb")
        try:
            line = self._file.readline(HEADER_BYTES_MAX)
            self.header = parse_header(line)
            self.footer = read_footer(file)
            self._opener = BlockOpener(line, keys.ciphers(self.header.salt))
            footer = self.footer
            index = self._read_block(footer.blocks, footer.index, Stream.INDEX)
            decoded = decode_index(index)
            self._entries, self.marks = decoded.entries, tuple(decoded.marks)
        except ValueError as error:
            self._file.close()
            raise PartChanged(f"{file.name} {error}") from None
        except BaseException:
            self._file.close()
            raise
        self._screen = self._numbers(Stream.SCREEN)
        self._keystrokes = self._numbers(Stream.KEYSTROKES)

    @property
    def chunks(self) -> tuple[ChunkTimes, ...]:
        """The chunks of the screen and its markers."""
        entries = (self._entries[number] for number in self._screen)
        return tuple(ChunkTimes(one.first_ms, one.last_ms, one.plain_bytes) for one in entries)

    @property
    def keystroke_chunks(self) -> int:
        return len(self._keystrokes)

    def chunk(self, index: int) -> bytes:
        """Return the encoded records of a chunk of the screen."""
        return self._read_chunk(self._screen[index])

    def keystrokes(self, index: int) -> bytes:
        """Return the encoded records of a chunk of keys; b"" without their key."""
        number = self._keystrokes[index]
        return self._read_chunk(number) if self._has_keys else b""

    def records(self) -> Iterator[Record]:
        """Yield the records of the screen and its markers."""
        for index in range(len(self._screen)):
            yield from decode_records(self.chunk(index))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _numbers(self, stream: Stream) -> list[int]:
        return [number for number, one in enumerate(self._entries) if one.stream is stream]

    def _read_chunk(self, number: int) -> bytes:
        entry = self._entries[number]
        compressed = self._read_block(number, entry.offset, entry.stream)
        try:
            return zstandard.ZstdDecompressor().decompress(
                compressed, max_output_size=PLAIN_BYTES_MAX
            )
        except zstandard.ZstdError:
            raise PartChanged(f"{self._name}: chunk {number} cannot be decompressed") from None

    def _read_block(self, number: int, offset: int, stream: Stream) -> bytes:
        problem = PartChanged(f"{self._name}: block {number} is not authentic")
        self._file.seek(max(0, offset - TAG_BYTES))
        tag_before = self._file.read(TAG_BYTES)
        head = self._file.read(BLOCK_HEADER.size)
        if len(head) < BLOCK_HEADER.size:
            raise problem
        size, kind = BLOCK_HEADER.unpack(head)
        if not TAG_BYTES <= size <= BLOCK_BYTES_MAX or kind != stream:
            raise problem
        try:
            plain = self._opener.open(number, stream, tag_before, self._file.read(size))
        except InvalidTag:
            raise problem from None
        assert plain is not None, "the caller has the key of this stream"
        return plain
