"""The address of the cloud's console WebSocket: templates, hosts and IP addresses."""

from ipaddress import ip_address, ip_network

import pytest

from gateway.domain.consoles.socket_address import (
    SHAPES,
    SocketAddressError,
    address_problem,
    socket_address,
    template_problem,
)
from gateway.domain.links.console_link import ConsoleAddresses
from gateway.domain.model import Secret

HOSTS = ConsoleAddresses(("*.consoles.example.com", "other.example.com:8443"))
LINK = "https://eu.consoles.example.com/vnc/NAME.eu/vnc_auto.html?token=T0k%2Fen&quality=0"


def expanded(link: str, template: str) -> str:
    return socket_address(Secret(link), template, HOSTS).url.reveal()


@pytest.mark.parametrize(
    ("shape", "url"),
    [
        ("root", "wss://eu.consoles.example.com/websockify?token=T0k%2Fen"),
        ("directory", "wss://eu.consoles.example.com/vnc/NAME.eu/websockify?token=T0k%2Fen"),
    ],
)
def test_known_shapes_give_the_addresses_of_novnc(shape: str, url: str) -> None:
    assert expanded(LINK, SHAPES[shape]) == url


def test_token_within_the_path_parameter_is_found() -> None:
    link = "https://eu.consoles.example.com/vnc.html?path=websockify%3Ftoken%3Dabc"
    assert expanded(link, SHAPES["root"]) == "wss://eu.consoles.example.com/websockify?token=abc"


def test_port_of_the_link_is_used_and_checked() -> None:
    link = "https://other.example.com:8443/v.html?token=a"
    found = socket_address(Secret(link), SHAPES["root"], HOSTS)
    assert (found.host, found.port) == ("other.example.com", 8443)
    with pytest.raises(SocketAddressError, match=r"other\.example\.com:443 is not in"):
        socket_address(Secret(link), "wss://other.example.com/?token={token}", HOSTS)


@pytest.mark.parametrize(
    "link",
    [
        "https://eu.consoles.example.com/vnc_auto.html",
        "https://eu.consoles.example.com/vnc_auto.html?token=",
        "https://eu.consoles.example.com/vnc.html?path=websockify",
    ],
)
def test_link_without_token_is_an_error(link: str) -> None:
    with pytest.raises(SocketAddressError, match="no parameter `token`"):
        expanded(link, SHAPES["root"])


@pytest.mark.parametrize("path", ["/a/../b/v.html", "/a/%2e%2e/v.html", "/a%2Fb/v.html"])
def test_path_that_leads_elsewhere_is_an_error(path: str) -> None:
    with pytest.raises(SocketAddressError, match="leads elsewhere"):
        expanded(f"https://eu.consoles.example.com{path}?token=a", SHAPES["directory"])


def test_placeholders_are_percent_encoded() -> None:
    link = "https://eu.consoles.example.com/a%20b/v.html?token=x%26y%23z%3Fhost%3Devil"
    assert expanded(link, "wss://{host}/{directory}w?a={token}&b=1") == (
        "wss://eu.consoles.example.com/a%20b/w?a=x%26y%23z%3Fhost%3Devil&b=1"
    )


def test_address_and_errors_show_no_token() -> None:
    found = socket_address(Secret(LINK), SHAPES["root"], HOSTS)
    assert "T0k" not in repr(found)
    with pytest.raises(SocketAddressError) as error:
        socket_address(Secret(LINK), "wss://evil.example.net/?token={token}", HOSTS)
    assert "T0k" not in str(error.value)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("wss://{host}/x?token={token}", ""),
        ("ws://{host}/x?token={token}", "must begin with wss://"),
        ("wss://{host}/x", "must contain {token}"),
        ("wss://{host}/{name}?token={token}", "unknown placeholder {name}"),
        ("wss://{host}/x?token={token}#a", "fragment"),
        ("wss://{host}/x y?token={token}", "blank"),
        ("wss://{token}.example.com/", "only a host"),
        ("wss://user@{host}/?token={token}", "only a host"),
    ],
)
def test_template_is_checked(template: str, problem: str) -> None:
    assert problem in template_problem(template)
    assert bool(problem) == bool(template_problem(template))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "198.18.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fd00::1", "fec0::1", "ff02::1", "ff0e::1", "::8.8.8.8"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::808:808"),
        *("2002:a00:1::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
    ],
)
def test_address_that_is_not_public_is_refused(address: str) -> None:
    assert "is not a public address" in address_problem(ip_address(address), ())


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_public_address_is_allowed(address: str) -> None:
    assert address_problem(ip_address(address), ()) == ""


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"])
def test_private_network_that_the_config_names_is_allowed(address: str) -> None:
    networks = (ip_network("fd00::/8"), ip_network("10.1.0.0/16"))
    assert address_problem(ip_address(address), networks) == ""
    assert address_problem(ip_address("10.2.0.1"), networks) != ""
