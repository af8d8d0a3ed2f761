"""What outlives the process in a file that is only ever replaced as a whole (ports.OrderFile)."""

import asyncio
import logging
import os
from pathlib import Path

log = logging.getLogger("gateway.orders")


class KeptFile:
    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:
            return None

    async def save(self, text: bytes) -> None:
        try:
            await asyncio.to_thread(self._write, text)
        except OSError as error:
            log.warning("not_kept", extra={"file": self._file.name, "error": error.strerror})

    def _write(self, text: bytes) -> None:
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(text)
            os.fsync(file.fileno())
        new.replace(self._file)
