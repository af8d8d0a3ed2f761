"""The server's side of RFB after the handshake, where its clipboard text must not pass. Pure.

Used only where `console.clipboard` forbids text from the server; otherwise the server's messages
pass untouched. SetEncodings is then cut to encodings whose length `rectangles` computes.

The text of ServerCutText is removed, up to 16 MiB. A longer one ends the session, and so does a
message of a type that the pinned noVNC does not read: clipboard text could hide behind it.
"""

import struct
from enum import IntEnum
from typing import Final

from gateway.domain.rfb.encodings import Encoding
from gateway.domain.rfb.pixel_format import PixelFormat
from gateway.domain.rfb.rectangles import Rectangle, body_of
from gateway.domain.rfb.rules import REMOVED_TEXT_BYTES_MAX, RelayRules
from gateway.domain.rfb.stream import ParsedStream, Parser, Pass, Skip
from gateway.domain.rfb.violation import RfbViolation, ViolationKind


class ServerMessage(IntEnum):
    """The first byte of a message to the browser."""

    UPDATE = 0
    COLOUR_MAP = 1
    BELL = 2
    CUT_TEXT = 3
    END_OF_CONTINUOUS_UPDATES = 150
    FENCE = 248
    XVP = 250


_FIXED_SIZES: Final[dict[int, int]] = {
    ServerMessage.BELL: 1,
    ServerMessage.END_OF_CONTINUOUS_UPDATES: 1,
    ServerMessage.XVP: 4,
}
_FENCE_PAYLOAD_MAX: Final = 64


class ServerMessages:
    """Removes clipboard text from the messages of one VNC server."""

    def __init__(self, rules: RelayRules, pixel_format: PixelFormat) -> None:
        self._rules = rules
        self._pixel_format = pixel_format
        self._stream = ParsedStream()
        self._stream.start(self._messages())

    def feed(self, data: bytes) -> bytes:
        """Return the bytes for the browser.

        Raises:
            RfbViolation: for a message or an encoding whose length is unknown, or out of bounds.

        """
        return self._stream.feed(data)

    def _messages(self) -> Parser:
        output = self._stream.output
        while True:
            first = yield 1
            match first[0]:
                case ServerMessage.UPDATE:
                    output += first
                    yield from self._update()
                case ServerMessage.COLOUR_MAP:
                    header = yield 5
                    output += first + header
                    (count,) = struct.unpack_from(">H", header, 3)
                    yield Pass(6 * count)
                case ServerMessage.CUT_TEXT:
                    yield Skip(_text_bytes((yield 7)))
                case ServerMessage.FENCE:
                    header = yield 8
                    if header[7] > _FENCE_PAYLOAD_MAX:
                        raise RfbViolation(
                            f"ServerFence: {header[7]} bytes are above 64",
                            ViolationKind.MESSAGE_SIZE,
                        )
                    output += first + header
                    yield Pass(header[7])
                case kind if kind in _FIXED_SIZES:
                    output += first
                    yield Pass(_FIXED_SIZES[kind] - 1)
                case kind:
                    raise RfbViolation(
                        f"server message type {kind} is not allowed", ViolationKind.MESSAGE_TYPE
                    )

    def _update(self) -> Parser:
        header = yield 3
        self._stream.output += header
        (count,) = struct.unpack_from(">H", header, 1)
        for _ in range(count):
            header = yield 12
            width, height, encoding = struct.unpack_from(">HHi", header, 4)
            rectangle = Rectangle(
                width, height, self._pixel_format, self._stream.output, self._rules.pixels_max
            )
            if rectangle.pixels > self._rules.pixels_max:
                raise RfbViolation(
                    f"a rectangle of {width} x {height} is above the screen's limit",
                    ViolationKind.SCREEN_SIZE,
                )
            self._stream.output += header
            yield from body_of(encoding, rectangle)
            if encoding == Encoding.LAST_RECT:
                break


def _text_bytes(header: bytes) -> int:
    (length,) = struct.unpack_from(">i", header, 3)
    count: int = abs(length)  # negative: the extended clipboard
    if count > REMOVED_TEXT_BYTES_MAX:
        raise RfbViolation(
            f"ServerCutText: {count} bytes are above 16 MiB", ViolationKind.MESSAGE_SIZE
        )
    return count
