"""Cookies of a request."""

from collections.abc import Iterator
from typing import Final

from gateway.edge.listener.request import ListenerRequest

_VALUE_CHARS_MAX: Final = 128


def find_cookie(request: ListenerRequest, name: str) -> str | None:
    """Return a cookie's value; None without exactly one value.

    Two values mean that another host or path has set a cookie of this name, too.
    """
    found = {value for key, value in _cookies(request) if key == name}
    value = found.pop() if len(found) == 1 else ""
    return value if 0 < len(value) <= _VALUE_CHARS_MAX else None


def cookie_names(request: ListenerRequest, start: str) -> list[str]:
    """Return the names of cookies that begin with `start`, without that start, sorted."""
    names = {key for key, _ in _cookies(request)}
    return sorted(name.removeprefix(start) for name in names if name.startswith(start))


def _cookies(request: ListenerRequest) -> Iterator[tuple[str, str]]:
    for header in request.headers.getall("Cookie", ()):
        for one in header.split(";"):
            name, _, value = one.strip().partition("=")
            yield name, value
