"""What outlives the process in a file that is only ever replaced as a whole (ports.KeptFile)."""

import asyncio
import os
from logging import Logger
from pathlib import Path


class FileOnDisk:
    def __init__(self, file: Path, log: Logger, *, failed: str, mode: int) -> None:
        """`failed` is the event that is logged where the disk does not take it."""
        self._file = file
        self._log = log
        self._failed = failed
        self._mode = mode

    def load(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:
            return None

    async def save(self, text: bytes) -> None:
        try:
            await asyncio.to_thread(self._write, text)
        except OSError as error:
            told = {"file": self._file.name, "error": error.strerror}
            self._log.warning(self._failed, extra=told)

    def _write(self, text: bytes) -> None:
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, self._mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            os.fsync(file.fileno())
        new.replace(self._file)
