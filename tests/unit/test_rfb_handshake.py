import struct

import pytest

from gateway.domain.consoles.model import SessionMode
from gateway.domain.rfb.handshake import ConsoleRejected
from gateway.domain.rfb.relay_filter import RelayFilter
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import RfbViolation
from tests.support.rfb import (
    CONTROL,
    GREETING,
    NONE_OFFERED,
    WITHOUT_CLIPBOARD,
    key,
    server_init,
    set_encodings,
)

CHALLENGE = bytes(range(16))
REASON = struct.pack(">I", 3) + b"bad"


def chosen_version(server: bytes, browser: bytes) -> RelayFilter:
    relay_filter = RelayFilter(CONTROL)
    relay_filter.from_server(server)
    relay_filter.from_browser(browser)
    return relay_filter


@pytest.mark.parametrize(
    ("server", "offered"),
    [
        (b"RFB 003.003\n", b"RFB 003.003\n"),
        (b"RFB 003.006\n", b"RFB 003.003\n"),
        (b"RFB 003.007\n", b"RFB 003.007\n"),
        (b"RFB 003.008\n", b"RFB 003.008\n"),
        (b"RFB 003.889\n", b"RFB 003.008\n"),
        (b"RFB 004.000\n", b"RFB 003.008\n"),
        (b"RFB 005.000\n", b"RFB 003.008\n"),
    ],
)
def test_greeting_offers_at_most_version_3_8(server, offered):
    assert RelayFilter(CONTROL).from_server(server) == offered


@pytest.mark.parametrize(
    "greeting",
    [b"RFB 000.000\n", b"RFB 003.002\n", b"SSH-2.0-dropb", b"RFB 3.8\n    ", b"\0" * 12],
)
def test_greeting_of_another_protocol_is_rejected(greeting):
    with pytest.raises(RfbViolation):
        RelayFilter(CONTROL).from_server(greeting)


@pytest.mark.parametrize(
    "answer", [b"RFB 003.889\n", b"RFB 003.005\n", b"RFB 004.000\n", b"x" * 12]
)
def test_browser_requests_an_offered_version_only(answer):
    relay_filter = RelayFilter(CONTROL)
    relay_filter.from_server(GREETING)
    with pytest.raises(RfbViolation, match="version"):
        relay_filter.from_browser(answer)


def test_browser_cannot_raise_the_servers_version():
    relay_filter = RelayFilter(CONTROL)
    relay_filter.from_server(b"RFB 003.003\n")
    with pytest.raises(RfbViolation, match="version"):
        relay_filter.from_browser(GREETING)


def test_handshake_with_password_passes_challenge_and_response():
    relay_filter = chosen_version(GREETING, GREETING)
    assert relay_filter.from_server(b"\x02\x13\x02") == b"\x01\x02"
    assert relay_filter.from_browser(b"\x02") == b"\x02"
    assert relay_filter.from_server(CHALLENGE) == CHALLENGE
    assert relay_filter.from_browser(CHALLENGE[::-1]) == CHALLENGE[::-1]
    assert relay_filter.from_server(bytes(4)) == bytes(4)
    assert relay_filter.from_browser(b"\x01") == b"\x01"
    assert relay_filter.from_server(server_init()) == server_init()
    assert relay_filter.handshake.is_done


def test_version_3_3_lets_the_server_decide():
    relay_filter = chosen_version(b"RFB 003.003\n", b"RFB 003.003\n")
    both = b"\0\0\0\x02" + CHALLENGE
    assert relay_filter.from_server(both) == both
    relay_filter.from_browser(CHALLENGE)
    relay_filter.from_server(bytes(4))
    relay_filter.from_browser(b"\x01")
    relay_filter.from_server(server_init())
    assert relay_filter.handshake.is_done


@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.007\n"])
def test_versions_before_3_8_send_no_result_for_none(version):
    relay_filter = chosen_version(version, version)
    if version.endswith(b"7\n"):
        relay_filter.from_server(NONE_OFFERED)
        relay_filter.from_browser(b"\x01")
    else:
        relay_filter.from_server(b"\0\0\0\x01")
    relay_filter.from_browser(b"\x01")
    relay_filter.from_server(server_init())
    assert relay_filter.handshake.is_done


def test_security_types_that_hide_messages_are_removed():
    relay_filter = chosen_version(GREETING, GREETING)
    assert relay_filter.from_server(b"\x05\x13\x10\x02\x05\x01") == b"\x02\x02\x01"


@pytest.mark.parametrize(
    ("version", "offer"), [(b"RFB 003.008\n", b"\x02\x13\x05"), (b"RFB 003.003\n", b"\0\0\0\x13")]
)
def test_vencrypt_only_is_refused_with_a_word(version, offer):
    relay_filter = chosen_version(version, version)
    with pytest.raises(RfbViolation, match=r"security types that cannot be inspected \(19"):
        relay_filter.from_server(offer)


