"""The config keys of live consoles."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config.consoles import AccountConsole, ConsoleSettings
from gateway.config.listen import PublicListen
from gateway.domain.consoles.model import Clipboard


def test_delivery_is_direct_by_default() -> None:
    assert AccountConsole() == AccountConsole(
        delivery="direct", websocket="auto", subprotocol="auto", clipboard=Clipboard.BOTH
    )


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"delivery": "both"}, "'direct' or 'proxied'"),
        ({"websocket": "rooot"}, "must be auto, directory, root or a template"),
        ({"websocket": "wss://{host}/x"}, "must contain {token}"),
        ({"clipboard": "one_way"}, "'both'"),
        ({"sessions_max": 0}, "greater than or equal to 1"),
    ],
)
def test_invalid_console_key_is_rejected(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError) as found:
        AccountConsole.model_validate(keys)
    assert problem in str(found.value)


def test_private_networks_are_networks() -> None:
    settings = ConsoleSettings.model_validate({"private_networks": ["10.0.0.0/8", "::1"]})
    assert [str(one) for one in settings.private_networks] == ["10.0.0.0/8", "::1/128"]
    with pytest.raises(ValidationError):
        ConsoleSettings.model_validate({"private_networks": ["example.com"]})


def listen(directory: Path, url: str) -> PublicListen:
    return PublicListen.model_validate({"public_url": url}, context={"base": directory})


@pytest.mark.parametrize(
    ("url", "normalized"),
    [
        ("https://consoles.example.com/", "https://consoles.example.com"),
        ("https://Consoles.Example.com:443", "https://consoles.example.com"),
        ("https://consoles.example.com:8443/gw/", "https://consoles.example.com:8443/gw"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:80", "http://localhost"),
    ],
)
def test_public_url_is_normalized(tmp_path: Path, url: str, normalized: str) -> None:
    assert listen(tmp_path, url).public_url == normalized


@pytest.mark.parametrize(
    "url",
    [
        *("http://consoles.example.com", "consoles.example.com", "https://", "wss://example.com"),
        *("https://u:p@example.com", "https://example.com/?x=1", "https://example.com/#x"),
        *("https://example.com/a//b", "https://example.com/a/../b"),
        *("https://example.com/a;b", "https://example.com/%2e%2e/a", "https://example.com/a'b"),
    ],
)
def test_invalid_public_url_is_rejected(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValidationError):
        listen(tmp_path, url)
