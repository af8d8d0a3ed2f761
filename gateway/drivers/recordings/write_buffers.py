"""Memory in which a thread encodes and encrypts what it writes."""

from typing import Final

_FIRST_BYTES: Final = 65_536
_REUSED_BYTES_MAX: Final = 1_048_576


class ReusedBuffer:
    """Memory that is used again: new memory costs a page fault for each of its pages."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray(_FIRST_BYTES))

    def take(self, size: int) -> memoryview:
        """Return memory with any content; it is the caller's until the next call."""
        if size > _REUSED_BYTES_MAX:
            return memoryview(bytearray(size))
        if size > len(self._memory):
            self._memory = memoryview(bytearray(max(size, 2 * len(self._memory))))
        return self._memory[:size]


class WriteBuffers:
    """The memory of one thread."""

    def __init__(self) -> None:
        self.plain = ReusedBuffer()
        self.sealed = ReusedBuffer()
