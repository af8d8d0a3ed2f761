"""When the tokens of a login expire, also where this machine's clock is wrong."""

import base64
import json
from typing import Any

import pytest

from gateway.commands import login_provider
from gateway.commands.login_provider import expiry_of

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_provider, "current_time", lambda: NOW)


def a_token(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.x"


@pytest.mark.parametrize(
    ("claims", "life", "expected"),
    [
        ({"exp": NOW + 300, "iat": NOW}, 300, 300),
        ({"exp": NOW + 300, "iat": NOW}, None, 300),
        ({"exp": NOW + 300}, None, 300),
        ({}, 60, 60),
        ({}, None, 0),
        # The issuer returned a token that it had issued before.
        ({"exp": NOW + 100, "iat": NOW - 200}, 100, 100),
        ({"exp": NOW + 100, "iat": NOW - 200}, None, 100),
        # This machine's clock is an hour behind, then an hour ahead.
        ({"exp": NOW + 3_900, "iat": NOW + 3_600}, 300, 300),
        ({"exp": NOW + 3_900, "iat": NOW + 3_600}, None, 300),
        ({"exp": NOW - 3_300, "iat": NOW - 3_600}, 300, 300),
        ({"exp": NOW - 3_300, "iat": NOW - 3_600}, None, 300),
        ({"exp": "soon", "iat": True}, "300", 0),
        ({"exp": 1e300, "iat": 0}, None, 0),
    ],
)
def test_expiry_is_by_this_machines_clock(
    claims: dict[str, Any], life: object, expected: float
) -> None:
    assert expiry_of(a_token(**claims), life) == NOW + expected


def test_opaque_token_lives_as_the_issuer_says() -> None:
    assert expiry_of("opaque", 300) == NOW + 300
