import struct
import zlib

import pytest

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.encodings import Encoding
from gateway.domain.rfb.relay_filter import RelayFilter
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import RfbViolation
from tests.support import rfb
from tests.support.rfb import WITHOUT_CLIPBOARD, connected, rectangle, server_cut_text, update

CUT = server_cut_text(b"the password")
PACKED = zlib.compress(bytes(1000))
COUNTED = struct.pack(">I", len(PACKED)) + PACKED


def tight(kind: int, body: bytes) -> bytes:
    return bytes((kind << 4,)) + body


def compact(count: int) -> bytes:
    """Return Tight's form of a length."""
    if count < 128:
        return bytes((count,))
    if count < 16384:
        return bytes((count & 0x7F | 0x80, count >> 7))
    return bytes((count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14))


HEXTILE = b"".join(
    (
        bytes((1,)) + bytes(16 * 16 * 4),  # raw
        bytes((2,)) + b"back",
        bytes((2 | 4 | 8, *b"backfore", 3)) + bytes(2 * 3),
        bytes((8 | 16, 2)) + bytes(2 * (4 + 2)),
        bytes((0,)),
        bytes((1,)) + bytes(4 * 4 * 4),
    )
)
"""Six tiles of 36 x 20: raw, background, parts, coloured parts, unchanged, and a raw corner."""

RECTANGLES = {
    "raw": rectangle(3, 2, Encoding.RAW, bytes(3 * 2 * 4)),
    "raw, empty": rectangle(0, 0, Encoding.RAW),
    "copy": rectangle(3, 2, Encoding.COPY_RECT, b"\0\1\0\2"),
    "RRE": rectangle(9, 9, Encoding.RRE, struct.pack(">I", 2) + b"back" + bytes(2 * 12)),
    "hextile": rectangle(36, 20, Encoding.HEXTILE, HEXTILE),
    "zlib": rectangle(9, 9, Encoding.ZLIB, COUNTED),
    "ZRLE": rectangle(9, 9, Encoding.ZRLE, COUNTED),
    "tight fill": rectangle(9, 9, Encoding.TIGHT, tight(8, b"rgb")),
    "tight JPEG": rectangle(9, 9, Encoding.TIGHT, tight(9, compact(300) + bytes(300))),
    "tight long": rectangle(99, 99, Encoding.TIGHT, tight(0, compact(20000) + bytes(20000))),
    "tight longest": rectangle(
        2000, 2000, Encoding.TIGHT, tight(0, b"\xff\xff\xff" + bytes((1 << 22) - 1))
    ),
    "tight basic": rectangle(9, 9, Encoding.TIGHT, tight(0, compact(17) + bytes(17))),
    "tight small": rectangle(3, 1, Encoding.TIGHT, tight(0, b"rgbrgbrgb")),
    "tight copy": rectangle(9, 9, Encoding.TIGHT, tight(4, b"\0" + compact(17) + bytes(17))),
    "tight gradient": rectangle(9, 9, Encoding.TIGHT, tight(6, b"\2" + compact(17) + bytes(17))),
    "tight two colours": rectangle(
        9, 9, Encoding.TIGHT, tight(5, b"\1\1rgbrgb" + compact(18) + bytes(18))
    ),
    "tight two colours, small": rectangle(8, 2, Encoding.TIGHT, tight(4, b"\1\1rgbrgb" + b"ab")),
    "tight palette": rectangle(
        9, 9, Encoding.TIGHT, tight(4, b"\1\3" + b"rgb" * 4 + compact(30) + bytes(30))
    ),
    "cursor": rectangle(9, 3, Encoding.CURSOR, bytes(9 * 3 * 4 + 2 * 3)),
    "VMware cursor": rectangle(3, 3, Encoding.VMWARE_CURSOR, b"\0\0" + bytes(2 * 9 * 4)),
    "VMware cursor, alpha": rectangle(3, 3, Encoding.VMWARE_CURSOR, b"\1\0" + bytes(9 * 4)),
    "desktop size": rectangle(1024, 768, Encoding.DESKTOP_SIZE),
    "extended desktop size": rectangle(
        1024, 768, Encoding.EXTENDED_DESKTOP_SIZE, b"\2\0\0\0" + bytes(32)
    ),
    "desktop name": rectangle(0, 0, Encoding.DESKTOP_NAME, b"\0\0\0\4name"),
    "LED": rectangle(0, 0, Encoding.QEMU_LED, b"\7"),
    "QEMU keys": rectangle(0, 0, Encoding.QEMU_EXTENDED_KEY),
}
MESSAGES = {
    "bell": b"\x02",
    "colour map": struct.pack(">BxHH", 1, 0, 2) + bytes(12),
    "end of continuous updates": b"\x96",
    "fence": struct.pack(">BxxxIB", 248, 0, 4) + b"load",
    "xvp": bytes((250, 0, 1, 1)),
    "empty update": update(),
    "all rectangles": update(*RECTANGLES.values()),
    "last rectangle": b"\0\0\xff\xff" + rectangle(0, 0, Encoding.LAST_RECT),
}


