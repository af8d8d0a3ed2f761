"""Memory that the parent and its workers share, for state that a new worker starts with.

It holds what a worker loaded from outside and a later worker may not be able to load: the last
valid policy, an issuer's public keys. It has no name in a file system and is freed with the last
process.
"""

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, NamedTuple

import msgspec

_ENTRIES_MAX: Final = 1_000
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_LENGTH_BYTES: Final = 4


class HandoverEntry(msgspec.Struct, frozen=True):
    at: float
    """Monotonic seconds, which are the same for all processes of a host."""
    text: bytes


class _StoredEntry(NamedTuple):
    at: float
    text: memoryview
    begin: int = 0
    """Its position in the memory."""


_HEAD: Final = msgspec.msgpack.Decoder(list[tuple[str, float, int]])
"""Name, instant and size of each text."""


class Handover:
    """A small key-value store in shared memory."""

    def __init__(self) -> None:
        """Allocate the memory; call it before the fork."""
        self._memory = allocate_memory()
        self._turn = allocate_memory()
        self._thread_lock = Lock()

    def put(self, name: str, text: bytes, *, at: float) -> None:
        """Store `text` as of the instant `at`, unless a later entry is stored."""
        with self._locked():
            entries = self._read()
            if name in entries and entries[name].at >= at:
                return
            entries[name] = _StoredEntry(at, memoryview(text))
            latest = sorted(entries.items(), key=lambda item: item[1].at)[-_ENTRIES_MAX:]
            self._write(dict(latest))

    def get(self, name: str) -> HandoverEntry | None:
        with self._locked():
            found = self._read().get(name)
            if found is None:
                return None
            # Read again: a copy of many megabytes would hold the interpreter's lock for long.
            return HandoverEntry(found.at, read_all(self._memory, found.begin, len(found.text)))

    def try_turn(self) -> bool:
        """Return whether this process has the turn: to produce what the others then find here.

        The kernel ends the turn of a dead process.
        """
        try:
            fcntl.lockf(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def end_turn(self) -> None:
        fcntl.lockf(self._turn, fcntl.LOCK_UN)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes and threads; the kernel releases the lock of a dead process."""
        with self._thread_lock:
            fcntl.lockf(self._memory, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._memory, fcntl.LOCK_UN)

    # Neither copies the texts: a copy of many megabytes holds the interpreter's lock for long.

    def _read(self) -> "dict[str, _StoredEntry]":
        content = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        digest, rest = content[:_DIGEST_BYTES], memoryview(content)[_DIGEST_BYTES:]
        # The digest is wrong when a process was killed during a write: the content is discarded.
        if hashlib.sha256(rest).digest() != digest:
            return {}
        begin = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "big")
        found: dict[str, _StoredEntry] = {}
        for name, at, size in _HEAD.decode(rest[_LENGTH_BYTES:begin]):
            position = _DIGEST_BYTES + begin
            found[name] = _StoredEntry(at, rest[begin : begin + size], position)
            begin += size
        return found

    def _write(self, entries: "Mapping[str, _StoredEntry]") -> None:
        head = msgspec.msgpack.encode([(name, it.at, len(it.text)) for name, it in entries.items()])
        length = len(head).to_bytes(_LENGTH_BYTES, "big")
        parts = [memoryview(length + head), *(it.text for it in entries.values())]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        os.ftruncate(self._memory, 0)
        at = 0
        for part in (memoryview(digest.digest()), *parts):
            rest = part
            while rest:
                written = os.pwrite(self._memory, rest, at)
                rest, at = rest[written:], at + written


@dataclass(frozen=True, slots=True)
class Handovers:
    """Apart from each other, because a policy may take many megabytes."""

    keys: Handover = field(default_factory=Handover)
    policies: Handover = field(default_factory=Handover)


def read_all(descriptor: int, begin: int, size: int) -> bytes:
    """Read without moving the position, and without the interpreter's lock."""
    found = b""
    while len(found) < size:
        part = os.pread(descriptor, size - len(found), begin + len(found))
        if not part:
            break
        found = found + part if found else part
    return found


def allocate_memory() -> int:
    """Return the descriptor of memory without a name in a file system."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("handover")  # works with a read-only root file system
