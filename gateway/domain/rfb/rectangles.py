"""The lengths of rectangles in FramebufferUpdate, per encoding. Pure.

Only headers and sizes are read; pixels pass unread. Sources: RFC 6143, and the decoders of noVNC
1.7.0 (`core/decoders`) for Tight.
"""

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from gateway.domain.rfb.encodings import Encoding
from gateway.domain.rfb.handshake import check_screen
from gateway.domain.rfb.pixel_format import PixelFormat
from gateway.domain.rfb.rules import TURN_BYTES_MAX
from gateway.domain.rfb.stream import Parser, Pass, Skip
from gateway.domain.rfb.violation import RfbViolation, ViolationKind

_COMPRESSED_MAX: Final = 256 * 1024 * 1024
"""Bytes of one compressed rectangle: twice the pixels of the largest screen."""

_HEXTILE_RAW: Final = 1
_HEXTILE_BACKGROUND: Final = 2
_HEXTILE_FOREGROUND: Final = 4
_HEXTILE_SUBRECTS: Final = 8
_HEXTILE_COLOURED: Final = 16

_TIGHT_FILL: Final = 8
_TIGHT_JPEG: Final = 9
_TIGHT_FILTER: Final = 4
_TIGHT_COPY, _TIGHT_PALETTE, _TIGHT_GRADIENT = 0, 1, 2
_TIGHT_UNCOMPRESSED_BELOW: Final = 12


@dataclass(slots=True)
class Rectangle:
    """The header of a rectangle, and what its length depends on."""

    width: int
    height: int
    pixel_format: PixelFormat
    output: bytearray
    """Takes each header after it was read."""
    pixels_max: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def body_of(encoding: int, rectangle: Rectangle) -> Parser:
    """Return the parser of what follows the rectangle's header.

    Raises:
        RfbViolation: for an encoding that the gateway did not let the browser request.

    """
    parser = _BODIES.get(encoding)
    if parser is None:
        raise RfbViolation(
            f"the console used encoding {encoding}, which was not requested",
            ViolationKind.MESSAGE_TYPE,
        )
    return parser(rectangle)


def _raw(rectangle: Rectangle) -> Parser:
    yield Pass(rectangle.pixels * rectangle.pixel_format.pixel_bytes)


def _copy_rect(_: Rectangle) -> Parser:
    yield Pass(4)


def _rre(rectangle: Rectangle) -> Parser:
    pixel = rectangle.pixel_format.pixel_bytes
    head = yield 4
    rectangle.output += head
    (count,) = struct.unpack(">I", head)
    if count > rectangle.pixels:
        raise RfbViolation(f"RRE: {count} parts in a rectangle of {rectangle.pixels} pixels")
    yield Pass(pixel + count * (pixel + 8))


def _hextile(rectangle: Rectangle) -> Parser:
    for top in range(0, rectangle.height, 16):
        height = min(16, rectangle.height - top)
        for left in range(0, rectangle.width, 16):
            yield from _tile(rectangle, min(16, rectangle.width - left) * height)


def _tile(rectangle: Rectangle, pixels: int) -> Parser:
    pixel, output = rectangle.pixel_format.pixel_bytes, rectangle.output
    head = yield 1
    output += head
    kind = head[0]
    if kind & _HEXTILE_RAW:
        yield Pass(pixels * pixel)
        return
    colours = pixel * (bool(kind & _HEXTILE_BACKGROUND) + bool(kind & _HEXTILE_FOREGROUND))
    if not kind & _HEXTILE_SUBRECTS:
        yield Pass(colours)
        return
    head = yield colours + 1
    output += head
    yield Pass(head[-1] * (pixel + 2 if kind & _HEXTILE_COLOURED else 2))


def _counted(rectangle: Rectangle) -> Parser:
    """Zlib and ZRLE: a length, then as many bytes."""
    head = yield 4
    (count,) = struct.unpack(">I", head)
    if count > _COMPRESSED_MAX:
        raise RfbViolation(
            f"a compressed rectangle of {count} bytes is above {_COMPRESSED_MAX}",
            ViolationKind.MESSAGE_SIZE,
        )
    rectangle.output += head
    yield Pass(count)


