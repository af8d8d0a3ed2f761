"""Messages of RFB as bytes, and a filter that is past its handshake."""

import struct
import zlib

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.encodings import Encoding
from gateway.domain.rfb.power import PowerRequest
from gateway.domain.rfb.relay_filter import RelayFilter
from gateway.domain.rfb.rules import RelayRules

GREETING = b"RFB 003.008\n"
NONE_OFFERED = b"\x01\x01"
TRUE_COLOUR = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
NOVNC_ENCODINGS = (
    *(
        1,
        50,
        7,
        -260,
        16,
        21,
        5,
        2,
        6,
        0,
        -26,
        -254,
        -223,
        -224,
        -258,
        -261,
        -308,
        -309,
        -312,
        -313,
    ),
    *(-307, Encoding.EXTENDED_CLIPBOARD, -316, Encoding.VMWARE_CURSOR, -239),
)
"""SetEncodings of noVNC 1.7.0."""
CONTROL = RelayRules(SessionMode.CONTROL)
VIEW = RelayRules(SessionMode.VIEW)
WITHOUT_CLIPBOARD = RelayRules(SessionMode.CONTROL, clipboard=Clipboard.NONE)


def server_init(width: int = 800, height: int = 600, name: bytes = b"console") -> bytes:
    return struct.pack(">HH", width, height) + TRUE_COLOUR + struct.pack(">I", len(name)) + name


def connected(
    rules: RelayRules, *, announce: tuple[int, ...] | None = NOVNC_ENCODINGS
) -> RelayFilter:
    """Return a filter after a handshake without password, and after SetEncodings."""
    relay_filter = RelayFilter(rules)
    relay_filter.from_server(GREETING)
    relay_filter.from_browser(GREETING)
    relay_filter.from_server(NONE_OFFERED)
    relay_filter.from_browser(b"\x01")
    relay_filter.from_server(bytes(4))
    relay_filter.from_browser(b"\x00")
    relay_filter.from_server(server_init())
    assert relay_filter.handshake.is_done
    if announce is not None:
        relay_filter.from_browser(set_encodings(*announce))
    return relay_filter


def set_encodings(*encodings: int) -> bytes:
    return struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings)


def set_pixel_format(pixel_format: bytes = TRUE_COLOUR) -> bytes:
    return bytes(4) + pixel_format


def update_request(*, incremental: bool = True) -> bytes:
    return struct.pack(">BBHHHH", 3, incremental, 0, 0, 800, 600)


def key(keysym: int, *, down: bool = True) -> bytes:
    return struct.pack(">BBxxI", 4, down, keysym)


def qemu_key(keysym: int, code: int, *, down: bool = True) -> bytes:
    return struct.pack(">BBHII", 255, 0, down, keysym, code)


def pointer(x: int, y: int, buttons: int = 0) -> bytes:
    return struct.pack(">BBHH", 5, buttons, x, y)


def cut_text(text: bytes) -> bytes:
    return struct.pack(">BxxxI", 6, len(text)) + text


def extended_cut_text(flags: int, body: bytes = b"") -> bytes:
    return struct.pack(">BxxxiI", 6, -4 - len(body), flags) + body


def provided_text(text: bytes) -> bytes:
    return extended_cut_text(1 << 28 | 1, zlib.compress(struct.pack(">I", len(text)) + text))


def fence(payload: bytes) -> bytes:
    return struct.pack(">BxxxIB", 248, 0, len(payload)) + payload


def continuous_updates(*, enable: bool = True) -> bytes:
    return struct.pack(">BBHHHH", 150, enable, 0, 0, 800, 600)


def set_desktop_size(width: int, height: int) -> bytes:
    return struct.pack(">BxHHBxIHHHHI", 251, width, height, 1, 7, 0, 0, width, height, 0)


def xvp(operation: int) -> bytes:
    return bytes((250, 0, 1, operation))


async def pass_allowed_power(request: PowerRequest) -> bool:
    """Decide on power operations as a relay's `on_power`, without a record."""
    return request.is_allowed


def server_cut_text(text: bytes) -> bytes:
    return struct.pack(">BxxxI", 3, len(text)) + text


def update(*rectangles: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


def rectangle(width: int, height: int, encoding: int, body: bytes = b"") -> bytes:
    return struct.pack(">HHHHi", 0, 0, width, height, encoding) + body
