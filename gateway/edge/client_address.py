"""The client address of a request: the peer's, or the one that trusted proxies report."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

Networks = tuple[IPv4Network | IPv6Network, ...]


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Networks) -> str:
    """Return the last address of X-Forwarded-For that is not in a trusted network.

    Each proxy appends the address of its peer. The addresses before the last untrusted one are
    unverified and ignored. The whole header is ignored if the peer is not trusted.
    """
    if not trusted or not _is_in(peer, trusted):
        return peer
    client = peer
    for text in reversed(",".join(forwarded_for).split(",")):
        hop = text.strip()
        if not _is_address(hop):
            break
        client = hop
        if not _is_in(hop, trusted):
            break
    return client


def _is_in(text: str, networks: Networks) -> bool:
    if not _is_address(text):
        return False
    address = ip_address(text)
    return any(address in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
