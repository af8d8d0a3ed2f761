"""Checks of the request line, Host and framing, before any handler runs."""

import pytest
from aiohttp import HttpVersion
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gateway.domain.errors import BadRequest, HttpVersionUnsupported
from gateway.edge.listener.request import CheckedMessage, is_valid_host


def check(
    path: str = "/docs", method: str = "GET", version: tuple[int, int] = (1, 1), **headers: str
) -> CheckedMessage:
    named = {"Host": "gw.example", **{k.replace("_", "-"): v for k, v in headers.items()}}
    message = RawRequestMessage(
        method, path, HttpVersion(*version), CIMultiDictProxy(CIMultiDict(named)),
        (), False, None, False, False, URL(path, encoded=True),
    )  # fmt: skip
    return CheckedMessage(message)


def test_ordinary_request_is_unchanged() -> None:
    checked = check()
    assert (checked.rejection, checked.awaits_continue) == (None, False)
    assert (checked.message.path, checked.message.should_close) == ("/docs", False)


@pytest.mark.parametrize(
    "host",
    [
        "gw", "GW.example", "gw.example:8080", "my_gw", "127.0.0.1", "[::1]:8080", "", "gw:",
        "xn--bcher-kva.example", "a%20b",
    ],
)  # fmt: skip
def test_valid_host_is_accepted(host: str) -> None:
    assert is_valid_host(host)
    assert check(Host=host).rejection is None


@pytest.mark.parametrize(
    "host",
    [
        "x@evil.invalid", "gw/evil", "gw evil", "gw,evil", "gw:80:80", "gw:x", "[::1", "::1",
        "[gw]", "gw?x", "gw#x", "gw\\evil", "bücher.example", "a%2", "<gw>", '"gw"', "a" * 262,
    ],
)  # fmt: skip
def test_invalid_host_is_rejected(host: str) -> None:
    checked = check(Host=host)
    assert type(checked.rejection) is BadRequest
    assert checked.message.should_close


@pytest.mark.parametrize("version", [(2, 0), (0, 9), (3, 0), (1, 2)])
def test_other_http_version_is_rejected(version: tuple[int, int]) -> None:
    checked = check(version=version)
    assert isinstance(checked.rejection, HttpVersionUnsupported)
    assert checked.message.version == (1, 1), "the response must not claim that version"
    assert checked.message.should_close


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://gw.example/v1/p/x?a=1&b", "/v1/p/x?a=1&b"),
        ("https://gw.example/docs", "/docs"),
        ("HTTP://GW.EXAMPLE/docs", "/docs"),
        ("http://gw.example:80/docs", "/docs"),
        ("https://gw.example:443/docs", "/docs"),
        ("http://gw.example", "/"),
        ("http://gw.example?x=1", "/?x=1"),
        ("http://gw.example//evil/x", "//evil/x"),
    ],
)
def test_absolute_target_becomes_its_path(target: str, path: str) -> None:
    checked = check(target)
    assert checked.rejection is None
    assert checked.message.path == path
    assert not checked.message.url.absolute
    assert str(checked.message.url.raw_path_qs) == path


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.invalid/docs",
        "http://user@gw.example/docs",
        "http://gw.example:8080/docs",
        "http:///docs",
        "ftp://gw.example/docs",
        "gw.example:443",
        "docs",
        "*",
    ],
)
def test_target_of_another_host_or_form_is_rejected(target: str) -> None:
    assert type(check(target).rejection) is BadRequest


def test_options_may_have_an_asterisk_as_target() -> None:
    assert check("*", "OPTIONS").rejection is None


def test_connect_is_rejected() -> None:
    assert type(check("http://gw.example/", "CONNECT").rejection) is BadRequest


def test_http_1_0_needs_no_host() -> None:
    assert check("http://gw.example/docs", version=(1, 0), Host="").rejection is None


def test_expectation_counts_in_http_1_1_only() -> None:
    assert check(Expect="100-Continue").awaits_continue
    assert not check(Expect="something-else").awaits_continue
    assert not check(version=(1, 0), Expect="100-continue").awaits_continue


def test_http_1_0_with_transfer_encoding_closes() -> None:
    assert check(version=(1, 0), Transfer_Encoding="chunked").message.should_close
    assert not check(version=(1, 0)).message.should_close
