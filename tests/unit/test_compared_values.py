"""A message about two values that differ quotes both, shortened and in printable ASCII."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.accounts import InventorySettings, LinkSettings
from gateway.config.issuers import Issuer
from gateway.domain.errors import NotAuthenticated
from gateway.domain.quoted import quoted
from tests.unit.test_identity import a_token, validate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("\x1b[2J\u202e", "'\\x1b[2J\\u202e'"),
        (["é", 1, None], "['\\xe9', 1, None]"),
        (None, "None"),
        ("x" * 200, "'" + "x" * 79 + "…"),
    ],
)
def test_quoted_value_is_short_and_printable(value: object, text: str) -> None:
    assert quoted(value) == text


@pytest.mark.parametrize(
    ("claims", "rules", "values"),
    [
        ({"aud": ["other", "\x1b"]}, {}, ("['other', '\\x1b']", "console-gateway-eu")),
        ({"token_use": "id"}, {}, ("'id'", "not an access token")),
        (
            {"acr": "pwd"},
            {"required_claims": (("acr", frozenset({(str, "phr")})),)},
            ("pwd", "phr"),
        ),
        ({"iss": "https://idp/"}, {}, ("'https://idp/'", "'https://idp.example.com/realms/corp'")),
    ],
)
def test_rejected_claim_is_logged_with_both_values(
    claims: dict[str, Any], rules: dict[str, Any], values: tuple[str, ...]
) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        validate(a_token(**claims), **rules)
    assert all(value in str(caught.value) for value in values), str(caught.value)


@pytest.mark.parametrize("required", ["at+jwt", None])
def test_rejected_type_is_logged_with_both_values(required: str | None) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        validate(a_token({"typ": "logout+jwt"}), token_type=required)
    assert "'logout+jwt'" in str(caught.value)
    assert (required or "another type") in str(caught.value)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (
            LinkSettings,
            {"min_remaining_s": 400},
            "400 must be less than `lifetime_s`, which is 300",
        ),
        (
            InventorySettings,
            {"age_max_s": 5, "poll_s": 60},
            "5 must be more than `poll_s`, which is 60",
        ),
        (
            Issuer,
            {"keys_age_max_s": 60},
            "60 must be more than `keys_refresh_s`, which is 300",
        ),
    ],
)
def test_setting_below_another_names_both_values(
    model: Any, values: dict[str, Any], message: str
) -> None:
    if model is Issuer:
        keys = {"jwks": "https://idp/keys"}
        values |= {"name": "corp", "issuer": "https://idp", "audience": ["gw"], "keys": keys}
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)
