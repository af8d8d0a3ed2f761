"""Rectangles of the simulated screens: what was encoded decodes to the pixels of the cells."""

import random
from unittest import mock

import pytest

from gateway.demo.cloud.screen import font
from gateway.demo.cloud.screen.text_screen import PALETTE, Cell, TextScreen
from gateway.demo.cloud.screen.tile_encoder import (
    NATIVE,
    ScreenEncoding,
    ScreenPixels,
    TileEncoder,
    copy_rectangle,
)
from tests.support.rfb_client import Picture, RfbClient

FORMATS = {
    "native": NATIVE,
    "32 bits, big-endian": ScreenPixels(32, 24, True, (255, 255, 255), (16, 8, 0)),
    "16 bits": ScreenPixels(16, 16, False, (31, 63, 31), (11, 5, 0)),
    "8 bits": ScreenPixels(8, 8, False, (7, 7, 3), (0, 3, 6)),
}


async def decode(client: RfbClient, *rectangles: bytes) -> None:
    client._buffer += b"\0\0" + len(rectangles).to_bytes(2, "big") + b"".join(rectangles)
    assert await client.read_message() == 0
    assert client._buffer == b""


def make_client(pixels: ScreenPixels, columns: int, rows: int) -> RfbClient:
    client = RfbClient(mock.Mock())
    client.picture = Picture(columns * 8, rows * 16, pixels.bits // 8)
    return client


def render(pixels: ScreenPixels, rows: list[list[Cell]]) -> bytes:
    """Draw cells pixel by pixel, straight from the glyphs."""
    drawn = bytearray()
    for row in rows:
        for y in range(font.HEIGHT):
            for code, foreground, background in row:
                for x in range(font.WIDTH):
                    is_set = font.glyph(code)[y] >> (7 - x) & 1
                    drawn += pixels.pack(PALETTE[foreground if is_set else background])
    return bytes(drawn)


def random_rows(columns: int, rows: int, seed: int) -> list[list[Cell]]:
    chance = random.Random(seed)
    colours = range(len(PALETTE))
    return [
        [
            (
                chance.choice((32, 65, 64, 0xE9, 0x4E2D)),
                chance.choice(colours),
                chance.choice(colours),
            )
            for _ in range(columns)
        ]
        for _ in range(rows)
    ]


@pytest.mark.parametrize("pixels", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("encoding", [ScreenEncoding.RAW, ScreenEncoding.HEXTILE])
async def test_rectangle_decodes_to_the_cells_pixels(
    pixels: ScreenPixels, encoding: ScreenEncoding
) -> None:
    rows = random_rows(20, 6, seed=3)
    client = make_client(pixels, 20, 6)
    await decode(client, TileEncoder(pixels).encode(encoding, (0, 0), rows))
    assert bytes(client.picture.pixels) == render(pixels, rows)


async def test_every_glyph_is_equal_in_raw_and_hextile() -> None:
    codes = [*range(0x20, 0x7F), *range(0xA0, 0x100), 0x20]
    rows = [[(code, 7, 0) for code in codes]]
    pictures = []
    for encoding in (ScreenEncoding.RAW, ScreenEncoding.HEXTILE):
        client = make_client(NATIVE, len(codes), 1)
        await decode(client, TileEncoder(NATIVE).encode(encoding, (0, 0), rows))
        pictures.append(bytes(client.picture.pixels))
    assert pictures[0] == pictures[1]
    assert len({font.glyph(code) for code in codes}) >= len(codes) - 4  # few look alike


async def test_part_of_the_screen_leaves_the_rest() -> None:
    rows = random_rows(4, 1, seed=5)
    client = make_client(NATIVE, 12, 3)
    await decode(client, TileEncoder(NATIVE).encode(ScreenEncoding.HEXTILE, (2, 1), rows))
    assert client.picture.cut(32, 16, 32, 16) == render(NATIVE, rows)
    assert client.picture.cut(0, 0, 96, 16) == bytes(96 * 16 * 4)
    assert client.picture.cut(64, 16, 32, 32) == bytes(32 * 32 * 4)


async def test_copy_moves_rows_up() -> None:
    rows = random_rows(4, 3, seed=7)
    client = make_client(NATIVE, 4, 3)
    await decode(
        client,
        TileEncoder(NATIVE).encode(ScreenEncoding.RAW, (0, 0), rows),
        copy_rectangle(32, 32, 16),
    )
    assert client.picture.cut(0, 0, 32, 32) == render(NATIVE, rows[1:])


async def test_cursor_has_pixels_and_mask() -> None:
    client = make_client(NATIVE, 4, 1)
    await decode(client, TileEncoder(NATIVE).cursor())
    assert client.kinds == {ScreenEncoding.CURSOR: 1}


def test_hextile_of_a_text_screen_is_small() -> None:
    screen = TextScreen()
    screen.write("a line of text\n" * 29)
    rows = [screen.row(row, 0, screen.columns) for row in range(screen.rows)]
    data = TileEncoder(NATIVE).encode(ScreenEncoding.HEXTILE, (0, 0), rows)
    assert len(data) < 20_000


@pytest.mark.parametrize("layout", [(24, 1), (32, 0)], ids=["24 bits", "palette"])
def test_unusable_pixel_format_is_rejected(layout: tuple[int, int]) -> None:
    bits, true_colour = layout
    data = bytes((bits, 24, 0, true_colour)) + bytes(12)
    with pytest.raises(ValueError, match="true-colour"):
        ScreenPixels.parse(data)


def test_pixel_format_survives_its_description() -> None:
    for pixels in FORMATS.values():
        assert ScreenPixels.parse(pixels.describe()) == pixels
