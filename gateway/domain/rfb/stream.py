"""Runs a parser over bytes that arrive in pieces of any size. Pure."""

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pass:
    """The next `count` bytes pass unread."""

    count: int


@dataclass(frozen=True, slots=True)
class Skip:
    """The next `count` bytes are removed unread."""

    count: int


Parser = Generator[int | Pass | Skip, bytes, None]
"""Yields what to do with the next bytes; an integer reads that many and sends them in.

A parser reads only what it inspects, in steps of bounded size. It never stores the rest, so memory
is bounded by its largest step.
"""


class ParsedStream:
    """Feeds a parser; the parser adds to `output`, in order with what passes unread."""

    def __init__(self) -> None:
        self.output = bytearray()
        """What passes on: emptied by each `feed`."""
        self._input = bytearray()
        self._parser: Parser | None = None
        self._step: int | Pass | Skip = 0
        self._rest = 0
        """Bytes that the current step still needs."""

    def start(self, parser: Parser) -> None:
        self._parser = parser
        self._take(next(parser))

    def feed(self, data: bytes) -> bytes:
        """Return the bytes that pass on because of `data`.

        Raises:
            RfbViolation: of the parser. The stream must not be used afterwards.

        """
        source, start = self._input, 0
        source += data
        while start < len(source) or self._rest == 0:
            if isinstance(self._step, int):
                if len(source) - start < self._rest:
                    break
                end = start + self._rest
                self._send(bytes(source[start:end]))
            else:
                end = start + min(self._rest, len(source) - start)
                if isinstance(self._step, Pass):
                    self.output += source[start:end]
                self._rest -= end - start
                if self._rest == 0:
                    self._send(b"")
            start = end
        del source[:start]
        passed = bytes(self.output)
        self.output.clear()
        return passed

    def _send(self, piece: bytes) -> None:
        assert self._parser is not None
        self._take(self._parser.send(piece))

    def _take(self, step: int | Pass | Skip) -> None:
        self._step = step
        self._rest = step if isinstance(step, int) else step.count
