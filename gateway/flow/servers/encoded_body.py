"""A response body that many people may receive: encoded, hashed and compressed once."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, field
from typing import Final

_GZIP_BYTES_MIN: Final = 1_024
_GZIP_LEVEL: Final = 5
_GZIP_FORMAT: Final = 31
"""`wbits` of zlib: the largest window, with the header and trailer of gzip."""
_INLINE_BYTES_MAX: Final = 65_536
"""More is compressed in a thread: the event loop must not wait for it."""
_BATCH_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class EncodedBody:
    etag: str
    """Validator of the content, without quotes: the same in every process."""
    size: int
    """Bytes without compression."""
    data: bytes = field(repr=False)
    is_gzipped: bool

    async def plain(self) -> bytes:
        """Return the body without compression."""
        if not self.is_gzipped:
            return self.data
        if self.size <= _INLINE_BYTES_MAX:
            return zlib.decompress(self.data, _GZIP_FORMAT)
        return await asyncio.to_thread(zlib.decompress, self.data, _GZIP_FORMAT)


async def encode_body(parts: AsyncIterable[bytes]) -> EncodedBody:
    """Return the body that consists of these parts. A large one never exists in one piece."""
    encoder, batch, size = _Encoder(), list[bytes](), 0
    async for part in parts:
        batch.append(part)
        size += len(part)
        if size >= _BATCH_BYTES:
            await asyncio.to_thread(encoder.add, batch)
            batch, size = [], 0
    if size <= _INLINE_BYTES_MAX:
        encoder.add(batch)
    else:
        await asyncio.to_thread(encoder.add, batch)
    return encoder.finish()


def encode_small_body(body: bytes) -> EncodedBody:
    encoder = _Encoder()
    encoder.add([body])
    return encoder.finish()


class _Encoder:
    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=12)
        self._packing = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
        self._packed: list[bytes] = []
        self._plain: list[bytes] = []
        """The body, as long as it is too small for compression."""
        self._size = 0

    def add(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self._digest.update(part)
            self._packed.append(self._packing.compress(part))
            if self._size < _GZIP_BYTES_MIN:
                self._plain.append(part)
            self._size += len(part)

    def finish(self) -> EncodedBody:
        etag = self._digest.hexdigest()
        if self._size < _GZIP_BYTES_MIN:
            return EncodedBody(etag, self._size, b"".join(self._plain), is_gzipped=False)
        packed = b"".join((*self._packed, self._packing.flush()))
        return EncodedBody(etag, self._size, packed, is_gzipped=True)
