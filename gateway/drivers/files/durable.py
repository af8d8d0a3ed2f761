"""Durability of directory entries over a power failure."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Write the directory's list of files to disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
