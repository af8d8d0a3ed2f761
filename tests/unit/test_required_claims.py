"""Claims that an issuer's tokens must contain, groups from several claims, and the token ID."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.errors import InvalidConfig
from gateway.config.settings import load_settings
from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.claims import principal_of
from gateway.domain.model import Principal, VerifiedToken
from gateway.process.wiring.identity import token_rules

EXAMPLE = Path(__file__).parents[2] / "config" / "gateway.yaml"
NOW = 1_000.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    for name in ("iam-password", "redis-password"):
        (tmp_path / "secrets" / name).write_text("secret\n")
    (tmp_path / "secrets" / "seal-key").write_text(base64.b64encode(b"k" * 32).decode())
    return tmp_path


def identify(directory: Path, settings: dict[str, Any], **claims: Any) -> Principal:
    data = yaml.safe_load(EXAMPLE.read_text())
    data["issuers"][0] |= settings
    (directory / "gateway.yaml").write_text(yaml.safe_dump(data))
    (issuer,) = load_settings(directory / "gateway.yaml", {}).issuers
    body = {"iss": issuer.issuer, "aud": "console-gateway", "iat": NOW, "exp": NOW + 60}
    token = VerifiedToken("corp", {}, {**body, "sub": "ann", "groups": [], **claims})
    return principal_of(token, token_rules(issuer), NOW)


@pytest.mark.parametrize(
    ("required", "claim"),
    [
        ({"acr": "phr"}, {"acr": "phr"}),
        ({"acr": ["phr", "phrh"]}, {"acr": "phrh"}),
        ({"amr": "mfa"}, {"amr": ["pwd", "mfa"]}),
        ({"azp": "console-cli"}, {"azp": "console-cli"}),
        ({"scp": "console.open"}, {"scp": "profile console.open"}),
        ({"scope": ["console"]}, {"scope": ["console", "x"]}),
        ({"tid": "t-1", "acr": "1"}, {"tid": "t-1", "acr": "1"}),
        ({"realm.level": 2}, {"realm": {"level": 2}}),
        ({"mfa": True}, {"mfa": True}),
    ],
)
def test_token_with_the_required_claims_is_accepted(
    directory: Path, required: dict[str, Any], claim: dict[str, Any]
) -> None:
    assert identify(directory, {"required_claims": required}, **claim).subject == "ann"


@pytest.mark.parametrize(
    ("required", "claim"),
    [
        ({"acr": "phr"}, {}),
        ({"acr": "phr"}, {"acr": None}),
        ({"acr": "phr"}, {"acr": "pwd"}),
        ({"amr": "mfa"}, {"amr": []}),
        ({"azp": "console-cli"}, {"azp": "console-cli other"}),
        ({"scp": "console"}, {"scp": "console.open"}),
        ({"tid": "t-1", "acr": "1"}, {"tid": "t-1", "acr": "0"}),
        ({"mfa": True}, {"mfa": 1}),
        ({"level": 1}, {"level": True}),
        ({"acr": "1"}, {"acr": 1}),
        ({"acr": "x"}, {"acr": {"x": "x"}}),
    ],
)
def test_token_without_a_required_claim_is_rejected(
    directory: Path, required: dict[str, Any], claim: dict[str, Any]
) -> None:
    with pytest.raises(NotAuthenticated) as rejected:
        identify(directory, {"required_claims": required}, **claim)
    assert rejected.value.reason is Rejection.CLAIMS
    assert rejected.value.principal is not None, "it is recorded for this person"


@pytest.mark.parametrize("value", [[], None, 1.5, {}])
def test_required_value_in_a_wrong_form_is_rejected(directory: Path, value: object) -> None:
    with pytest.raises(InvalidConfig):
        identify(directory, {"required_claims": {"acr": value}})


def test_groups_of_two_claims_are_joined(directory: Path) -> None:
    settings = {"claims": {"groups": ["groups", "realm_access.roles"]}}
    both = identify(directory, settings, groups=["a"], realm_access={"roles": ["b", "a"]})
    assert (both.groups, both.has_groups_claim) == (frozenset({"a", "b"}), True)
    one = identify(directory, settings, groups=["a"])
    assert one.groups == {"a"}
    assert not one.has_groups_claim, "the groups of the absent claim are unknown"


def test_token_id_is_read_from_the_configured_claim(directory: Path) -> None:
    assert identify(directory, {}, jti="j", uti="u").token_id == "j"
    settings = {"claims": {"token_id": "uti"}}
    assert identify(directory, settings, jti="j", uti="u").token_id == "u"
    assert identify(directory, settings, jti="j").token_id is None
