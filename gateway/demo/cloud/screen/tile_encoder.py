"""RFB rectangles of text cells: Raw, Hextile, CopyRect and the pseudo-encodings (RFC 6143, 7.7).

None of them carries a compression stream: every full update can start a replay. Encoded tiles are
cached, so a full screen costs a few milliseconds.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from gateway.demo.cloud.screen import font
from gateway.demo.cloud.screen.text_screen import PALETTE, Cell

TILE: Final = 16
"""Width and height of a tile in pixels."""

_HEADER: Final = struct.Struct(">HHHHi")
_FORMAT: Final = struct.Struct(">BBBBHHHBBBxxx")
_CACHE_MAX: Final = 8_192
_RAW, _BACKGROUND, _FOREGROUND, _SUBRECTS, _COLOURED = 1, 2, 4, 8, 16


class ScreenEncoding(IntEnum):
    """The encodings that the simulated screens send."""

    RAW = 0
    COPY_RECT = 1
    HEXTILE = 5
    DESKTOP_SIZE = -223
    CURSOR = -239
    QEMU_KEYS = -258
    DESKTOP_NAME = -307
    XVP = -309


@dataclass(frozen=True, slots=True)
class ScreenPixels:
    """A true-colour pixel format of 8, 16 or 32 bits."""

    bits: int
    depth: int
    big_endian: bool
    maxima: tuple[int, int, int]
    shifts: tuple[int, int, int]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raise ValueError for a palette or an unusable size."""
        bits, depth, big, true_colour, *rest = _FORMAT.unpack(data)
        if bits not in (8, 16, 32) or not true_colour:
            raise ValueError("not a true-colour format of 8, 16 or 32 bits")
        red, green, blue, *shifts = rest
        return cls(bits, depth, bool(big), (red, green, blue), (shifts[0], shifts[1], shifts[2]))

    def describe(self) -> bytes:
        big = int(self.big_endian)
        return _FORMAT.pack(self.bits, self.depth, big, 1, *self.maxima, *self.shifts)

    def pack(self, colour: Sequence[int]) -> bytes:
        value = sum(
            (part * maximum + 127) // 255 << shift
            for part, maximum, shift in zip(colour, self.maxima, self.shifts, strict=True)
        )
        mask = (1 << self.bits) - 1
        return (value & mask).to_bytes(self.bits // 8, "big" if self.big_endian else "little")


NATIVE: Final = ScreenPixels(32, 24, False, (255, 255, 255), (0, 8, 16))
"""The format that the server announces: the one that noVNC asks for."""


class TileEncoder:
    """Encodes rows of cells in one pixel format."""

    def __init__(self, pixels: ScreenPixels) -> None:
        self._pixels = pixels
        self._colours = [pixels.pack(colour) for colour in PALETTE]
        self._tiles: dict[tuple[Cell, Cell], bytes] = {}
        self._lines: dict[Cell, tuple[bytes, ...]] = {}

    def encode(
        self, encoding: ScreenEncoding, at: tuple[int, int], rows: Sequence[Sequence[Cell]]
    ) -> bytes:
        """Return a rectangle, Raw or Hextile, with its top left tile `at` column and row."""
        width, height = len(rows[0]) * font.WIDTH, len(rows) * font.HEIGHT
        header = _HEADER.pack(at[0] * TILE, at[1] * TILE, width, height, encoding)
        if encoding is ScreenEncoding.HEXTILE:
            tiles = (self._tile(*pair) for row in rows for pair in _pairs(row))
            return header + b"".join(tiles)
        return header + b"".join(self._raw(row) for row in rows)

    def cursor(self) -> bytes:
        """Return a white arrow of 8 by 16 pixels as the Cursor pseudo-encoding."""
        shape = bytes((0xFF00 >> min(y + 1, 8)) & 0xFF if y < 11 else 0 for y in range(TILE))
        white = self._pixels.pack((255, 255, 255))
        pixels = white * (font.WIDTH * TILE)
        header = _HEADER.pack(0, 0, font.WIDTH, TILE, ScreenEncoding.CURSOR)
        return header + pixels + shape

    def _raw(self, row: Sequence[Cell]) -> bytes:
        columns = [self._cell_lines(cell) for cell in row]
        return b"".join(lines[y] for y in range(font.HEIGHT) for lines in columns)

    def _cell_lines(self, cell: Cell) -> tuple[bytes, ...]:
        lines = self._lines.get(cell)
        if lines is None:
            if len(self._lines) >= _CACHE_MAX:
                self._lines.clear()
            code, foreground, background = cell
            inks = self._colours[background], self._colours[foreground]
            lines = self._lines[cell] = tuple(
                b"".join(inks[pattern >> (7 - x) & 1] for x in range(font.WIDTH))
                for pattern in font.glyph(code)
            )
        return lines

    def _tile(self, left: Cell, right: Cell) -> bytes:
        tile = self._tiles.get((left, right))
        if tile is None:
            if len(self._tiles) >= _CACHE_MAX:
                self._tiles.clear()
            tile = self._tiles[left, right] = self._encode_tile(left, right)
        return tile

    def _encode_tile(self, left: Cell, right: Cell) -> bytes:
        background = left[2]
        parts = _subrects(left, 0)
        if right[2] != background:
            parts.append((right[2], bytes((0x80, 0x7F))))
        parts += _subrects(right, font.WIDTH)
        colours = {colour for colour, _ in parts}
        paint = self._colours[background]
        if not parts:
            return bytes((_BACKGROUND,)) + paint
        if len(colours) == 1:
            kind = _BACKGROUND | _FOREGROUND | _SUBRECTS
            head = bytes((kind,)) + paint + self._colours[colours.pop()]
            tile = head + bytes((len(parts),)) + b"".join(where for _, where in parts)
        else:
            painted = b"".join(self._colours[colour] + where for colour, where in parts)
            kind = _BACKGROUND | _SUBRECTS | _COLOURED
            tile = bytes((kind,)) + paint + bytes((len(parts),)) + painted
        if len(tile) > 1 + TILE * TILE * self._pixels.bits // 8:
            return bytes((_RAW,)) + self._raw((left, right))
        return tile


def copy_rectangle(width: int, height: int, from_y: int) -> bytes:
    """Return a CopyRect that moves the screen up, from `from_y` to the top."""
    header = _HEADER.pack(0, 0, width, height, ScreenEncoding.COPY_RECT)
    return header + struct.pack(">HH", 0, from_y)


def pseudo_rectangle(
    encoding: ScreenEncoding, width: int = 0, height: int = 0, data: bytes = b""
) -> bytes:
    return _HEADER.pack(0, 0, width, height, encoding) + data


def text_data(text: bytes) -> bytes:
    """Return the text with its length in front, as names have it."""
    return struct.pack(">I", len(text)) + text


def _pairs(row: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    return list(zip(row[::2], row[1::2], strict=True))


def _subrects(cell: Cell, left: int) -> list[tuple[int, bytes]]:
    """Return the colour and the four packed nibbles of each subrectangle of a glyph."""
    code, foreground, background = cell
    if foreground == background:
        return []
    return [
        (foreground, bytes(((left + x) << 4 | y, (width - 1) << 4 | (height - 1))))
        for x, y, width, height in font.rectangles(code)
    ]
