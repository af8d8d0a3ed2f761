import struct

import pytest

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.encodings import KNOWN, MEASURABLE, Encoding
from gateway.domain.rfb.power import PowerAction, PowerRequest
from gateway.domain.rfb.relay_filter import RelayFilter
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import RfbViolation
from tests.support import rfb
from tests.support.rfb import CONTROL, VIEW, WITHOUT_CLIPBOARD, connected

MESSAGES = {
    "pixel format": rfb.set_pixel_format(),
    "update request": rfb.update_request(),
    "key": rfb.key(0xFF0D),
    "QEMU key": rfb.qemu_key(0xFF0D, 28),
    "pointer": rfb.pointer(3, 4, 1),
    "cut text": rfb.cut_text(b"text"),
    "empty cut text": rfb.cut_text(b""),
    "extended text": rfb.provided_text(b"text\0"),
    "extended caps": rfb.extended_cut_text(0x1F << 24 | 1, bytes(4)),
    "extended request": rfb.extended_cut_text(1 << 25 | 1),
    "fence": rfb.fence(b"12345678"),
    "empty fence": rfb.fence(b""),
    "continuous updates": rfb.continuous_updates(),
    "desktop size": rfb.set_desktop_size(1024, 768),
}
PASS_IN_VIEW = {"pixel format", "update request"}
ALLOWED_TYPES = {0, 2, 3, 4, 5, 6, 150, 248, 250, 251, 255}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_of_novnc_pass_unchanged(name):
    assert connected(CONTROL).from_browser(MESSAGES[name]) == MESSAGES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_view_only_drops_what_a_person_does(name):
    relay_filter = connected(CONTROL)
    relay_filter.become_view_only()
    expected = MESSAGES[name] if name in PASS_IN_VIEW else b""
    assert relay_filter.from_browser(MESSAGES[name]) == expected


def test_filter_continues_after_a_dropped_message():
    request = rfb.update_request()
    assert connected(VIEW).from_browser(rfb.key(65) + request + rfb.key(66)) == request


@pytest.mark.parametrize("kind", sorted(set(range(256)) - ALLOWED_TYPES))
def test_other_message_types_are_rejected(kind):
    for rules in (CONTROL, VIEW):
        with pytest.raises(RfbViolation, match=f"client message type {kind} is not allowed"):
            connected(rules).from_browser(bytes((kind,)))


@pytest.mark.parametrize(
    "message",
    [rfb.fence(b"1"), rfb.continuous_updates(), rfb.set_desktop_size(9, 9), rfb.qemu_key(65, 30)],
    ids=["fence", "continuous updates", "desktop size", "QEMU key"],
)
def test_extension_that_was_not_announced_is_rejected(message):
    with pytest.raises(RfbViolation, match="not announced"):
        connected(CONTROL, announce=(0, 1)).from_browser(message)


@pytest.mark.parametrize("message", [rfb.fence(b"1"), rfb.continuous_updates()])
def test_view_only_session_does_without_fences(message):
    """A server that skips an unknown type would read a key in the payload."""
    with pytest.raises(RfbViolation, match="not announced"):
        connected(VIEW).from_browser(message)


@pytest.mark.parametrize("action", PowerAction)
def test_xvp_waits_for_its_record(action):
    """The relay sends it once the record is written."""
    relay_filter = connected(RelayRules(SessionMode.CONTROL, power=True))
    request = rfb.update_request()
    assert relay_filter.from_browser(rfb.xvp(action) + request) == request
    assert relay_filter.take_power_requests() == [PowerRequest(action, is_allowed=True)]
    assert relay_filter.take_power_requests() == []
    assert (relay_filter.passes_power, action.message()) == (True, rfb.xvp(action))


def test_xvp_passes_only_with_power():
    forbidden = connected(RelayRules(SessionMode.CONTROL, power=True))
    forbidden.forbid_power()
    became_view = connected(RelayRules(SessionMode.CONTROL, power=True))
    became_view.become_view_only()
    view = connected(RelayRules(SessionMode.VIEW, power=True))
    for relay_filter in (connected(CONTROL), forbidden, became_view, view):
        assert relay_filter.from_browser(rfb.xvp(3)) == b""
        (request,) = relay_filter.take_power_requests()
        assert not request.is_allowed
        assert not relay_filter.passes_power


