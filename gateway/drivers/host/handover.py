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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import msgspec

_ENTRIES_MAX: Final = 1_000
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class HandoverEntry(msgspec.Struct, frozen=True):
    at: float
    """Monotonic seconds, which are the same for all processes of a host."""
    text: bytes


_ENTRIES: Final = msgspec.msgpack.Decoder(dict[str, HandoverEntry])


class Handover:
    """A small key-value store in shared memory."""

    def __init__(self) -> None:
        """Allocate the memory; call it before the fork."""
        self._memory = _allocate()
        self._turn = _allocate()
        self._thread_lock = Lock()

    def put(self, name: str, text: bytes, *, at: float) -> None:
        """Store `text` as of the instant `at`, unless a later entry is stored."""
        with self._locked():
            entries = self._read()
            if name in entries and entries[name].at >= at:
                return
            entries[name] = HandoverEntry(at, text)
            latest = sorted(entries.items(), key=lambda item: item[1].at)[-_ENTRIES_MAX:]
            self._write(msgspec.msgpack.encode(dict(latest)))

    def get(self, name: str) -> HandoverEntry | None:
        with self._locked():
            return self._read().get(name)

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

    def _read(self) -> dict[str, HandoverEntry]:
        content = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        digest, text = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        # The digest is wrong when a process was killed during a write: the content is discarded.
        return _ENTRIES.decode(text) if hashlib.sha256(text).digest() == digest else {}

    def _write(self, text: bytes) -> None:
        content = memoryview(hashlib.sha256(text).digest() + text)
        os.ftruncate(self._memory, len(content))
        written = 0
        while written < len(content):
            written += os.pwrite(self._memory, content[written:], written)


@dataclass(frozen=True, slots=True)
class Handovers:
    """Apart from each other, because a policy may take many megabytes."""

    keys: Handover = field(default_factory=Handover)
    policies: Handover = field(default_factory=Handover)


def _allocate() -> int:
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("handover")  # works with a read-only root file system