def test_browser_chooses_an_offered_security_type_only():
    relay_filter = chosen_version(GREETING, GREETING)
    relay_filter.from_server(b"\x02\x13\x02")
    with pytest.raises(RfbViolation, match="type 19"):
        relay_filter.from_browser(b"\x13")


def test_wrong_password_passes_the_reason():
    relay_filter = chosen_version(GREETING, GREETING)
    relay_filter.from_server(b"\x01\x02")
    relay_filter.from_browser(b"\x02")
    relay_filter.from_server(CHALLENGE)
    relay_filter.from_browser(CHALLENGE)
    with pytest.raises(ConsoleRejected, match="password"):
        relay_filter.from_server(b"\0\0\0\x01" + REASON)
    assert relay_filter.handshake.rejection() == b"\0\0\0\x01" + REASON


def test_wrong_password_in_version_3_3_has_no_reason():
    relay_filter = chosen_version(b"RFB 003.003\n", b"RFB 003.003\n")
    relay_filter.from_server(b"\0\0\0\x02" + CHALLENGE)
    relay_filter.from_browser(CHALLENGE)
    with pytest.raises(ConsoleRejected):
        relay_filter.from_server(b"\0\0\0\x01")
    assert relay_filter.handshake.rejection() == b"\0\0\0\x01"


@pytest.mark.parametrize(
    ("version", "refusal"), [(b"RFB 003.008\n", b"\0"), (b"RFB 003.003\n", b"\0\0\0\0")]
)
def test_server_without_security_types_passes_the_reason(version, refusal):
    relay_filter = chosen_version(version, version)
    with pytest.raises(ConsoleRejected):
        relay_filter.from_server(refusal + REASON)
    assert relay_filter.handshake.rejection() == refusal + REASON


def test_reason_is_bounded():
    relay_filter = chosen_version(GREETING, GREETING)
    with pytest.raises(RfbViolation, match="reason"):
        relay_filter.from_server(b"\0" + struct.pack(">I", 1 << 30))


def until_server_init(rules: RelayRules = CONTROL) -> RelayFilter:
    relay_filter = RelayFilter(rules)
    relay_filter.from_server(GREETING)
    relay_filter.from_browser(GREETING)
    relay_filter.from_server(NONE_OFFERED)
    relay_filter.from_browser(b"\x01")
    relay_filter.from_server(bytes(4))
    return relay_filter


def test_shared_flag_is_forced():
    assert until_server_init().from_browser(b"\x00") == b"\x01"


@pytest.mark.parametrize(("width", "height"), [(65535, 65535), (8192, 4097)])
def test_screen_above_32_megapixels_is_rejected(width, height):
    relay_filter = until_server_init()
    relay_filter.from_browser(b"\x01")
    with pytest.raises(RfbViolation, match="pixels"):
        relay_filter.from_server(server_init(width, height))


def test_screen_of_32_megapixels_passes():
    relay_filter = until_server_init()
    relay_filter.from_browser(b"\x01")
    assert relay_filter.from_server(server_init(8192, 4096))


def test_desktop_name_is_bounded():
    relay_filter = until_server_init()
    relay_filter.from_browser(b"\x01")
    with pytest.raises(RfbViolation, match="desktop name"):
        relay_filter.from_server(server_init()[:20] + struct.pack(">I", 1 << 20))


def test_messages_right_after_server_init_pass():
    relay_filter = until_server_init()
    relay_filter.from_browser(b"\x01")
    assert not relay_filter.passes_server
    assert relay_filter.from_server(server_init() + b"\x02") == server_init() + b"\x02"
    assert relay_filter.passes_server


def test_messages_right_after_server_init_are_parsed_where_required():
    relay_filter = until_server_init(WITHOUT_CLIPBOARD)
    relay_filter.from_browser(b"\x01")
    cut = b"\x03\0\0\0\0\0\0\x04text"
    assert relay_filter.from_server(server_init() + cut + b"\x02") == server_init() + b"\x02"
    assert not relay_filter.passes_server


@pytest.mark.parametrize(
    "early", [set_encodings(0), key(65), b"\x01\x01"], ids=["encodings", "key", "two flags"]
)
def test_browser_cannot_send_messages_before_server_init(early):
    relay_filter = until_server_init()
    with pytest.raises(RfbViolation, match="the browser sent data before its turn"):
        relay_filter.from_browser(b"\x01" + early)


def test_browser_cannot_speak_first():
    with pytest.raises(RfbViolation, match="before its turn"):
        RelayFilter(RelayRules(SessionMode.CONTROL)).from_browser(GREETING)


def test_cloud_cannot_answer_for_the_browser():
    relay_filter = RelayFilter(CONTROL)
    with pytest.raises(RfbViolation, match="the cloud sent data before its turn"):
        relay_filter.from_server(GREETING + NONE_OFFERED)
