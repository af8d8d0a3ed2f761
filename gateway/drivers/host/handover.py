"""What workers leave to those that start after them, in memory that parent and children share.

It is for what a worker took from outside, and its successor may not find there: a good policy, an
issuer's public keys. It has no name in any file system, and ends with the last process.
"""

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

import msgspec

_LEFT_MAX: Final = 1_000
_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class HandoverEntry(msgspec.Struct, frozen=True):
    at: float
    """Monotonic seconds, which are the same for all processes of a host."""
    text: bytes


_ALL: Final = msgspec.msgpack.Decoder(dict[str, HandoverEntry])


class Handover:
    def __init__(self) -> None:
        """Make it before the fork."""
        self._memory = _memory()
        self._own_threads = Lock()

    def put(self, name: str, text: bytes, *, at: float) -> None:
        """Leave what was so at that instant, unless something later is there."""
        with self._alone():
            left = self._read()
            if name in left and left[name].at >= at:
                return
            left[name] = HandoverEntry(at, text)
            latest = sorted(left.items(), key=lambda item: item[1].at)[-_LEFT_MAX:]
            self._write(msgspec.msgpack.encode(dict(latest)))

    def get(self, name: str) -> HandoverEntry | None:
        with self._alone():
            return self._read().get(name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out other processes, and this one's threads; the kernel lets go of the dead."""
        with self._own_threads:
            fcntl.lockf(self._memory, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._memory, fcntl.LOCK_UN)

    def _read(self) -> dict[str, HandoverEntry]:
        content = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        digest, text = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        # Whoever was killed in the middle of writing has left nothing.
        return _ALL.decode(text) if hashlib.sha256(text).digest() == digest else {}

    def _write(self, text: bytes) -> None:
        content = memoryview(hashlib.sha256(text).digest() + text)
        os.ftruncate(self._memory, len(content))
        written = 0
        while written < len(content):
            written += os.pwrite(self._memory, content[written:], written)


def _memory() -> int:
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    return os.memfd_create("handover")  # it needs no directory: the root may be read-only
