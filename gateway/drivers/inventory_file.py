"""An inventory in a file, for `explain` and for a start without the cloud (ports.InventoryFile)."""

import asyncio
import logging
import os
from pathlib import Path

log = logging.getLogger("gateway.inventory")


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
            log.warning("inventory_not_kept", extra={"error": error.strerror})

    def _write(self, text: bytes) -> None:
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        new.write_bytes(text)
        new.replace(self._file)
