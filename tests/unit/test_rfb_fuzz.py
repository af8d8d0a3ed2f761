"""Both parsers against arbitrary bytes and arbitrary fragments."""

import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.handshake import ConsoleRejected, Side
from gateway.domain.rfb.relay_filter import RelayFilter
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.violation import RfbViolation
from tests.support import rfb
from tests.support.rfb import connected

ALLOWED = {0, 2, 3, 4, 5, 6, 150, 248, 251, 255}
"""xvp passes only once the relay has its record."""
PASS_IN_VIEW = {0, 2, 3}
FIXED = {0: 20, 3: 10, 4: 8, 5: 6, 150: 10, 250: 4, 255: 12}

all_rules = st.builds(
    RelayRules,
    mode=st.sampled_from(SessionMode),
    clipboard=st.sampled_from(Clipboard),
    power=st.booleans(),
)
u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
client_messages = st.one_of(
    st.builds(rfb.key, u32, down=st.booleans()),
    st.builds(rfb.qemu_key, u32, u32, down=st.booleans()),
    st.builds(rfb.pointer, u16, u16, st.integers(0, 255)),
    st.builds(rfb.cut_text, st.binary(max_size=300)),
    st.builds(rfb.fence, st.binary(max_size=64)),
    st.builds(rfb.set_desktop_size, st.integers(1, 4000), st.integers(1, 4000)),
    st.builds(rfb.xvp, st.integers(0, 5)),
    st.builds(rfb.update_request, incremental=st.booleans()),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=60).map(
        lambda many: rfb.set_encodings(*many)
    ),
    st.builds(rfb.provided_text, st.binary(max_size=300)),
    st.just(rfb.continuous_updates()),
    st.just(rfb.set_pixel_format()),
    st.binary(max_size=20),
)
server_messages = st.one_of(
    st.builds(rfb.server_cut_text, st.binary(max_size=300)),
    st.builds(
        lambda width, height, encoding, body: rfb.update(
            rfb.rectangle(width, height, encoding, body)
        ),
        st.integers(0, 40),
        st.integers(0, 40),
        st.sampled_from(
            [0, 1, 2, 5, 6, 7, 16, -223, -224, -239, -258, -261, -307, -308, 0x574D5664]
        ),
        st.binary(max_size=200),
    ),
    st.sampled_from([b"\x02", b"\x96", bytes((250, 0, 1, 1)), b"\xf8\0\0\0\0\0\0\0\x02ab"]),
    st.binary(max_size=20),
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    points = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(points)]


def feed(relay_filter: RelayFilter, side: Side, pieces: list[bytes]) -> tuple[bytes, str | None]:
    """Return what passes, and the error that ended the stream."""
    passed = b""
    take = relay_filter.from_browser if side is Side.BROWSER else relay_filter.from_server
    try:
        for piece in pieces:
            passed += take(piece)
    except (RfbViolation, ConsoleRejected) as error:
        return passed, str(error)
    return passed, None


def parsed_types(stream: bytes) -> list[int]:
    """Return the types of client messages by an independent reading; fails on an unknown one."""
    types, at = [], 0
    while at < len(stream):
        kind = stream[at]
        match kind:
            case 2:
                size = 4 + 4 * struct.unpack_from(">H", stream, at + 2)[0]
            case 6:
                size = 8 + abs(struct.unpack_from(">i", stream, at + 4)[0])
            case 248:
                size = 9 + stream[at + 8]
            case 251:
                size = 8 + 16 * stream[at + 6]
            case _:
                size = FIXED[kind]
        types.append(kind)
        at += size
    assert at == len(stream), "a message passed in part"
    return types


@given(all_rules, st.lists(client_messages, max_size=12), st.lists(st.integers(0), max_size=30))
def test_fragments_of_client_messages_change_nothing(rules, messages, cuts):
    stream = b"".join(messages)
    whole, error = feed(connected(rules), Side.BROWSER, [stream])
    pieces, same = feed(connected(rules), Side.BROWSER, split(stream, cuts))
    assert error == same
    assert pieces.startswith(whole)
    if error is None:
        assert pieces == whole


@given(all_rules, st.lists(server_messages, max_size=12), st.lists(st.integers(0), max_size=30))
def test_fragments_of_server_messages_change_nothing(rules, messages, cuts):
    stream = b"".join(messages)
    whole, error = feed(connected(rules), Side.CLOUD, [stream])
    pieces, same = feed(connected(rules), Side.CLOUD, split(stream, cuts))
    assert error == same
    assert pieces.startswith(whole)
    if error is None:
        assert pieces == whole


@given(all_rules, st.lists(client_messages | st.binary(max_size=400), max_size=12))
@example(RelayRules(SessionMode.VIEW), [rfb.pointer(0, 0, 0x80) + b"\xfa\0\1\3"])
def test_passed_client_messages_are_whole_and_allowed(rules, messages):
    relay_filter = connected(rules)
    passed, _ = feed(relay_filter, Side.BROWSER, [bytes((byte,)) for byte in b"".join(messages)])
    types = set(parsed_types(passed))
    assert types <= ALLOWED
    if rules.mode is SessionMode.VIEW:
        assert types <= PASS_IN_VIEW
    if not rules.clipboard_to_server:
        assert 6 not in types


@given(st.lists(client_messages, max_size=8), st.lists(client_messages, max_size=8))
def test_client_messages_after_a_change_to_view_carry_no_input(before, after):
    relay_filter = connected(rfb.CONTROL)
    _, error = feed(relay_filter, Side.BROWSER, before)
    changes = relay_filter.become_view_only()
    assert set(parsed_types(changes)) <= PASS_IN_VIEW | {4, 5, 150, 255}, "releases included"
    if error is None:
        passed, _ = feed(relay_filter, Side.BROWSER, after)
        assert set(parsed_types(passed)) <= PASS_IN_VIEW


@given(all_rules, st.lists(st.tuples(st.sampled_from(Side), st.binary(max_size=100)), max_size=20))
def test_random_bytes_never_pass_the_handshake(rules, frames):
    relay_filter = RelayFilter(rules)
    for side, data in frames:
        passed, error = feed(relay_filter, side, [data])
        assert not (side is Side.BROWSER and passed)
        if error is not None:
            break


@given(all_rules, st.lists(st.binary(min_size=1, max_size=2000), max_size=20))
def test_random_server_bytes_end_in_a_violation_only(rules, frames):
    feed(connected(rules), Side.CLOUD, frames)


@pytest.mark.parametrize(
    ("side", "start", "follows"),
    [
        (Side.BROWSER, struct.pack(">BxxxI", 6, 60_000), 59_999),
        (Side.BROWSER, struct.pack(">BxH", 2, 256), 1_023),
        (Side.CLOUD, struct.pack(">BxxxI", 3, 16 * 2**20), 4_000_000),
        (Side.CLOUD, rfb.update(rfb.rectangle(8000, 4000, 0)), 4_000_000),
        (Side.CLOUD, rfb.update(rfb.rectangle(8000, 4000, 16, b"\x0f\0\0\0")), 4_000_000),
    ],
)
def test_unfinished_message_needs_bounded_memory(side, start, follows):
    relay_filter = connected(rfb.WITHOUT_CLIPBOARD)
    take = relay_filter.from_browser if side is Side.BROWSER else relay_filter.from_server
    take(start)
    tracemalloc.start()
    try:
        for _ in range(follows // 1000):
            take(bytes(1000))
        stored, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stored < 128 * 1024
