"""Log lines to a descriptor, many in one write, so that a request does not pay a system call."""

import asyncio
import os

_FLUSH_AFTER_S = 0.05


class LineWriter:
    """Collects whole lines and writes them soon; `flush` at the end loses none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        data, self._lines = b"".join(self._lines), []
        while data:
            data = data[os.write(self._descriptor, data) :]
