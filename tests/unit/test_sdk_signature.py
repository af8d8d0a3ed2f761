"""Verification of signed requests: any change of one bit is rejected."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection
from gateway.domain.identity.sdk_signature import (
    IncomingRequest,
    parse_signature,
    signing_time,
    verify_signature,
)
from gateway.domain.model import Secret
from gateway.domain.upstream.signing import sign

AT = 1_800_000_000.0
SECRET = Secret("canary-secret-key")
BODY = b'{"action":"power on"}'


def a_request(**changes: object) -> IncomingRequest:
    fields: dict[str, object] = {
        "method": "PUT",
        "target": "/v1/p/physicalservers/power-state?limit=10&a=b%20c",
        "headers": {"Host": "gw.example:8080", "Content-Type": "application/json"},
        "body": BODY,
        **changes,
    }
    headers = sign(
        method=str(fields["method"]),
        target=str(fields["target"]),
        headers=fields["headers"],  # type: ignore[arg-type]
        body=fields["body"],  # type: ignore[arg-type]
        access_key=Secret("CGWX"),
        secret_key=SECRET,
        at=AT,
    )
    return IncomingRequest(str(fields["method"]), str(fields["target"]), headers)


def check(request: IncomingRequest, body: bytes = BODY, secret: Secret = SECRET) -> None:
    (authorization,) = request.header_values("authorization")
    header = parse_signature(authorization)
    signing_time(request)
    verify_signature(request, header, body, secret)


def rejection(request: IncomingRequest, body: bytes = BODY, secret: Secret = SECRET) -> Rejection:
    with pytest.raises(NotAuthenticated) as caught:
        check(request, body, secret)
    return caught.value.reason


def with_header(
    request: IncomingRequest, name: str, change: Callable[[str], str | None]
) -> IncomingRequest:
    headers = []
    for other, value in request.headers:
        new = change(value) if other == name else value
        if new is not None:
            headers.append((other, new))
    return replace(request, headers=headers)


def flipped(text: str, bit: int) -> str:
    raw = bytearray(text.encode())
    raw[bit // 8 % len(raw)] ^= 1 << (bit % 8)
    return raw.decode("utf-8", "surrogateescape")


def test_own_signature_is_accepted() -> None:
    check(a_request())
    check(a_request(method="GET", body=b""), b"")


def test_signing_time_is_utc() -> None:
    assert signing_time(a_request()) == AT


@given(st.integers(min_value=0))
def test_method_change_is_rejected(bit: int) -> None:
    request = a_request()
    changed = replace(request, method=flipped(request.method, bit))
    assert rejection(changed) is Rejection.SIGNATURE_MISMATCH


@given(st.integers(min_value=0))
def test_path_or_query_change_is_rejected(bit: int) -> None:
    request = a_request()
    changed = replace(request, target=flipped(request.target, bit))
    assert rejection(changed) is Rejection.SIGNATURE_MISMATCH


@given(st.integers(min_value=0), st.sampled_from(["Host", "Content-Type", "X-Sdk-Date"]))
def test_signed_header_change_is_rejected(bit: int, name: str) -> None:
    request = a_request()
    before = request.header(name.lower())
    changed = with_header(request, name, lambda value: flipped(value, bit))
    assume(changed.header(name.lower()) != before)  # blanks at the ends are no part of a value
    assert rejection(changed) in {Rejection.SIGNATURE_MISMATCH, Rejection.SIGNATURE_MALFORMED}


@given(st.integers(min_value=0))
def test_body_change_is_rejected(bit: int) -> None:
    changed = bytearray(BODY)
    changed[bit // 8 % len(changed)] ^= 1 << (bit % 8)
    assert rejection(a_request(), bytes(changed)) is Rejection.SIGNATURE_MISMATCH


@given(st.integers(min_value=0))
def test_secret_key_change_is_rejected(bit: int) -> None:
    secret = Secret(flipped(SECRET.reveal(), bit).encode("utf-8", "replace").decode())
    assert rejection(a_request(), secret=secret) is Rejection.SIGNATURE_MISMATCH


@given(st.integers(min_value=0))
def test_authorization_change_is_rejected(bit: int) -> None:
    request = a_request()
    (before,) = request.header_values("authorization")
    changed = with_header(request, "Authorization", lambda value: flipped(value, bit))
    (after,) = changed.header_values("authorization")
    assume(read_or_none(after) != read_or_none(before))
    assert rejection(changed) in {Rejection.SIGNATURE_MISMATCH, Rejection.SIGNATURE_MALFORMED}


def read_or_none(authorization: str) -> object:
    """Return what is judged here; the access key is compared with the token's by the caller."""
    try:
        header = parse_signature(authorization)
    except NotAuthenticated:
        return None
    return header.signed_names, header.signature


