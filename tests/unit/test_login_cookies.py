"""Cookies of logins, as browsers on https get them."""

from types import SimpleNamespace
from typing import cast

from multidict import CIMultiDict

from gateway.domain.model import Secret
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.people.login_cookies import LoginCookies

COOKIES = LoginCookies(is_secure=True, session_age_max_s=600)


def request(*cookies: str) -> ListenerRequest:
    headers = CIMultiDict([("Cookie", one) for one in cookies])
    return cast("ListenerRequest", SimpleNamespace(headers=headers))


def test_session_cookie_is_strict_and_bound_to_the_host() -> None:
    ((name, value),) = COOKIES.set_session(Secret("v"))
    assert name == "Set-Cookie"
    assert value == (
        "__Host-gateway-session=v; Path=/; Max-Age=600; HttpOnly; SameSite=Strict; Secure"
    )


def test_login_cookie_comes_back_from_the_provider() -> None:
    ((_, value),) = COOKIES.set_attempt(request(), "00ab", Secret("v"))
    assert value == (
        "__Host-gateway-login-00ab=v; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"
    )


def test_second_cookie_of_the_same_name_voids_both() -> None:
    """Another host of the domain, or an older version without `__Host-`, may have set one."""
    name = "__Host-gateway-session"
    assert COOKIES.session(request(f"{name}=a")) == "a"
    assert COOKIES.session(request(f"{name}=a; {name}=b")) is None
    assert COOKIES.session(request(f"{name}=a", f"{name}=b")) is None
    assert COOKIES.session(request("gateway-session=a")) is None
    assert COOKIES.session(request(f"{name}={'a' * 129}")) is None


def test_oldest_login_makes_place() -> None:
    known = "; ".join(f"__Host-gateway-login-000{i}=x" for i in range(5))
    removed, added = COOKIES.set_attempt(request(known), "0009", Secret("v"))
    assert removed[1].startswith("__Host-gateway-login-0000=; Path=/; Max-Age=0")
    assert added[1].startswith("__Host-gateway-login-0009=v")


def test_listeners_have_other_names() -> None:
    """Cookies know no ports: a browser sends those of both listeners to both."""
    admin = LoginCookies(is_secure=True, session_age_max_s=600, name="gateway-admin")
    both = request("__Host-gateway-session=a; __Host-gateway-admin-session=b")
    assert (COOKIES.session(both), admin.session(both)) == ("a", "b")
    assert admin.session(request("__Host-gateway-session=a")) is None
    attempts = "; ".join(f"__Host-gateway-login-000{i}=x" for i in range(5))
    ((_, added),) = admin.set_attempt(request(attempts), "0009", Secret("v"))
    assert added.startswith("__Host-gateway-admin-login-0009=v;")
