"""SDK-HMAC-SHA256; tests/contract/test_signing_against_sdk.py compares with the vendor's code."""

from typing import Any

import pytest

from gateway.domain.model import Secret
from gateway.domain.upstream.signing import sign

AT = 1_800_000_000.0


def signed(**changes: Any) -> dict[str, str]:
    parts: dict[str, Any] = {
        "method": "GET",
        "target": "/v1/p/physicalservers/a",
        "headers": {"Host": "cloud.example"},
        "body": b"",
        "access_key": Secret("AK"),
        "secret_key": Secret("canary-secret-key"),
        "at": AT,
    }
    return dict(sign(**parts | changes))


def test_the_date_is_utc_and_signed() -> None:
    headers = signed()
    assert headers["X-Sdk-Date"] == "20270115T080000Z"
    assert "SignedHeaders=host;x-sdk-date," in headers["Authorization"]


def test_signed_headers_are_returned() -> None:
    headers = signed(headers={"Host": "cloud.example", "X-Project-Id": "p"})
    assert headers["Host"] == "cloud.example"
    assert headers["X-Project-Id"] == "p"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"target": "/v1/p/physicalservers/b"},
        {"target": "/v1/p/physicalservers/a?limit=1"},
        {"headers": {"Host": "other.example"}},
        {"body": b"x"},
        {"access_key": Secret("AK2")},
        {"secret_key": Secret("another")},
        {"at": AT + 1},
    ],
)
def test_each_part_changes_the_signature(change: dict[str, Any]) -> None:
    assert signed(**change)["Authorization"] != signed()["Authorization"]


def test_secret_key_is_in_no_header() -> None:
    assert "canary-secret-key" not in str(signed())
