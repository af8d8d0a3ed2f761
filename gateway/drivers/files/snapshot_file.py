"""A file that is replaced atomically, for state that outlives the process (port `SnapshotFile`)."""

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

_SLOW_AFTER_S: Final = 2.0


class AtomicSnapshotFile:
    """Reads and replaces one file; write errors are logged to `log` and not raised."""

    def __init__(self, file: Path, log: Logger, *, mode: int) -> None:
        self._file = file
        self._log = log
        self._mode = mode
        # A thread of its own: a hung disk must not block the threads of other reads.
        self._thread = ThreadPoolExecutor(1, "snapshot file")

    def load(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:
            return None

    async def save(self, update: Callable[[bytes | None], bytes]) -> None:
        saving = asyncio.get_running_loop().run_in_executor(self._thread, self._replace, update)
        done, _ = await asyncio.wait({saving}, timeout=_SLOW_AFTER_S)
        if not done:
            self._report(
                f"not written after {_SLOW_AFTER_S} s: the disk or the holder of the lock hangs"
            )
        try:
            await saving
        except OSError as error:
            self._report(error.strerror)

    def _report(self, error: str | None) -> None:
        self._log.warning("snapshot_write_failed", extra={"file": self._file.name, "error": error})

    def _replace(self, update: Callable[[bytes | None], bytes]) -> None:
        with self._locked():
            text = update(self.load())
            new = self._sibling(secrets.token_hex(8))
            try:
                self._write(new, text)
                new.replace(self._file)
            finally:
                new.unlink(missing_ok=True)
            sync_directory(self._file.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes and threads; the kernel releases the lock of a dead process."""
        descriptor = os.open(self._sibling("lock"), os.O_RDWR | os.O_CREAT, self._mode)
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

    def _sibling(self, suffix: str) -> Path:
        return self._file.with_name(f".{self._file.name}.{suffix}")
