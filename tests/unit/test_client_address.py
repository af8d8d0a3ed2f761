"""The client address behind trusted proxies, in its one spelling."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.listener.client_address import (
    TrustedProxies,
    canonical_address,
    canonical_network,
    client_address,
)

TRUSTED = TrustedProxies((ip_network("10.0.0.0/8"), ip_network("::1/128")))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, garbage"], "10.0.0.1"),
        ("10.0.0.1", ["garbage, 198.51.100.1"], "198.51.100.1"),
        ("::1", ["2001:db8::7"], "2001:db8::7"),
        ("", ["198.51.100.1"], ""),
        ("unix", ["198.51.100.1"], "unix"),
    ],
)
def test_forwarded_for_is_read_from_trusted_proxies(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert client_address(peer, forwarded, TRUSTED) == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["198.51.100.7:51234"], "198.51.100.7"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["198.51.100.7,"], "198.51.100.7"),
        (["198.51.100.7, ,\t,", ""], "198.51.100.7"),
        (["198.51.100.7:51234, 10.0.0.2:443"], "198.51.100.7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, ::ffff:10.0.0.2"], "198.51.100.7"),
        (["[::ffff:198.51.100.7]:80"], "198.51.100.7"),
        (["2001:DB8:0:0::7"], "2001:db8::7"),
        (["198.51.100.7:x"], "10.0.0.1"),
        (["198.51.100.7:"], "10.0.0.1"),
        (["198.51.100.7:1234567"], "10.0.0.1"),
        (["[198.51.100.7"], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["_hidden"], "10.0.0.1"),
        (["unix"], "10.0.0.1"),
    ],
)
def test_forwarded_address_has_one_spelling(forwarded: list[str], client: str) -> None:
    """Azure's gateway appends ports; some proxies send a trailing comma."""
    assert client_address("10.0.0.1", forwarded, TRUSTED) == client


def test_unix_peer_is_trusted_only_if_configured() -> None:
    sent = ["198.51.100.1"]
    assert client_address("unix", sent, TrustedProxies(has_unix_peers=True)) == "198.51.100.1"
    assert client_address("10.0.0.1", sent, TrustedProxies(has_unix_peers=True)) == "10.0.0.1"


def test_client_is_peer_without_trusted_proxies() -> None:
    assert client_address("10.0.0.1", ["198.51.100.1"], TrustedProxies()) == "10.0.0.1"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("2001:0DB8::0007", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("010.0.0.1", ""),
        ("localhost", ""),
        ("::1%" + "a" * 64, ""),
        ("", ""),
    ],
)
def test_address_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_address(text) == canonical


@given(st.ip_addresses())
def test_canonical_address_is_a_fixed_point(address: object) -> None:
    once = canonical_address(str(address))
    assert once
    assert canonical_address(once) == once


@pytest.mark.parametrize(
    ("network", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_network_of_mapped_addresses_is_an_ipv4_network(network: str, canonical: str) -> None:
    assert canonical_network(ip_network(network)) == ip_network(canonical)
