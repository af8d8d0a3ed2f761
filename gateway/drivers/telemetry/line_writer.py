"""Lines to a descriptor, e.g. stdout, that others write to as well and whose reader may stall."""

import errno
import os
import select
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from threading import Event, Thread

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_TOGETHER_S = 0.05
_HELD_MAX = 10_000
_AT_ONCE_MAX = 1_000
_LAST_WORDS_WITHIN_S = 2.0


class LineDescriptor:
    """Keeps lines whole: other processes' stand before or after, and a torn one ends its line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        # A pipe takes so much as one piece, or waits until it can (POSIX, write()).
        self._piece_max = 2**31 - 1 if stat.S_ISREG(mode) else select.PIPE_BUF
        self._never_waits = stat.S_ISREG(mode)
        self._may_be_asked = stat.S_ISFIFO(mode) and _NOWAIT != 0
        self._is_torn = False

    def write(self, lines: Iterable[bytes]) -> None:
        """Write all; it may block. When it raises OSError, some of them may be written."""
        self.finish(self._pieces(lines))

    def begin(self, lines: Iterable[bytes]) -> list[bytes]:
        """Write what goes without waiting, return what is left for `finish`; raise OSError."""
        left = self._pieces(lines)
        while left and (written := self._write_now(left[0])):
            left[0] = left[0][written:]
            self._is_torn = bool(left[0])
            if not left[0]:
                del left[0]
        return left

    def finish(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            left = piece
            while left:
                left = left[os.write(self._descriptor, left) :]
                self._is_torn = bool(left)

    def _write_now(self, piece: bytes) -> int:
        """Return how much was written; 0: it would wait, or this cannot be known."""
        if self._never_waits:
            return os.write(self._descriptor, piece)
        if self._may_be_asked:
            try:
                return os.pwritev(self._descriptor, [piece], -1, _NOWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._may_be_asked = False
        return 0

    def _pieces(self, lines: Iterable[bytes]) -> list[bytes]:
        if self._is_torn:
            lines = [b"\n", *lines]
        return [*_pieces(lines, self._piece_max)]


def _pieces(lines: Iterable[bytes], bytes_max: int) -> Iterator[bytes]:
    """Put whole lines together; one that is longer stands alone."""
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
    """Writes lines soon, many at once, from a thread of its own, so that nobody waits for a reader.

    What comes while too many are held is dropped.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = LineDescriptor(descriptor)
        self._held: deque[bytes] = deque()
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
        """Write it with those of the next moment, or as soon as can be."""
        if self._ended:
            self._descriptor.write([line])
        elif len(self._held) >= _HELD_MAX:
            self._dropped += 1
        else:
            self._held.append(line)
            if hurry:
                self._hurry.set()
            if not self._filled.is_set():
                self._filled.set()

    def write_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Write what is held, if that is possible at once; later lines are written as they come."""
        self._ending = True
        self._hurry.set()
        self._filled.set()
        self._thread.join(_LAST_WORDS_WITHIN_S)
        self._ended = not self._thread.is_alive()

    def _write(self) -> None:
        while not self._ending or self._held:
            self._filled.wait()
            self._hurry.wait(_TOGETHER_S)
            self._hurry.clear()
            self._filled.clear()
            while self._held:
                lines = [self._held.popleft() for _ in range(min(len(self._held), _AT_ONCE_MAX))]
                try:
                    self._descriptor.write(lines)
                except OSError:
                    self._dropped += len(lines)
