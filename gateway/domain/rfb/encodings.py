"""The encodings of RFB that pass, by their numbers. Pure.

The list is that of the pinned noVNC 1.7.0 (`core/encodings.js`), with one exception. An encoding
that is not in the list is removed from SetEncodings, so that the server does not use it.

Extended mouse buttons (-316) never pass. A server that knows this encoding reads a PointerEvent
with its highest bit set as 7 bytes; any other server reads 6. Only messages of the server show
which of both it is, and they are not parsed. A browser could set the bit on purpose and hide a
message of a forbidden type in the difference. Without the encoding, a PointerEvent always has 6
bytes. The price: the mouse buttons *back* and *forward* do not reach the server.
"""

from enum import IntEnum
from typing import Final


class Encoding(IntEnum):
    """A number in SetEncodings and in the header of a rectangle."""

    RAW = 0
    COPY_RECT = 1
    RRE = 2
    HEXTILE = 5
    ZLIB = 6
    TIGHT = 7
    ZRLE = 16
    JPEG = 21
    H264 = 50
    TIGHT_PNG = -260
    DESKTOP_SIZE = -223
    LAST_RECT = -224
    CURSOR = -239
    QEMU_EXTENDED_KEY = -258
    QEMU_LED = -261
    DESKTOP_NAME = -307
    EXTENDED_DESKTOP_SIZE = -308
    XVP = -309
    FENCE = -312
    CONTINUOUS_UPDATES = -313
    EXTENDED_CLIPBOARD = 0xC0A1E5CE - 2**32
    VMWARE_CURSOR = 0x574D5664


_HINTS: Final = frozenset({*range(-32, -22), *range(-256, -246)})
"""JPEG quality and compression level: the server answers with nothing of its own."""

KNOWN: Final = frozenset(Encoding) | _HINTS
"""Encodings that the pinned noVNC requests and that pass where the server's side is not parsed."""

MEASURABLE: Final = KNOWN - {
    Encoding.JPEG,
    Encoding.H264,
    Encoding.TIGHT_PNG,
    Encoding.EXTENDED_CLIPBOARD,
}
"""Encodings that pass where the server's side is parsed: `rectangles` computes their length.

JPEG (21) has no length in its header. H.264 and TightPNG have one, but add nothing that Tight
lacks.
"""
