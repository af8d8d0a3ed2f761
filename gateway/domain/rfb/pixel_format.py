"""The format of pixels: as much of it as the lengths of rectangles need. Pure."""

import struct
from dataclasses import dataclass
from typing import Final, Self

from gateway.domain.rfb.violation import RfbViolation

NOVNC_FORMAT: Final = struct.pack(">BBBBHHHBBB", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
"""The only format that the pinned noVNC requests: `RFB.messages.pixelFormat` in `core/rfb.js`."""


@dataclass(slots=True)
class PixelFormat:
    """The format that applies to one connection; ServerInit and SetPixelFormat replace it."""

    pixel_bytes: int = 4
    """Bytes of a pixel."""
    compact_bytes: int = 4
    """Bytes of a pixel in Tight (TPIXEL), which leaves out the unused byte of true colour."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse the 16 bytes of PIXEL_FORMAT.

        Raises:
            RfbViolation: if the protocol has no such format.

        """
        bits, depth, _, true_colour, red, green, blue = struct.unpack_from(">BBBBHHH", data)
        if bits not in {8, 16, 32} or not 1 <= depth <= bits:
            raise RfbViolation(f"pixel format: {bits} bits with a depth of {depth}")
        is_compact = bits == 32 and depth == 24 and true_colour and red == green == blue == 255
        return cls(bits // 8, 3 if is_compact else bits // 8)

    def has_sizes_of(self, other: Self) -> bool:
        sizes = (self.pixel_bytes, self.compact_bytes)
        return sizes == (other.pixel_bytes, other.compact_bytes)

    def replace(self, other: Self) -> None:
        self.pixel_bytes = other.pixel_bytes
        self.compact_bytes = other.compact_bytes
