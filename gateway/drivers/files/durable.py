"""What a power cut must not undo."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make durable which files it holds; raise OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
