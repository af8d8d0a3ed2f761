import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import UpstreamBroken
from gateway.domain.links.console_link import ConsoleAddresses, console_url
from gateway.domain.model import UpstreamResponse

ALLOWED = ConsoleAddresses(("*.huaweicloud.com", "console.example"))
GOOD = (
    "https://cn-east-3-console.huaweicloud.com:443/vnc/x.cn-east-3/vnc_auto.html?token=1&resize=1"
)


def answered(body: object, status: int = 200) -> UpstreamResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return UpstreamResponse(status, {}, raw)


def test_link_to_allowed_host_is_returned_unchanged() -> None:
    assert console_url(answered({"url": GOOD, "more": 1}), ALLOWED).reveal() == GOOD
    exact = "https://console.example/x?token=2"
    assert console_url(answered({"url": exact}), ALLOWED).reveal() == exact


@pytest.mark.parametrize(
    "url",
    [
        GOOD.replace("https", "http"),
        GOOD.replace("https", "javascript"),
        "//cn-east-3-console.huaweicloud.com/vnc",
        "/vnc_auto.html?token=1",
        "https://huaweicloud.com/vnc",
        "https://evilhuaweicloud.com/vnc",
        "https://x.huaweicloud.com.evil.example/vnc",
        "https://.huaweicloud.com/vnc",
        "https://user@x.huaweicloud.com/vnc",
        "https://evil.example\\@x.huaweicloud.com/vnc",
        "https://evil.example#@x.huaweicloud.com/",
        "https://x.huaweicloud.com:bad/vnc",
        "https://sub.console.example/",
        "https://[::1]/",
        "https://x.huaweicloud.com/a b",
        "https://x.huaweicloud.com/\r\nSet-Cookie: a=b",
        "https://x.huaweicl\u043eud.com/",
        GOOD + "a" * 9000,
        "",
    ],
)
def test_link_to_another_host_is_rejected(url: str) -> None:
    with pytest.raises(UpstreamBroken):
        console_url(answered({"url": url}), ALLOWED)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://console.evil.example/x?token=canary", "console.evil.example:443"),
        ("https://console.evil.example:8443/x?token=canary", "console.evil.example:8443"),
        ("https://CONSOLE.Evil.Example/x", "console.evil.example:443"),
        ("https://127.0.0.1/x", "127.0.0.1:443"),
        ("https://only-443.example:8443/x", "only-443.example:8443"),
    ],
)
def test_rejected_link_names_host_port_and_config_key(url: str, address: str) -> None:
    allowed = ConsoleAddresses((*ALLOWED.hosts, "only-443.example:443"))
    with pytest.raises(UpstreamBroken) as rejected:
        console_url(answered({"url": url}), allowed)
    text = f"console: the URL's host {address} is not in `accounts[].links.console_hosts`"
    assert str(rejected.value) == text


@pytest.mark.parametrize(
    "body",
    [[], [GOOD], GOOD, {}, {"url": None}, {"url": 1}, {"url": [GOOD]}, b"", b"{", b"\xff", None],
)
def test_body_must_have_a_string_url(body: object) -> None:
    with pytest.raises(UpstreamBroken):
        console_url(answered(body), ALLOWED)


def test_unregistered_success_status_counts_as_200() -> None:
    assert console_url(answered({"url": GOOD}, 299), ALLOWED).reveal() == GOOD


@pytest.mark.parametrize("status", [201, 202, 204, 302, 304, 399])
def test_status_must_be_200(status: int) -> None:
    with pytest.raises(UpstreamBroken):
        console_url(answered({"url": GOOD}, status), ALLOWED)


def test_error_does_not_contain_the_url() -> None:
    with pytest.raises(UpstreamBroken) as refused:
        console_url(answered({"url": "https://evil.example/?token=canary"}), ALLOWED)
    assert "canary" not in str(refused.value)


@given(st.binary(max_size=300))
def test_any_body_is_a_link_or_rejected(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        console_url(answered(body), ALLOWED)
