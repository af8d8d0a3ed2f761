"""A recording of eight hours at a terminal, written by the real driver in a second."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Page

from gateway.demo.cloud.screen.font import HEIGHT, glyph
from gateway.domain.model import Secret
from gateway.domain.recordings.model import RecordingDetails
from gateway.domain.recordings.part_format import CHUNK_BYTES
from gateway.domain.recordings.records import Record, RecordKind, json_record, screen_record
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.file_recordings import RecordingFiles, open_recording_part
from tests.support.recordings import RecordingScene

HOURS: Final = 8
CHUNKS: Final = 24
"""Of a large recording; a chunk has 1 MiB."""
EVERY_S: Final = 8
"""A line is printed this often."""
ROWS, COLUMNS, DIGITS = 24, 80, 6
_WIDTH: Final = 8 * COLUMNS
_DARK, _BRIGHT = b"\x18\x14\x12\x00", b"\xd4\xd0\xc8\x00"
_FORMAT: Final = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
_REST: Final = _DARK * 8 * (COLUMNS - DIGITS)


def write_long_recording(root: Path, key: Secret, details: RecordingDetails) -> int:
    """Record the session; return its bytes of screen data."""
    scene = RecordingScene(root, clock=SystemClock(), keys=[key])
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, details, details.started_at)
    size = 0
    for records in _session():
        part.append(records)
        size += sum(len(one.payload) for one in records)
    part.close()
    scene.closer.recover([part.file.parent])
    scene.index.close()
    return size


def write_large_recording(root: Path, key: Secret, details: RecordingDetails) -> None:
    """Record more than the sockets between a gateway and its client take."""
    scene = RecordingScene(root, clock=SystemClock(), keys=[key])
    files = RecordingFiles(scene.directory, scene.keys, scene.index, "host-1")
    part = open_recording_part(files, details, details.started_at)
    for number in range(CHUNKS):
        part.append([screen_record(number, os.urandom(CHUNK_BYTES))])
    part.append([json_record(CHUNKS, RecordKind.END, {"end": "person", "detail": ""})])
    part.close()
    scene.closer.recover([part.file.parent])
    scene.index.close()


def lines_at(second: int) -> list[str]:
    """Return what each row shows at a second: the number of the line that was printed last."""
    last = second // EVERY_S
    return [f"{max(0, last - (last - row) % ROWS):06}" for row in range(ROWS)]


def shown_lines(page: Page) -> list[str]:
    """Read the rows of the picture in a player."""
    script = (
        "([width, height]) => { const canvas = document.querySelector('#screen canvas');"
        " const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);"
        " return [...new Uint32Array(data.buffer)].map((one) => one & 0x80 ? 1 : 0).join(''); }"
    )
    width = 8 * DIGITS
    pixels: str = page.evaluate(script, [width, ROWS * HEIGHT])
    texts = {"".join(f"{one:08b}" for one in glyph(ord(digit))): digit for digit in "0123456789"}

    def read(row: int, column: int) -> str:
        starts = ((row * HEIGHT + y) * width + 8 * column for y in range(HEIGHT))
        return texts.get("".join(pixels[start : start + 8] for start in starts), "?")

    return ["".join(read(row, column) for column in range(DIGITS)) for row in range(ROWS)]


def _session() -> Iterator[list[Record]]:
    init = struct.pack(">HH", _WIDTH, ROWS * HEIGHT) + _FORMAT + struct.pack(">I", 6) + b"screen"
    greeting = b"RFB 003.008\n\x01\x01" + bytes(4) + init
    yield [screen_record(0, greeting + b"".join(_line(row, "000000") for row in range(ROWS)))]
    for number in range(1, HOURS * 3_600 // EVERY_S):
        at_ms = number * EVERY_S * 1_000
        yield [
            Record(at_ms - 500, RecordKind.INPUT, b""),
            screen_record(at_ms, _line(number % ROWS, f"{number:06}")),
        ]
    end = {"end": "time_limit", "detail": ""}
    yield [json_record(HOURS * 3_600_000, RecordKind.END, end)]


def _line(row: int, text: str) -> bytes:
    pixels = b"".join(b"".join(_GLYPHS[digit][y] for digit in text) + _REST for y in range(HEIGHT))
    return struct.pack(">BxHHHHHi", 0, 1, 0, row * HEIGHT, _WIDTH, HEIGHT, 0) + pixels


_GLYPHS: Final = {
    digit: [
        b"".join(_BRIGHT if bit == "1" else _DARK for bit in f"{row:08b}")
        for row in glyph(ord(digit))
    ]
    for digit in "0123456789"
}
