"""The client address of a request: the peer's, or the one that trusted proxies report.

One address has one spelling, in rules, logs and audit records: an IPv4 client of an IPv6 listener
has its IPv4 address, and an IPv6 address is compressed and has no zone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

UNIX_PEER: Final = "unix"
"""The address of every client of a Unix socket."""
_ADDRESS_CHARS_MAX: Final = 64
"""An IPv6 address with a zone. It also bounds the cache."""
_WITH_PORT: Final = re.compile(r"\[([^\[\]]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    has_unix_peers: bool = False
    """Clients of the Unix socket are proxies."""

    def __bool__(self) -> bool:
        return bool(self.networks) or self.has_unix_peers

    def __contains__(self, address: str) -> bool:
        """Return whether a canonical address is a proxy's."""
        if address == UNIX_PEER:
            return self.has_unix_peers
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self.networks)


def client_address(peer: str, forwarded_for: Sequence[str], trusted: TrustedProxies) -> str:
    """Return the last address of X-Forwarded-For that is not a trusted proxy's.

    Each proxy appends the address of its peer. The addresses before the last untrusted one are
    unverified and ignored. The whole header is ignored if the peer is not trusted.
    """
    if peer not in trusted:
        return peer
    client = peer
    for element in reversed(",".join(forwarded_for).split(",")):
        text = element.strip()
        if not text:
            continue  # RFC 9110, 5.6.1.2: empty list elements are ignored
        hop = _reported_address(text)
        if not hop:
            break
        client = hop
        if hop not in trusted:
            break
    return client


def canonical_address(text: str) -> str:
    """Return the one spelling of an IP address; "" for any other text."""
    return _canonical(text) if len(text) <= _ADDRESS_CHARS_MAX else ""


@lru_cache(maxsize=4_096)
def _canonical(text: str) -> str:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(_without_mapping(address))


def canonical_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return a network of IPv4-mapped addresses as the IPv4 network that it maps."""
    first = _without_mapping(network.network_address)
    if isinstance(network, IPv6Network) and isinstance(first, IPv4Address):
        return IPv4Network((first, max(0, network.prefixlen - 96)))
    return network


def _reported_address(text: str) -> str:
    """Return the address in an element, which some proxies send with a port."""
    found = _WITH_PORT.fullmatch(text)
    return canonical_address(text if found is None else found[1] or found[2])


def _without_mapping(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
