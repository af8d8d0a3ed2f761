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
_PREFIX_BYTES: Final = _DIGEST_BYTES + _LENGTH_BYTES


class HandoverEntry(msgspec.Struct, frozen=True):
    at: float
    """Monotonic seconds, which are the same for all processes of a host."""
    text: bytes


class _StoredEntry(NamedTuple):
    at: float
    begin: int
    """Position of its text in the memory."""
    size: int


_HEAD: Final = msgspec.msgpack.Decoder(list[tuple[str, float, int]])
"""Name, instant and size of each text. The texts follow in this order."""


class Handover:
    """A small key-value store in shared memory."""

    def __init__(self, memory: int | None = None) -> None:
        """Allocate the memory, before the fork; or use that of another process (`memory`)."""
        self.memory = allocate_memory() if memory is None else memory
        """The descriptor. A program that inherits it may store entries too."""
        self._turn = allocate_memory()
        self._thread_lock = Lock()

    def put(self, name: str, text: bytes, *, at: float) -> None:
        """Store `text` as of the instant `at`, unless a later entry is stored."""
        with self._locked():
            stored = self._read()
            if name in stored and stored[name].at >= at:
                return
            entries = {
                other: HandoverEntry(found.at, self._text(found))
                for other, found in stored.items()
                if other != name
            }
            entries[name] = HandoverEntry(at, text)
            latest = sorted(entries.items(), key=lambda item: item[1].at)[-_ENTRIES_MAX:]
            self._write(dict(latest))

    def get(self, name: str) -> HandoverEntry | None:
        with self._locked():
            found = self._read().get(name)
            return None if found is None else HandoverEntry(found.at, self._text(found))

    def stored_at(self, name: str) -> float | None:
        """Return the instant of an entry, without reading its text."""
        with self._locked():
            found = self._read().get(name)
        return None if found is None else found.at

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
            fcntl.lockf(self.memory, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self.memory, fcntl.LOCK_UN)

    def _read(self) -> "dict[str, _StoredEntry]":
        prefix = read_all(self.memory, 0, _PREFIX_BYTES)
        size = int.from_bytes(prefix[_DIGEST_BYTES:], "big")
        head = read_all(self.memory, _PREFIX_BYTES, size)
        # The digest is wrong when a process was killed during a write: the content is discarded.
        if hashlib.sha256(head).digest() != prefix[:_DIGEST_BYTES]:
            return {}
        begin = _PREFIX_BYTES + size
        found: dict[str, _StoredEntry] = {}
        for name, at, text_size in _HEAD.decode(head):
            found[name] = _StoredEntry(at, begin, text_size)
            begin += text_size
        return found

    def _text(self, entry: _StoredEntry) -> bytes:
        return read_all(self.memory, entry.begin, entry.size)

    def _write(self, entries: Mapping[str, HandoverEntry]) -> None:
        """Replace the content. The digest of the head is written last, so it covers the texts."""
        head = msgspec.msgpack.encode([(name, it.at, len(it.text)) for name, it in entries.items()])
        os.ftruncate(self.memory, 0)
        at = _DIGEST_BYTES
        texts = (it.text for it in entries.values())
        for part in (len(head).to_bytes(_LENGTH_BYTES, "big"), head, *texts):
            write_all(self.memory, part, at)
            at += len(part)
        write_all(self.memory, hashlib.sha256(head).digest(), 0)


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


def write_all(descriptor: int, content: bytes, begin: int) -> None:
    """Write without moving the position, and without the interpreter's lock."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, begin)
        rest, begin = rest[written:], begin + written


def allocate_memory() -> int:
    """Return the descriptor of memory without a name in a file system."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("handover")  # works with a read-only root file system
