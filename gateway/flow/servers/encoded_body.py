"""A response body that many people may receive: encoded, hashed and compressed once."""

import asyncio
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_GZIP_BYTES_MIN: Final = 1_024
_GZIP_LEVEL: Final = 5
_GZIP_FORMAT: Final = 31
"""`wbits` of zlib: the largest window, with the header and trailer of gzip."""
_INLINE_BYTES_MAX: Final = 65_536
"""A larger body is compressed in a thread: the event loop must not wait for it."""


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


async def encode_body(parts: Sequence[bytes]) -> EncodedBody:
    """Return the body that consists of these parts."""
    if sum(map(len, parts)) <= _INLINE_BYTES_MAX:
        return _encoded(parts)
    return await asyncio.to_thread(_encoded, parts)


def _encoded(parts: Sequence[bytes]) -> EncodedBody:
    """Encode part by part: a large body does not exist in one piece."""
    size = sum(map(len, parts))
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
    if size < _GZIP_BYTES_MIN:
        return EncodedBody(digest.hexdigest(), size, b"".join(parts), is_gzipped=False)
    packing = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)
    packed = [*map(packing.compress, parts), packing.flush()]
    return EncodedBody(digest.hexdigest(), size, b"".join(packed), is_gzipped=True)
