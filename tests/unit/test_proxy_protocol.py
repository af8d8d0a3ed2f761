"""The header of the PROXY protocol, version 2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.listener.proxy_protocol import ProxyHeaderError, header_length, source_address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([198, 51, 100, 7, 10, 0, 0, 1]) + b"\xc8\x22\x01\xbb"
V6 = bytes.fromhex("20010db8000000000000000000000007") + bytes(16) + b"\xc8\x22\x01\xbb"
MAPPED = bytes(10) + b"\xff\xff" + bytes([198, 51, 100, 7]) + bytes(16) + bytes(4)


def header(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + len(rest).to_bytes(2) + rest


def address(raw: bytes) -> str:
    length = header_length(raw[:16])
    assert len(raw) == 16 + length
    return source_address(raw[:16], raw[16:])


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (header(1, 0x11, V4), "198.51.100.7"),
        (header(1, 0x11, V4 + b"\x04\x00\x03abc"), "198.51.100.7"),
        (header(1, 0x21, V6), "2001:db8::7"),
        (header(1, 0x21, MAPPED), "198.51.100.7"),
        (header(0, 0x00, b""), ""),
        (header(0, 0x11, V4), ""),
        (header(1, 0x00, b""), ""),
        (header(1, 0x00, b"extension"), ""),
        (header(1, 0x31, bytes(216)), ""),
    ],
)
def test_header_yields_the_canonical_client_address(raw: bytes, expected: str) -> None:
    assert address(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PROXY TCP4 198.51.100.7 10.0.0.1 51234 443\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
        SIGNATURE + b"\x11\x11\x00\x0c" + V4,  # version 1
        SIGNATURE + b"\x22\x11\x00\x0c" + V4,  # an unknown command
        header(1, 0x12, V4),  # UDP
        header(1, 0x11, V4[:-1]),  # too short for two addresses
        header(1, 0x21, V4),
        header(1, 0x41, V4),
    ],
)
def test_invalid_header_is_rejected(raw: bytes) -> None:
    with pytest.raises(ProxyHeaderError, match="malformed"):
        source_address(raw[:16], raw[16:][: header_length(raw[:16])])


@given(st.binary(min_size=16, max_size=80))
def test_any_bytes_yield_an_address_or_an_error(raw: bytes) -> None:
    for data in (raw, SIGNATURE + raw):
        try:
            found = source_address(data[:16], data[16:][: header_length(data[:16])])
        except ProxyHeaderError:
            continue
        assert found == "" or "." in found or ":" in found
