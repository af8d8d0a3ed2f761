"""An immutable map from bytes to bytes in one block of memory. Pure.

Opening one costs nothing, at any size: a look-up is a binary search over sorted 64-bit hashes. A
process can build a map and hand the block over to others of the same host (native byte order).
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate
from struct import Struct
from typing import Final

_COUNT: Final = Struct("=Q")
_SIZES: Final = Struct("=II")
_WORD: Final = "Q"
_WORD_BYTES: Final = 8


def build_map(items: Mapping[bytes, bytes]) -> bytes:
    """Return the block of a map with these items; a key or value has at most 4 GiB."""
    order = sorted(zip(map(_hash, items), items, strict=True))
    records = [
        b"".join((_SIZES.pack(len(key), len(items[key])), key, items[key])) for _, key in order
    ]
    offsets = accumulate(map(len, records), initial=0)
    return b"".join(
        (
            _COUNT.pack(len(order)),
            array(_WORD, [number for number, _ in order]).tobytes(),
            array(_WORD, offsets).tobytes()[: len(order) * _WORD_BYTES],
            *records,
        )
    )


class ConstantMap:
    """Reads a block of `build_map`."""

    def __init__(self, block: memoryview) -> None:
        (count,) = _COUNT.unpack_from(block)
        hashes_end = _COUNT.size + count * _WORD_BYTES
        offsets_end = hashes_end + count * _WORD_BYTES
        self._hashes = block[_COUNT.size : hashes_end].cast(_WORD)
        self._offsets = block[hashes_end:offsets_end].cast(_WORD)
        self._records = block[offsets_end:]

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, key: bytes) -> memoryview | None:
        number = _hash(key)
        at, count = bisect_left(self._hashes, number), len(self._hashes)
        while at < count and self._hashes[at] == number:
            offset = self._offsets[at]
            key_size, value_size = _SIZES.unpack_from(self._records, offset)
            begin = offset + _SIZES.size
            end = begin + key_size
            if self._records[begin:end] == key:
                return self._records[end : end + value_size]
            at += 1
        return None


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=_WORD_BYTES).digest(), sys.byteorder)