@pytest.mark.parametrize("name", ["Host", "X-Sdk-Date", "Content-Type"])
def test_missing_signed_header_is_rejected(name: str) -> None:
    assert rejection(with_header(a_request(), name, lambda _: None)) in {
        Rejection.SIGNATURE_MISMATCH,
        Rejection.SIGNATURE_MALFORMED,
    }


@pytest.mark.parametrize("name", ["Host", "X-Sdk-Date", "Content-Type"])
def test_repeated_signed_header_is_malformed(name: str) -> None:
    request = a_request()
    twice = replace(request, headers=(*request.headers, (name.lower(), "other")))
    with pytest.raises(BadRequest):
        check(twice)


def test_host_and_date_must_be_signed() -> None:
    unsigned = a_request(headers={"Content-Type": "application/json"})
    assert rejection(unsigned) is Rejection.SIGNATURE_MALFORMED
    request = with_header(
        a_request(), "Authorization", lambda value: value.replace(";x-sdk-date", "")
    )
    assert rejection(request) is Rejection.SIGNATURE_MALFORMED


def test_unsigned_header_may_change() -> None:
    request = a_request()
    check(replace(request, headers=(*request.headers, ("Via", "1.1 balancer"))))


@pytest.mark.parametrize("names", ["host;content-type;x-sdk-date", "host;host;x-sdk-date", ";host"])
def test_signed_headers_must_be_sorted_and_unique(names: str) -> None:
    request = with_header(
        a_request(),
        "Authorization",
        lambda value: value.replace("content-type;host;x-sdk-date", names),
    )
    assert rejection(request) is Rejection.SIGNATURE_MALFORMED


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "SDK-HMAC-SHA256",
        "SDK-HMAC-SHA256 Access=x",
        "SDK-HMAC-SM3 Access=x, SignedHeaders=host, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=x, SignedHeaders=host, Signature=" + "A" * 64,
        "SDK-HMAC-SHA256 Access=x, SignedHeaders=host, Signature=" + "0" * 63,
        "SDK-HMAC-SHA256 Access=é, SignedHeaders=host, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=x, Access=CGWx, SignedHeaders=host, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=x, SignedHeaders=" + "a;" * 3_000 + "b, Signature=" + "0" * 64,
    ],
)
def test_malformed_authorization_is_rejected(authorization: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        parse_signature(authorization)
    assert caught.value.reason is Rejection.SIGNATURE_MALFORMED


@pytest.mark.parametrize(
    "date", ["", "20270115T080000", "2027-01-15T08:00:00Z", "20271315T080000Z", "\uff12" * 16]
)
def test_malformed_date_is_rejected(date: str) -> None:
    request = with_header(a_request(), "X-Sdk-Date", lambda _: date)
    assert rejection(request) is Rejection.SIGNATURE_MALFORMED


def test_header_bytes_may_be_non_utf8() -> None:
    malformed = replace(a_request(), target="/v1/p/\udcff?x=\udcfe")
    assert rejection(malformed) is Rejection.SIGNATURE_MISMATCH


def test_repr_has_no_signature() -> None:
    request = a_request()
    header = parse_signature(request.header_values("authorization")[0])
    assert header.signature not in repr(header) + repr(request)
