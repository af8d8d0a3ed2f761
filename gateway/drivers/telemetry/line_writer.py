"""Writes lines to a descriptor such as stdout, which other processes share and may block."""

import errno
import os
import select
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from threading import Event, Thread

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_BATCH_INTERVAL_S = 0.05
_BUFFERED_LINES_MAX = 10_000
_BATCH_LINES_MAX = 1_000
_FLUSH_TIMEOUT_S = 2.0


class LineDescriptor:
    """Writes whole lines: lines of several processes do not mix.

    After a partly written line the next write starts with a newline.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        # A write of up to PIPE_BUF bytes to a pipe is atomic (POSIX, write()).
        self._piece_max = 2**31 - 1 if stat.S_ISREG(mode) else select.PIPE_BUF
        self._never_blocks = stat.S_ISREG(mode)
        self._supports_nowait = stat.S_ISFIFO(mode) and _NOWAIT != 0
        self._is_torn = False

    def write(self, lines: Iterable[bytes]) -> None:
        """Write all lines; may block. When it raises OSError, some lines may have been written."""
        self.finish(self._pieces(lines))

    def begin(self, lines: Iterable[bytes]) -> list[bytes]:
        """Write without blocking; return the remaining pieces for `finish`. Raises OSError."""
        remaining = self._pieces(lines)
        while remaining and (written := self._write_nonblocking(remaining[0])):
            remaining[0] = remaining[0][written:]
            self._is_torn = bool(remaining[0])
            if not remaining[0]:
                del remaining[0]
        return remaining

    def finish(self, pieces: Iterable[bytes]) -> None:
        """Write the pieces that `begin` returned; may block. Raises OSError."""
        for piece in pieces:
            remaining = piece
            while remaining:
                remaining = remaining[os.write(self._descriptor, remaining) :]
                self._is_torn = bool(remaining)

    def _write_nonblocking(self, piece: bytes) -> int:
        """Return the number of written bytes; 0 if the write would block or might block."""
        if self._never_blocks:
            return os.write(self._descriptor, piece)
        if self._supports_nowait:
            try:
                return os.pwritev(self._descriptor, [piece], -1, _NOWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._supports_nowait = False
        return 0

    def _pieces(self, lines: Iterable[bytes]) -> list[bytes]:
        if self._is_torn:
            lines = [b"\n", *lines]
        return [*_pieces(lines, self._piece_max)]


def _pieces(lines: Iterable[bytes], bytes_max: int) -> Iterator[bytes]:
    """Join lines into pieces of up to `bytes_max`; a longer line is a piece by itself."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > bytes_max:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield b"".join(piece)


class LineWriter:
    """Buffers lines and writes them in batches from a thread; callers never block.

    Lines are dropped and counted while the buffer is full.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = LineDescriptor(descriptor)
        self._buffer: deque[bytes] = deque()
        self._filled = Event()
        self._hurry = Event()
        self._ending = self._ended = False
        self._dropped = 0
        self._thread = Thread(target=self._write, name="lines", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._dropped

    def write(self, line: bytes, *, hurry: bool = False) -> None:
        """Add the line to the next batch; `hurry` starts the batch now."""
        if self._ended:
            self._descriptor.write([line])
        elif len(self._buffer) >= _BUFFERED_LINES_MAX:
            self._dropped += 1
        else:
            self._buffer.append(line)
            if hurry:
                self._hurry.set()
            if not self._filled.is_set():
                self._filled.set()

    def write_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Flush the buffer, for at most 2 s; later lines are written synchronously."""
        self._ending = True
        self._hurry.set()
        self._filled.set()
        self._thread.join(_FLUSH_TIMEOUT_S)
        self._ended = not self._thread.is_alive()

    def _write(self) -> None:
        while not self._ending or self._buffer:
            self._filled.wait()
            self._hurry.wait(_BATCH_INTERVAL_S)
            self._hurry.clear()
            self._filled.clear()
            while self._buffer:
                lines = [
                    self._buffer.popleft() for _ in range(min(len(self._buffer), _BATCH_LINES_MAX))
                ]
                try:
                    self._descriptor.write(lines)
                except OSError:
                    self._dropped += len(lines)
