"""An inventory in a file, for `explain` and for a start without the cloud (ports.InventoryFile)."""

import asyncio
import logging
import os
import zlib
from pathlib import Path

log = logging.getLogger("gateway.inventory")


class KeptFile:
    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> bytes | None:
        try:
            return zlib.compress(self._file.read_bytes(), 1)
        except OSError:
            return None

    async def save(self, value: bytes) -> None:
        try:
            await asyncio.to_thread(self._write, zlib.decompress(value))
        except OSError as error:
            log.warning("inventory_not_kept", extra={"error": error.strerror})

    def _write(self, text: bytes) -> None:
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        new.write_bytes(text)
        new.replace(self._file)
