"""The cookie of a live console: name, paths and attributes."""

from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.domain.model import Secret
from gateway.edge.consoles.session_cookie import SessionCookies

SID = "0" * 32
SECURE = SessionCookies("/gw", is_secure=True, max_age_s=3_600)
LOOPBACK = SessionCookies("", is_secure=False, max_age_s=3_600)


class Sent:
    def __init__(self, *cookies: str) -> None:
        self.headers = CIMultiDict([("Cookie", one) for one in cookies])


def find(cookies: SessionCookies, *sent: str) -> str | None:
    request: Any = Sent(*sent)
    return cookies.find(request, SID)


def test_cookie_has_the_two_paths_of_its_session() -> None:
    headers = SECURE.set_headers(SID, Secret("value"))
    assert [name for name, _ in headers] == ["Set-Cookie", "Set-Cookie"]
    rest = "Max-Age=3600; HttpOnly; SameSite=Strict; Secure"
    assert [value for _, value in headers] == [
        f"__Secure-console-{SID}=value; Path=/gw/console/s/{SID}/; {rest}",
        f"__Secure-console-{SID}=value; Path=/gw/console/sessions; {rest}",
    ]


def test_cookie_over_http_on_loopback_has_neither_prefix_nor_secure() -> None:
    (_, value), _ = LOOPBACK.set_headers(SID, Secret("value"))
    attributes = "Max-Age=3600; HttpOnly; SameSite=Strict"
    assert value == f"console-{SID}=value; Path=/console/s/{SID}/; {attributes}"


def test_removal_has_the_same_paths() -> None:
    values = [value for _, value in SECURE.clear_headers(SID)]
    assert all(f"__Secure-console-{SID}=;" in value and "Max-Age=0" in value for value in values)


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ((f"__Secure-console-{SID}=a",), "a"),
        ((f"x=1; __Secure-console-{SID}=a=b; y=2",), "a=b"),
        ((f"__Secure-console-{SID}=a", f"__Secure-console-{SID}=a"), "a"),
        ((f"__Secure-console-{SID}=a; __Secure-console-{SID}=b",), None),
        ((f"console-{SID}=a",), None),
        ((f"__Secure-console-{'1' * 32}=a",), None),
        ((f"__Secure-console-{SID}=",), None),
        ((f"__Secure-console-{SID}={'a' * 129}",), None),
        ((), None),
    ],
)
def test_cookie_is_found_if_it_is_unambiguous(sent: tuple[str, ...], found: str | None) -> None:
    assert find(SECURE, *sent) == found


def test_number_of_sessions_in_cookies_is_bounded() -> None:
    request: Any = Sent("; ".join(f"console-{n:032x}=v" for n in range(500)))
    assert len(LOOPBACK.session_ids(request)) == 16
