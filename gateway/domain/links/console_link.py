"""Validation of console URLs in responses of the cloud. Pure."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.domain.errors import UpstreamBroken
from gateway.domain.model import Secret, UpstreamResponse, is_ok

_URL_CHARS_MAX = 8_192
_HTTPS_PORT = 443
_ORIGIN = re.compile(r"[^/?#]*(?://[^/?#]*)?")
"""Scheme and authority, as `urlsplit` separates them from the rest."""


@dataclass(frozen=True, slots=True)
class ConsoleAddresses:
    """The hosts that console links of an account may have."""

    hosts: tuple[str, ...]
    """Exact names, or `*.domain` for names below a domain; lower case. `:port` allows one port."""

    def allows(self, host: str, port: int) -> bool:
        return any(_matches(allowed, host, port) for allowed in self.hosts)


def _matches(allowed: str, host: str, port: int) -> bool:
    name, _, only_port = allowed.partition(":")
    if only_port and int(only_port) != port:
        return False
    if name.startswith("*."):
        return host.endswith(name[1:]) and len(host) > len(name) - 1
    return host == name


def console_url(response: UpstreamResponse, allowed: ConsoleAddresses) -> Secret:
    """Return the URL of a 200 response; raise UpstreamBroken unless it may be issued.

    The body must be a JSON object with a string `url` on an allowed host. The vendor's SDK accepts
    a 200 without a `url` as success (upstream-api.md#4.4).
    """
    if not is_ok(response.status):
        raise UpstreamBroken(f"console: status {response.status} instead of 200")
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        raise UpstreamBroken("console: the body is not JSON") from None
    url = body.get("url") if isinstance(body, dict) else None
    if not isinstance(url, str):
        raise UpstreamBroken("console: no string `url` in the body")
    problem = _url_problem(url, allowed)
    if problem:
        raise UpstreamBroken(f"console: {problem}")
    return Secret(url)


def _url_problem(url: str, allowed: ConsoleAddresses) -> str:
    # A URL that a browser might parse differently is rejected, not corrected.
    if len(url) > _URL_CHARS_MAX or not re.fullmatch(r"[!-\[\]-~]+", url):
        return "the URL is too long, or has blanks, backslashes or non-ASCII characters"
    origin = _ORIGIN.match(url)
    return _origin_problem(origin[0] if origin else "", allowed)


@lru_cache(maxsize=256)
def _origin_problem(origin: str, allowed: ConsoleAddresses) -> str:
    """Check scheme and authority; an account's links have few different ones."""
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port or _HTTPS_PORT
    except ValueError:
        return "the URL cannot be parsed"
    if parts.scheme != "https":
        return "the URL is not https"
    if parts.username is not None or parts.password is not None:
        return "the URL has user information"
    if not re.fullmatch(r"[a-z0-9.-]{1,253}", host):
        return "the URL's host is not a host name"
    if not allowed.allows(host, port):
        return f"the URL's host {host}:{port} is not in `accounts[].links.console_hosts`"
    return ""
