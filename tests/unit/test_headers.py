"""The allow-lists of request and response headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.catalogue.headers import request_headers, response_headers
from gateway.domain.model import ResponseKind

OURS = {
    "X-Request-Id": "req-1",
    "Via": "1.1 console-gateway",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
}
CONDITIONAL = {"Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since"}
ALLOWED = {*OURS, *CONDITIONAL}


def forwarded(
    *headers: tuple[str, str], kind: ResponseKind = ResponseKind.LISTED
) -> dict[str, str]:
    return dict(request_headers(headers, "req-1", kind))


def test_request_id_is_the_gateways_own() -> None:
    assert forwarded(("X-Request-Id", "theirs")) == OURS


def test_accept_is_forwarded_for_unread_bodies() -> None:
    sent = ("ACCEPT", "application/xml")
    for kind in (ResponseKind.WHOLE, ResponseKind.STREAMED):
        assert forwarded(sent, kind=kind)["Accept"] == "application/xml"


@pytest.mark.parametrize("kind", [ResponseKind.LISTED, ResponseKind.CONSOLE_LINK])
def test_shared_fetch_has_the_gateways_own_headers(kind: ResponseKind) -> None:
    sent = [("Accept", "application/xml"), ("Accept-Encoding", "gzip"), ("Content-Type", "a/b")]
    assert forwarded(*sent, kind=kind) == OURS


@pytest.mark.parametrize("kind", list(ResponseKind))
def test_content_type_is_the_gateways_own(kind: ResponseKind) -> None:
    theirs = ("Content-Type", "application/json; charset=utf-7")
    assert "Content-Type" not in forwarded(theirs, kind=kind)
    sent = dict(request_headers([theirs], "req-1", kind, has_body=True))
    assert sent["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "authorization", "X-Auth-Token", "X_Auth_Token", "X-Security-Token",
        "X-Sdk-Date", "X-Project-Id", "X-Domain-Id", "Cookie", "X-Apig-Mode", "Host", "Via",
        "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer", "Upgrade",
        "Proxy-Authorization", "Content-Length", "Expect", "X-Forwarded-For", "Forwarded",
        "traceparent", "tracestate", "Content-Type",
    ],
)  # fmt: skip
def test_credentials_and_hop_headers_are_dropped(name: str) -> None:
    assert forwarded((name, "canary")) == OURS
    assert "canary" not in forwarded((name, "canary"), kind=ResponseKind.STREAMED).values()


def test_headers_named_by_connection_are_dropped() -> None:
    named = (("Accept", "text/plain"), ("Connection", "close, ACCEPT"))
    assert "Accept" not in forwarded(*named, kind=ResponseKind.WHOLE)


def test_duplicate_header_is_dropped() -> None:
    twice = (("Accept", "a/b"), ("accept", "c/d"))
    assert "Accept" not in forwarded(*twice, kind=ResponseKind.WHOLE)


def test_conditional_headers_are_forwarded_when_streaming() -> None:
    sent = [(name, "x") for name in sorted(CONDITIONAL)]
    assert not CONDITIONAL - set(forwarded(*sent, kind=ResponseKind.STREAMED))
    for kind in (ResponseKind.WHOLE, ResponseKind.LISTED, ResponseKind.CONSOLE_LINK):
        assert not CONDITIONAL & set(forwarded(*sent, kind=kind))


@pytest.mark.parametrize(
    ("accepts", "sent"),
    [
        ("gzip", "gzip"),
        ("br, GZIP;q=0.5", "gzip"),
        ("x-gzip", "gzip"),
        ("*", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip; q=0.00", "identity"),
        ("br", "identity"),
        ("", "identity"),
    ],
)
def test_gzip_is_requested_for_whole_bodies_only(accepts: str, sent: str) -> None:
    header = ("Accept-Encoding", accepts)
    assert forwarded(header, kind=ResponseKind.WHOLE)["Accept-Encoding"] == sent
    assert forwarded(header, kind=ResponseKind.STREAMED)["Accept-Encoding"] == "identity"
    assert forwarded(header, kind=ResponseKind.LISTED)["Accept-Encoding"] == "identity"
    assert forwarded(header, kind=ResponseKind.CONSOLE_LINK)["Accept-Encoding"] == "identity"


def test_response_headers_are_limited_to_allow_list() -> None:
    upstream = {
        "content-type": "application/json",
        "etag": '"1"',
        "set-cookie": "canary",
        "server": "canary",
        "x-request-id": "canary",
        "x-auth-token": "canary",
        "link": "canary",
        "content-disposition": "attachment",
        "content-range": "bytes\n0-1",
    }
    assert dict(response_headers(upstream, ResponseKind.WHOLE)) == {
        "Content-Type": "application/json"
    }
    assert set(dict(response_headers(upstream, ResponseKind.STREAMED))) == {
        "Content-Type",
        "ETag",
        "Content-Disposition",
    }


@given(st.lists(st.tuples(st.text(), st.text())))
def test_only_allowed_names_and_values_are_forwarded(headers: list[tuple[str, str]]) -> None:
    for name, value in request_headers(headers, "req-1", ResponseKind.STREAMED):
        assert name in ALLOWED
        assert value.isascii()
        assert value.isprintable()