@pytest.mark.parametrize("name", RECTANGLES)
def test_clipboard_text_after_a_rectangle_is_removed(name):
    """The text behind it would pass, or end the session, if its length were wrong."""
    message = update(RECTANGLES[name])
    passed = connected(WITHOUT_CLIPBOARD).from_server(CUT + message + CUT + b"\x02")
    assert passed == message + b"\x02"


@pytest.mark.parametrize("name", MESSAGES)
def test_clipboard_text_after_a_message_is_removed(name):
    passed = connected(WITHOUT_CLIPBOARD).from_server(CUT + MESSAGES[name] + CUT + b"\x02")
    assert passed == MESSAGES[name] + b"\x02"


def test_clipboard_text_is_removed_up_to_16_mib():
    relay_filter = connected(WITHOUT_CLIPBOARD)
    relay_filter.from_server(struct.pack(">BxxxI", 3, 1 << 20))
    for _ in range(16):
        assert relay_filter.from_server(bytes(1 << 16)) == b""
    assert relay_filter.from_server(b"\x02") == b"\x02"
    for length in (1 << 30, -(1 << 30)):
        fails(connected(WITHOUT_CLIPBOARD), struct.pack(">Bxxxi", 3, length), "above 16 MiB")


def test_extended_clipboard_text_is_removed():
    text = struct.pack(">Bxxxi", 3, -20) + bytes(20)
    assert connected(WITHOUT_CLIPBOARD).from_server(text + b"\x02") == b"\x02"


@pytest.mark.parametrize("clipboard", [Clipboard.BOTH, Clipboard.FROM_SERVER])
def test_server_is_not_parsed_where_its_clipboard_may_pass(clipboard):
    relay_filter = connected(RelayRules(SessionMode.CONTROL, clipboard=clipboard))
    assert relay_filter.passes_server
    frame = b"\xffnot RFB"
    assert relay_filter.from_server(frame) is frame


@pytest.mark.parametrize("clipboard", [Clipboard.NONE, Clipboard.TO_SERVER])
def test_server_is_parsed_where_its_clipboard_must_not_pass(clipboard):
    relay_filter = connected(RelayRules(SessionMode.CONTROL, clipboard=clipboard))
    assert not relay_filter.passes_server
    assert relay_filter.from_server(CUT) == b""


def fails(relay_filter: RelayFilter, message: bytes, what: str) -> None:
    with pytest.raises(RfbViolation, match=what):
        relay_filter.from_server(message)


@pytest.mark.parametrize("kind", sorted(set(range(256)) - {0, 1, 2, 3, 150, 248, 250}))
def test_other_server_messages_are_rejected(kind):
    fails(connected(WITHOUT_CLIPBOARD), bytes((kind,)), f"server message type {kind} ")


@pytest.mark.parametrize(
    "encoding", [Encoding.JPEG, Encoding.H264, Encoding.TIGHT_PNG, -316, 15, 99]
)
def test_encodings_without_a_known_length_are_rejected(encoding):
    fails(
        connected(WITHOUT_CLIPBOARD),
        update(rectangle(9, 9, encoding)),
        f"encoding {int(encoding)}, which was not requested",
    )


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (update(rectangle(65535, 65535, Encoding.RAW)), "a rectangle of 65535 x 65535"),
        (update(rectangle(65535, 65535, Encoding.DESKTOP_SIZE)), "65535 x 65535"),
        (update(rectangle(65535, 600, Encoding.EXTENDED_DESKTOP_SIZE)), "65535 x 600"),
        (update(rectangle(9, 9, Encoding.ZRLE, b"\xff\xff\xff\xff")), "compressed rectangle"),
        (update(rectangle(9, 9, Encoding.RRE, struct.pack(">I", 82))), "82 parts"),
        (update(rectangle(9, 9, Encoding.TIGHT, tight(10, b""))), "compression 10"),
        (update(rectangle(9, 9, Encoding.TIGHT, tight(4, b"\3"))), "filter 3"),
        (update(rectangle(9, 9, Encoding.VMWARE_CURSOR, b"\2\0")), "type 2"),
        (update(rectangle(0, 0, Encoding.DESKTOP_NAME, b"\x7f\0\0\0")), "desktop name"),
        (struct.pack(">BxxxIB", 248, 0, 65), "ServerFence"),
    ],
)
def test_server_message_out_of_bounds_is_rejected(message, what):
    fails(connected(WITHOUT_CLIPBOARD), message, what)


def test_lengths_follow_the_browsers_pixel_format():
    relay_filter = connected(WITHOUT_CLIPBOARD)
    high_colour = struct.pack(">BBBBHHHBBBxxx", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0)
    relay_filter.from_browser(rfb.set_pixel_format(high_colour))
    message = update(
        rectangle(3, 2, Encoding.RAW, bytes(12)), rectangle(9, 9, Encoding.TIGHT, tight(8, b"16"))
    )
    assert relay_filter.from_server(message + CUT + b"\x02") == message + b"\x02"


def test_large_rectangle_passes_as_it_arrives():
    relay_filter = connected(WITHOUT_CLIPBOARD)
    head = update(rectangle(1000, 1000, Encoding.RAW))
    assert relay_filter.from_server(head) == head
    for _ in range(40):
        assert relay_filter.from_server(bytes(100_000)) == bytes(100_000)
    assert relay_filter.from_server(CUT + b"\x02") == b"\x02"
