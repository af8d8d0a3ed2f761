"""The address of a gateway, as people type it."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from gateway.commands.exit_codes import usage_error

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[^\x00-\x20\x7f\\]+")
_PREFIX: Final = re.compile(
    r"(?:/(?!(?:\.|%2[Ee]){1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*/?"
)
"""A path (RFC 3986, 3.3)."""


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    host: str
    port: int
    is_https: bool
    prefix: str = ""
    """The path before each path of the API, where a reverse proxy serves several services."""

    def __str__(self) -> str:
        """Return the one form of this address, which logins are stored under."""
        scheme = "https" if self.is_https else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host.lower()}:{self.port}{self.prefix}"


def parse_url(url: str) -> GatewayAddress:
    """Raise CommandFailed if the URL is unusable.

    No part is ignored: the token would be sent to a service that the URL does not name.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # each connection encodes it
    except ValueError:
        raise usage_error("--gateway must be a URL such as https://gateway.example:8443.") from None
    # urlsplit removes line breaks, tabs and leading blanks from the URL.
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or not _is_visible(url):
        raise usage_error("--gateway must be an http or https URL with a host.")
    if parts.username is not None:
        raise usage_error("--gateway must not contain a user: specify the token separately.")
    if "?" in url or "#" in url:
        raise usage_error("--gateway must not have a query or a fragment.")
    if not _PREFIX.fullmatch(parts.path):
        raise usage_error("--gateway must have an encoded path without empty or dot segments.")
    if parts.scheme == "http" and not is_loopback(host):
        raise usage_error("--gateway must be an https URL: http would send the token unencrypted.")
    # Explicit: http.client takes the text after the last colon of an IPv6 address for a port.
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    return GatewayAddress(
        host, port, is_https=parts.scheme == "https", prefix=parts.path.rstrip("/")
    )


def _is_visible(text: str) -> bool:
    return text.isprintable() and " " not in text


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
