"""Whose address is a request's? The peer's, or what trusted proxies say of those before them."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

Networks = tuple[IPv4Network | IPv6Network, ...]


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Networks) -> str:
    """Return the last address of X-Forwarded-For that no trusted proxy has.

    Each proxy adds its peer at the end, so what stands before the first untrusted address, read
    from the end, may be anybody's invention. Nothing of it is believed from an untrusted peer.
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
