"""An open part of a recording: append-only, encrypted, locked by the process that writes it.

Everything here blocks and raises OSError.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from cryptography.exceptions import InvalidTag

from gateway.domain.recordings.index_lines import OpenedContent
from gateway.domain.recordings.part_format import (
    BLOCK_BYTES_MAX,
    BLOCK_HEADER,
    HEADER_BYTES_MAX,
    TAG_BYTES,
    BlockOpener,
    BlockSealer,
    PartHeader,
    Stream,
    block_size,
    parse_header,
)
from gateway.domain.recordings.records import (
    Record,
    RecordKind,
    encode_records_into,
    records_size,
)
from gateway.drivers.audit.directory import is_file_at
from gateway.drivers.audit.file_store import sync
from gateway.drivers.files.durable import sync_directory
from gateway.drivers.recordings.recording_directory import open_file, part_files
from gateway.drivers.recordings.recording_keys import DataKeys
from gateway.drivers.recordings.write_buffers import WriteBuffers


class PartChanged(Exception):
    """A block is not authentic: the file was changed, or it is another recording's."""


class PartFileMissing(OSError):
    """Another program has removed or replaced the file."""


class OpenPart:
    """Written by one thread at a time; another may close it.

    An error of a write is final: the file may end within a block, and a block after that would
    read as a change of the file.
    """

    def __init__(self, file: Path, fd: int, header: PartHeader, keys: DataKeys) -> None:
        self.file = file
        self.header = header
        self._fd = fd
        self._guard = Lock()
        """Of the next three; never locked during a call of the operating system that may block."""
        self._is_writing = False
        self._is_closed = False
        self._has_failed = False
        self._sealer = BlockSealer(header.encode(), keys.ciphers(header.salt))
        self._records_keys = keys.keystrokes is not None

    @property
    def header_hash(self) -> str:
        return sha256(self.header.encode()).hexdigest()

    def append(self, records: Sequence[Record], buffers: WriteBuffers | None = None) -> int:
        """Write the records; return the bytes when the operating system has accepted them.

        `buffers`: of the thread, if it has some. Raises OSError; also after an error of an earlier
        call, and when the part is closed.
        """
        with self._guard:
            if self._is_closed or self._has_failed:
                raise OSError(errno.EIO, "an earlier write has failed, or the part is closed")
            self._is_writing = True
        try:
            return self._append(records, buffers or WriteBuffers())
        except Exception:
            self._has_failed = True
            raise
        finally:
            self._end_write()

    def _end_write(self) -> None:
        with self._guard:
            self._is_writing = False
            is_closed = self._is_closed
        if is_closed:
            self._release()

    def _append(self, records: Sequence[Record], buffers: WriteBuffers) -> int:
        screen = [one for one in records if one.kind is not RecordKind.KEY]
        keys = [one for one in records if one.kind is RecordKind.KEY and self._records_keys]
        streams = [
            (stream, found, records_size(found))
            for stream, found in ((Stream.SCREEN, screen), (Stream.KEYSTROKES, keys))
            if found
        ]
        data = buffers.sealed.take(sum(block_size(size) for _, _, size in streams))
        begin = 0
        for stream, found, size in streams:
            plain, end = buffers.plain.take(size), begin + block_size(size)
            encode_records_into(found, plain)
            self._sealer.seal_into(stream, plain, data[begin:end])
            begin = end
        _write(self._fd, data)
        return len(data)

    def sync(self) -> None:
        sync(self._fd)

    def check(self) -> None:
        """Raise PartFileMissing if the path does not lead to this file any more."""
        if not is_file_at(self.file, os.fstat(self._fd)):
            raise PartFileMissing(0, "the file was removed or replaced")

    def close(self) -> None:
        """Release the file and its lock; a write that has not returned releases them when it does.

        Its file descriptor must not be used again before: the rest of a short write would go to
        another file.
        """
        with self._guard:
            self._is_closed = True
            is_writing = self._is_writing
        if not is_writing:
            self._release()

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_part(
    path: Path, recording: str, keys: DataKeys, *, started_at: float, host: str
) -> OpenPart:
    """Create the next part in the directory of a recording; return when it is durable."""
    number, file, fd = _create_locked_file(path)
    try:
        header = PartHeader(recording, number, secrets.token_hex(16), started_at, host)
        _write(fd, header.encode())
        sync(fd)
        sync_directory(path)
    except OSError:
        os.close(fd)
        file.unlink(missing_ok=True)
        raise
    return OpenPart(file, fd, header, keys)


def _create_locked_file(path: Path) -> tuple[int, Path, int]:
    """Create the file of the next part; return its number, path and file descriptor.

    Before the lock, a recovery may take the file for one that a dead process has left, and remove
    it. Those who only look at it release their lock at once.
    """
    while True:
        number, file, fd = _create_file(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            is_linked = os.fstat(fd).st_nlink > 0
        except OSError:
            os.close(fd)
            file.unlink(missing_ok=True)
            raise
        if is_linked:
            return number, file, fd
        os.close(fd)


def _create_file(path: Path) -> tuple[int, Path, int]:
    number = max((one.number for one in part_files(path)), default=0) + 1
    while True:
        file = open_file(path, number)
        try:
            return (
                number,
                file,
                os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600),
            )
        except FileExistsError:  # by another process, for a newer connection of the page
            number += 1


@dataclass(slots=True)
class Block:
    stream: Stream
    plain: bytes | None
    """None without the key of its stream."""


class OpenPartReader:
    """Reads the blocks of an open part.

    `detail` says afterwards where a crash has cut it, and `content` what was read.
    """

    def __init__(self, file: BinaryIO, keys: DataKeys) -> None:
        """Raise ValueError if the file has no header."""
        line = file.readline(HEADER_BYTES_MAX)
        self.header = parse_header(line)
        self.detail = ""
        self.content = OpenedContent(0, "")
        self._file = file
        self._opener = BlockOpener(line, keys.ciphers(self.header.salt))

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks up to the end, or to the place of the cut; raise PartChanged."""
        number, tag = 0, bytes(TAG_BYTES)
        while True:
            offset = self._file.tell()
            head = self._file.read(BLOCK_HEADER.size)
            if not head.strip(b"\0") and self._is_rest_empty():
                self.detail = f"{offset}: zeros follow" if head else ""
                return
            if len(head) < BLOCK_HEADER.size:
                self.detail = f"{offset}: ends within a block"
                return
            size, kind = BLOCK_HEADER.unpack(head)
            if not TAG_BYTES <= size <= BLOCK_BYTES_MAX or kind not in tuple(Stream):
                raise PartChanged(f"{offset}: no block begins here")
            sealed = self._file.read(size)
            if len(sealed) < size:
                self.detail = f"{offset}: ends within a block"
                return
            stream = Stream(kind)
            try:
                plain = self._opener.open(number, stream, tag, sealed)
            except InvalidTag:
                if not sealed[-TAG_BYTES:].strip(b"\0") and self._is_rest_empty():
                    self.detail = f"{offset}: zeros follow"
                    return
                raise PartChanged(f"{offset}: the block is not authentic") from None
            number, tag = number + 1, sealed[-TAG_BYTES:]
            self.content = OpenedContent(number, tag.hex())
            yield Block(stream, plain)

    def _is_rest_empty(self) -> bool:
        """Return whether only zeros follow: a file system may leave them after a power failure."""
        while data := self._file.read(1 << 20):
            if data.strip(b"\0"):
                return False
        return True


def _write(fd: int, data: bytes | memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
