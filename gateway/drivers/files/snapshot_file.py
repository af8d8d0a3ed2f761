"""What outlives the process in a file that is only ever replaced as a whole (ports.KeptFile)."""

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Final

from gateway.drivers.files.durable import sync_directory

_HANGS_AFTER_S: Final = 2.0


class AtomicSnapshotFile:
    def __init__(self, file: Path, log: Logger, *, mode: int) -> None:
        self._file = file
        self._log = log
        self._mode = mode
        # A disk that hangs takes none of the threads that everything else is read in.
        self._thread = ThreadPoolExecutor(1, "kept file")

    def load(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:
            return None

    async def save(self, made_of: Callable[[bytes | None], bytes]) -> None:
        saving = asyncio.get_running_loop().run_in_executor(self._thread, self._replace, made_of)
        done, _ = await asyncio.wait({saving}, timeout=_HANGS_AFTER_S)
        if not done:
            self._tell("the disk hangs, or who has locked the file does")
        try:
            await saving
        except OSError as error:
            self._tell(error.strerror)

    def _tell(self, error: str | None) -> None:
        self._log.warning("snapshot_write_failed", extra={"file": self._file.name, "error": error})

    def _replace(self, made_of: Callable[[bytes | None], bytes]) -> None:
        with self._alone():
            text = made_of(self.load())
            new = self._beside(secrets.token_hex(8))
            try:
                self._write(new, text)
                new.replace(self._file)
            finally:
                new.unlink(missing_ok=True)
            sync_directory(self._file.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out other workers, and this one's other threads; the kernel lets go of the dead."""
        descriptor = os.open(self._beside("lock"), os.O_RDWR | os.O_CREAT, self._mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, new: Path, text: bytes) -> None:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _beside(self, what: str) -> Path:
        return self._file.with_name(f".{self._file.name}.{what}")
