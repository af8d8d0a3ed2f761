"""Where audit chains lie: `chain-K` directories of segments, each held by one process at a time."""

import fcntl
import os
import re
from pathlib import Path
from typing import Final

from gateway.drivers.files.durable import sync_directory

LOCK_FILE: Final = "lock"
_SEGMENT = re.compile(r"segment-(\d{8})\.jsonl")


def segment_files(chain_directory: Path) -> list[tuple[int, Path]]:
    """Return the segments of a chain's directory in order, with their numbers."""
    return sorted(
        (int(found[1]), file)
        for file in chain_directory.iterdir()
        if (found := _SEGMENT.fullmatch(file.name)) is not None
    )


def segment_file(chain_directory: Path, number: int) -> Path:
    return chain_directory / f"segment-{number:08}.jsonl"


def chain_directories(directory: Path) -> list[Path]:
    """Return the directories of the chains below."""
    return sorted(one for one in directory.glob("chain-*") if one.is_dir())


def is_file_at(file: Path, found: os.stat_result) -> bool:
    """Tell whether this is still the file of that name."""
    try:
        return os.path.samestat(file.stat(), found)
    except (FileNotFoundError, NotADirectoryError):
        return False


def lock_chain(chain_directory: Path) -> int | None:
    """Take the chain for this process; None: another has it."""
    file = chain_directory / LOCK_FILE
    try:
        fd = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    except FileNotFoundError:  # it was removed at this moment
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink == 1:
            return fd
    except BlockingIOError:
        pass
    os.close(fd)
    return None


def make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(directory.parent)