def _tight(rectangle: Rectangle) -> Parser:
    compact = rectangle.pixel_format.compact_bytes
    head = yield 1
    rectangle.output += head
    kind = head[0] >> 4
    if kind == _TIGHT_FILL:
        yield Pass(compact)
    elif kind == _TIGHT_JPEG:
        yield from _compact_counted(rectangle)
    elif kind > _TIGHT_JPEG:
        raise RfbViolation(f"Tight: compression {kind} was not requested")
    else:
        size = rectangle.pixels * compact
        if kind & _TIGHT_FILTER:
            size = yield from _tight_filter(rectangle)
        if size < _TIGHT_UNCOMPRESSED_BELOW:
            yield Pass(size)
        else:
            yield from _compact_counted(rectangle)


def _tight_filter(rectangle: Rectangle) -> Generator[int | Pass | Skip, bytes, int]:
    """Return the size of the rectangle before compression."""
    compact = rectangle.pixel_format.compact_bytes
    head = yield 1
    rectangle.output += head
    if head[0] in {_TIGHT_COPY, _TIGHT_GRADIENT}:
        return rectangle.pixels * compact
    if head[0] != _TIGHT_PALETTE:
        raise RfbViolation(f"Tight: filter {head[0]} is not known")
    head = yield 1
    rectangle.output += head
    colours = head[0] + 1
    yield Pass(colours * compact)
    if colours <= 2:
        return (rectangle.width + 7) // 8 * rectangle.height
    return rectangle.pixels


def _compact_counted(rectangle: Rectangle) -> Parser:
    """Tight's length: 7 bits, 7 bits, 8 bits, with the lowest first."""
    count = 0
    for shift in (0, 7, 14):
        head = yield 1
        rectangle.output += head
        count |= (head[0] & 0xFF if shift == 14 else head[0] & 0x7F) << shift
        if not head[0] & 0x80:
            break
    yield Pass(count)


def _cursor(rectangle: Rectangle) -> Parser:
    mask = (rectangle.width + 7) // 8 * rectangle.height
    yield Pass(rectangle.pixels * rectangle.pixel_format.pixel_bytes + mask)


def _vmware_cursor(rectangle: Rectangle) -> Parser:
    head = yield 2
    if head[0] > 1:
        raise RfbViolation(f"VMware cursor: type {head[0]} is not known")
    rectangle.output += head
    yield Pass(rectangle.pixels * (4 if head[0] else 8))


def _desktop_size(rectangle: Rectangle) -> Parser:
    check_screen(rectangle.width, rectangle.height, rectangle.pixels_max)
    yield from ()


def _extended_desktop_size(rectangle: Rectangle) -> Parser:
    check_screen(rectangle.width, rectangle.height, rectangle.pixels_max)
    head = yield 4
    rectangle.output += head
    yield Pass(16 * head[0])


def _desktop_name(rectangle: Rectangle) -> Parser:
    head = yield 4
    (count,) = struct.unpack(">I", head)
    if count > TURN_BYTES_MAX:
        raise RfbViolation(
            f"desktop name: {count} bytes are above the limit of {TURN_BYTES_MAX}",
            ViolationKind.MESSAGE_SIZE,
        )
    rectangle.output += head
    yield Pass(count)


def _led(_: Rectangle) -> Parser:
    yield Pass(1)


def _empty(_: Rectangle) -> Parser:
    yield from ()


_BODIES: Final[dict[int, Callable[[Rectangle], Parser]]] = {
    Encoding.RAW: _raw,
    Encoding.COPY_RECT: _copy_rect,
    Encoding.RRE: _rre,
    Encoding.HEXTILE: _hextile,
    Encoding.ZLIB: _counted,
    Encoding.ZRLE: _counted,
    Encoding.TIGHT: _tight,
    Encoding.CURSOR: _cursor,
    Encoding.VMWARE_CURSOR: _vmware_cursor,
    Encoding.DESKTOP_SIZE: _desktop_size,
    Encoding.EXTENDED_DESKTOP_SIZE: _extended_desktop_size,
    Encoding.DESKTOP_NAME: _desktop_name,
    Encoding.QEMU_LED: _led,
    Encoding.QEMU_EXTENDED_KEY: _empty,
    Encoding.LAST_RECT: _empty,
}