def encodings_of(message: bytes) -> list[int]:
    (count,) = struct.unpack_from(">H", message, 2)
    assert len(message) == 4 + 4 * count
    return [number for (number,) in struct.iter_unpack(">i", message[4:])]


@pytest.mark.parametrize(
    ("rules", "removed"),
    [
        (RelayRules(SessionMode.CONTROL, power=True), {-316}),
        (CONTROL, {-316, -309}),
        (VIEW, {-316, -309, -312, -313, Encoding.EXTENDED_CLIPBOARD}),
        (
            RelayRules(SessionMode.CONTROL, clipboard=Clipboard.FROM_SERVER),
            {-316, -309, Encoding.EXTENDED_CLIPBOARD},
        ),
        (WITHOUT_CLIPBOARD, {-316, -309, Encoding.EXTENDED_CLIPBOARD, 50, 21, -260}),
    ],
    ids=["power", "control", "view", "from server", "parsed"],
)
def test_set_encodings_is_cut_to_what_is_parsed(rules, removed):
    offered = [*rfb.NOVNC_ENCODINGS, 15, 1000, -1, -314]
    passed = connected(rules, announce=None).from_browser(rfb.set_encodings(*offered))
    assert encodings_of(passed) == [
        number for number in rfb.NOVNC_ENCODINGS if number not in removed
    ]


def test_measurable_encodings_are_a_part_of_the_known():
    assert MEASURABLE < KNOWN


def test_pointer_event_always_has_six_bytes():
    """A seventh byte of the extended form would be a message of its own for most servers."""
    hidden_xvp = rfb.pointer(1, 2, 0x81) + bytes((250,))
    assert connected(CONTROL).from_browser(hidden_xvp) == rfb.pointer(1, 2, 0x01)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (struct.pack(">BxxxI", 6, 1 << 30), "ClientCutText: bytes"),
        (struct.pack(">BxxxI", 6, 64 * 1024 + 1), "ClientCutText: bytes"),
        (struct.pack(">Bxxxi", 6, -(1 << 30)), "ClientCutText: extended bytes"),
        (struct.pack(">Bxxxi", 6, -(1 << 31)), "ClientCutText: extended bytes"),
        (struct.pack(">Bxxxi", 6, -3), "at least 4 bytes"),
        (struct.pack(">BxH", 2, 257), "SetEncodings"),
        (struct.pack(">BxxxIB", 248, 0, 65), "ClientFence"),
        (struct.pack(">BxHHBx", 251, 9, 9, 17), "SetDesktopSize: screens"),
        (rfb.set_desktop_size(65535, 65535), "SetDesktopSize: pixels"),
        (
            rfb.set_pixel_format(struct.pack(">BBBBHHHBBBxxx", 24, 24, 0, 1, *[255] * 3, 0, 8, 16)),
            "24 bits",
        ),
        (struct.pack(">BBHII", 255, 1, 1, 65, 30), "QEMU client message 1"),
        (rfb.extended_cut_text(1 << 25, b"more"), "has 4 bytes"),
        (rfb.extended_cut_text(0x1F << 24 | 3, bytes(4)), "do not match"),
        (rfb.extended_cut_text(1 << 28 | 1, b"not zlib"), "damaged"),
        (rfb.provided_text(bytes(1 << 20)), "decompressed bytes"),
        (rfb.xvp(0), "xvp 1, operation 0"),
        (rfb.xvp(5), "xvp 1, operation 5"),
        (bytes((250, 0, 2, 3)), "xvp 2, operation 3"),
        (rfb.xvp(3) * 9, "xvp: more than 8"),
    ],
)
def test_message_out_of_bounds_is_rejected(message, what):
    with pytest.raises(RfbViolation, match=what):
        connected(CONTROL).from_browser(message)


def test_cut_text_at_the_limit_passes():
    message = rfb.cut_text(b"x" * (64 * 1024))
    assert connected(CONTROL).from_browser(message) == message


@pytest.mark.parametrize("clipboard", list(Clipboard))
def test_clipboard_towards_the_server_follows_the_setting(clipboard):
    relay_filter = connected(RelayRules(SessionMode.CONTROL, clipboard=clipboard))
    passes = clipboard in {Clipboard.BOTH, Clipboard.TO_SERVER}
    message = rfb.cut_text(b"text")
    assert relay_filter.from_browser(message) == (message if passes else b"")


