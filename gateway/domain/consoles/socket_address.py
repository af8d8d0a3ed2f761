"""The address of the cloud's console WebSocket, from a console link and a template. Pure.

The cloud documents the link only, so the WebSocket's address follows from the version of noVNC that
serves the link's page (upstream-api.md#1.3). Both forms that are known have a name here.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import Secret

SHAPES: Final = {
    "directory": "wss://{host}/{directory}websockify?token={token}",
    "root": "wss://{host}/websockify?token={token}",
}
"""Templates by name. `directory`: below the link's page, as noVNC 1.6 and later do. `root`: at the
root of the link's host, as earlier versions do."""
PLACEHOLDERS: Final = ("host", "directory", "token")
_PLACEHOLDER: Final = re.compile(r"\{([a-z]*)\}")
_TEMPLATE: Final = re.compile(r"wss://[!-\[\]-~]+")
_HTTPS_PORT: Final = 443

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_NAT64: Final = ip_network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address."""
_LOCAL_NAT64: Final = ip_network("64:ff9b:1::/48")
"""RFC 8215: the position of the IPv4 address depends on the network, so it cannot be checked."""


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """The address of a WebSocket. The URL contains the console's token."""

    url: Secret
    host: str
    port: int


class SocketAddressError(ValueError):
    """A link or a template gives no usable address. The text holds no part of a link's token."""


def template_problem(template: str) -> str:
    """Return why a template cannot be used; empty if it can."""
    unknown = set(_PLACEHOLDER.findall(template)) - set(PLACEHOLDERS)
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        return f"has the unknown placeholder {{{min(unknown)}}}; use {known}"
    if not _TEMPLATE.fullmatch(template) or "#" in template:
        return "must begin with wss:// and have no blank, backslash and fragment"
    if "{token}" not in template:
        return "must contain {token}"
    authority = template.removeprefix("wss://").partition("/")[0].partition("?")[0]
    if {"{token}", "{directory}"} & set(re.findall(r"\{[a-z]+\}", authority)) or "@" in authority:
        return "must have only a host, or {host}, before the path"
    return ""


def socket_address(link: Secret, template: str, allowed: ConsoleAddresses) -> SocketAddress:
    """Expand a template for a console link; raise SocketAddressError.

    Every placeholder is percent-encoded. The result is checked against the allowed hosts as the
    link was, because a template may name another host.
    """
    parts = urlsplit(link.reveal())
    values = {
        "host": parts.netloc,
        "directory": _directory(parts.path),
        "token": quote(_token(parts.query), safe=""),
    }
    url = _PLACEHOLDER.sub(lambda found: values[found[1]], template)
    try:
        expanded = urlsplit(url)
        host, port = expanded.hostname or "", expanded.port or _HTTPS_PORT
    except ValueError:
        raise SocketAddressError("the WebSocket's address cannot be parsed") from None
    if expanded.scheme != "wss" or expanded.username is not None or not host:
        raise SocketAddressError("the WebSocket's address is not wss with a host")
    if not allowed.allows(host, port):
        problem = f"the WebSocket's host {host}:{port} is not in `accounts[].links.console_hosts`"
        raise SocketAddressError(problem)
    return SocketAddress(Secret(url), host, port)


def address_problem(address: Address, private_networks: Collection[Network]) -> str:
    """Return why the gateway must not connect to an address; empty if it may.

    A console URL comes from outside. It must not lead into the gateway's own networks, unless
    `console.private_networks` names them.
    """
    real = _embedded(address)
    named = any(one in network for network in private_networks for one in (address, real))
    is_special = (
        real.is_multicast
        or real.is_reserved
        or real in _LOCAL_NAT64
        or (isinstance(real, IPv6Address) and real.is_site_local)
    )
    if named or (real.is_global and not is_special):
        return ""
    return f"{address} is not a public address, and `console.private_networks` does not contain it"


def _embedded(address: Address) -> Address:
    """Return the IPv4 address in an IPv4-mapped IPv6 address, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _directory(path: str) -> str:
    """Return the directory of a link's page, without the leading slash, percent-encoded."""
    segments = [unquote(one) for one in path.split("/")[1:-1]]
    if any(one in (".", "..") or "/" in one or "\\" in one for one in segments):
        raise SocketAddressError("the link's path has a segment that leads elsewhere")
    return "".join(quote(one, safe="") + "/" for one in segments)


def _token(query: str) -> str:
    """Return the console token: parameter `token`, or the one within parameter `path`.

    noVNC 1.1 and later put the token into `path` (`path=websockify%3Ftoken%3D...`).
    """
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    within = parameters.get("path", "").partition("?")[2]
    token = parameters.get("token") or dict(parse_qsl(within)).get("token", "")
    if not token:
        raise SocketAddressError("the link has no parameter `token`")
    return token