@pytest.mark.parametrize("clipboard", set(Clipboard) - {Clipboard.BOTH})
def test_extended_clipboard_needs_both_directions(clipboard):
    relay_filter = connected(RelayRules(SessionMode.CONTROL, clipboard=clipboard))
    with pytest.raises(RfbViolation, match="not announced"):
        relay_filter.from_browser(rfb.provided_text(b"text\0"))


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        (rfb.key(65), True),
        (rfb.qemu_key(65, 30), True),
        (rfb.pointer(1, 1), True),
        (rfb.cut_text(b"t"), True),
        (rfb.update_request(), False),
        (rfb.fence(b"1"), False),
        (rfb.continuous_updates(), False),
    ],
)
def test_inputs_count_messages_of_a_person(message, counts):
    relay_filter = connected(CONTROL)
    relay_filter.from_browser(message)
    assert relay_filter.inputs == counts


def test_padding_carries_nothing():
    """In each mode: a viewer could send data to a server in on it."""
    request = rfb.update_request()
    dirty = bytes((0, 1, 2, 3)) + rfb.TRUE_COLOUR[:13] + b"abc" + request[:1] + b"k" + request[2:]
    for rules in (CONTROL, VIEW):
        assert connected(rules).from_browser(dirty) == rfb.set_pixel_format() + request


def without_extensions() -> RelayFilter:
    """Return a filter without the extensions that a view-only session withdraws."""
    return connected(CONTROL, announce=(0, 1, Encoding.QEMU_EXTENDED_KEY))


def test_change_to_view_releases_what_is_pressed():
    relay_filter = without_extensions()
    relay_filter.from_browser(rfb.key(0xFFE3) + rfb.key(65) + rfb.key(65, down=False))
    relay_filter.from_browser(rfb.qemu_key(66, 31) + rfb.pointer(7, 8, 1))
    assert relay_filter.become_view_only() == (
        rfb.key(0xFFE3, down=False) + rfb.qemu_key(66, 31, down=False) + rfb.pointer(7, 8, 0)
    )
    assert relay_filter.become_view_only() == b""


def test_pressed_keys_are_bounded():
    relay_filter = without_extensions()
    for keysym in range(1000):
        relay_filter.from_browser(rfb.key(keysym))
    assert len(relay_filter.become_view_only()) == 64 * 8


def test_change_to_view_withdraws_extensions():
    """The server would wait for the browser's fences, and send no further picture."""
    relay_filter = connected(CONTROL, announce=None)
    passed = relay_filter.from_browser(rfb.set_encodings(*rfb.NOVNC_ENCODINGS))
    relay_filter.from_browser(rfb.continuous_updates())
    left = set(encodings_of(passed)) - {-312, -313, Encoding.EXTENDED_CLIPBOARD}
    assert relay_filter.become_view_only() == (
        rfb.continuous_updates(enable=False)
        + rfb.set_encodings(*(one for one in encodings_of(passed) if one in left))
        + rfb.update_request()
    )
    # Messages sent before the browser knows are dropped, without a violation.
    late = rfb.fence(b"12345678") + rfb.continuous_updates() + rfb.qemu_key(65, 30)
    assert relay_filter.from_browser(late) == b""
    again = relay_filter.from_browser(rfb.set_encodings(*rfb.NOVNC_ENCODINGS))
    assert set(encodings_of(again)) == left


def test_change_to_view_before_the_first_encodings_sends_nothing():
    assert connected(CONTROL, announce=None).become_view_only() == b""


def test_continuous_updates_that_are_off_are_not_withdrawn():
    relay_filter = connected(CONTROL)
    relay_filter.from_browser(rfb.continuous_updates() + rfb.continuous_updates(enable=False))
    assert relay_filter.become_view_only()[0] == 2, "SetEncodings only"


def test_size_of_pixels_is_fixed_while_updates_are_parsed():
    small = struct.pack(">BBBBHHHBBBxxx", 16, 15, 0, 1, 31, 31, 31, 0, 5, 10)
    relay_filter = connected(WITHOUT_CLIPBOARD)
    assert relay_filter.from_browser(rfb.set_pixel_format(small))
    relay_filter.from_browser(rfb.update_request())
    assert relay_filter.from_browser(rfb.set_pixel_format(small))
    with pytest.raises(RfbViolation, match="SetPixelFormat"):
        relay_filter.from_browser(rfb.set_pixel_format())
