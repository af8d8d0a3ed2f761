"""Claims as real identity providers send them: overage, null, dotted names, unverified email."""

from typing import Any

import pytest

from gateway.config.key_material import parse_key_set
from gateway.domain.errors import Rejection
from gateway.domain.model import VerifiedToken
from tests.support.tokens import ec_signer
from tests.unit.test_identity import ABSENT, a_token, rejection, validate


@pytest.mark.parametrize("flag", [True, "true", 1])
def test_groups_overage_flag_rejects_the_token(flag: object) -> None:
    assert rejection(a_token(hasgroups=flag)) is Rejection.CLAIMS


def test_overage_flag_matters_for_missing_groups_only() -> None:
    assert validate(a_token(hasgroups=False)).groups == frozenset()
    assert validate(a_token(hasgroups=True, groups=["ops"])).groups == {"ops"}
    assert validate(a_token(hasgroups=True), groups_claim="roles").groups == frozenset()


@pytest.mark.parametrize("verified", [False, "false", 0, 1, "yes", []])
@pytest.mark.parametrize("claim", ["email", "phone_number"])
def test_unverified_subject_rejects_the_token(claim: str, verified: object) -> None:
    token = a_token(**{claim: "ann@example.com", f"{claim}_verified": verified})
    assert validate(token).subject == "ann"
    assert rejection(token, subject_claim=claim) is Rejection.CLAIMS


@pytest.mark.parametrize("verified", [{}, {"email_verified": True}, {"email_verified": "true"}])
def test_verified_or_unflagged_email_is_a_subject(verified: dict[str, Any]) -> None:
    token = a_token(email="ann@example.com", **verified)
    assert validate(token, subject_claim="email").subject == "ann@example.com"


@pytest.mark.parametrize(
    "claim", ["jti", "nbf", "typ", "nonce", "events", "groups", "_claim_names"]
)
def test_null_claim_is_absent(claim: str) -> None:
    assert validate(a_token(**{claim: None})) == validate(a_token())


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "iat", "exp"])
def test_null_required_claim_rejects_the_token(claim: str) -> None:
    assert rejection(a_token(**{claim: None})) in (
        Rejection.CLAIMS,
        Rejection.AUDIENCE,
        Rejection.ISSUER_UNKNOWN,
    )


@pytest.mark.parametrize(
    ("path", "claims"),
    [
        ("kubernetes.io.groups", {"kubernetes.io": {"groups": ["ops"]}}),
        ("a.b.c.d", {"a": {"b.c": {"d": ["ops"]}}}),
        ("a.b.c.d", {"a.b": {"c.d": ["ops"]}}),
        ("a.b", {"a.b": ["ops"], "a": {"b": ["dev"]}}),
        ("https://corp.example/x.groups", {"https://corp.example/x": {"groups": ["ops"]}}),
    ],
)
def test_dotted_names_are_found_at_every_level(path: str, claims: dict[str, Any]) -> None:
    assert validate(a_token(**claims), groups_claim=path).groups == {"ops"}


@pytest.mark.parametrize("name", ["kubernetes", "kubernetes.io", "kubernetes.io.groups"])
def test_distributed_claim_with_dots_rejects_the_token(name: str) -> None:
    token = a_token(_claim_names={name: "src1"})
    assert rejection(token, groups_claim="kubernetes.io.groups") is Rejection.CLAIMS


@pytest.mark.parametrize(
    "extra", [{"use": None}, {"d": None}, {"alg": None}, {"kid": None}, {"key_ops": []}]
)
def test_null_member_of_a_jwk_is_absent(extra: dict[str, Any]) -> None:
    assert parse_key_set({"keys": [ec_signer().jwk() | extra]})


@pytest.mark.parametrize("extra", [{"use": "enc"}, {"d": "AQAB"}, {"key_ops": ["sign"]}])
def test_unsuitable_jwk_is_dropped(extra: dict[str, Any]) -> None:
    assert not parse_key_set({"keys": [ec_signer().jwk() | extra]})


def cognito_token(**changed: Any) -> VerifiedToken:
    """Return an access token as Amazon Cognito issues it, without `aud`."""
    claims = {
        "aud": ABSENT,
        "token_use": "access",
        "client_id": "console-cli",
        "scope": "console/open",
        "version": 2,
        "event_id": "e1",
        "cognito:groups": ["ops"],
    }
    return a_token(**(claims | changed))


COGNITO = {
    "audiences": frozenset({"console-cli"}),
    "audience_claim": "client_id",
    "groups_claim": "cognito:groups",
}


def test_claim_in_place_of_a_missing_audience_is_accepted() -> None:
    assert validate(cognito_token(), **COGNITO).groups == {"ops"}
    assert validate(cognito_token(aud=None), **COGNITO).subject == "ann"
    assert validate(cognito_token(client_id=["x", "console-cli"]), **COGNITO).subject == "ann"


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": "another-client"},
        {"client_id": None},
        {"client_id": ""},
        {"client_id": []},
        {"client_id": {"console-cli": 1}},
        {"client_id": ["console-cli", 1]},
        # A token with `aud` is judged by it alone.
        {"aud": "another-service"},
        {"aud": []},
        {"aud": ""},
        {"aud": ["another-service"]},
    ],
)
def test_wrong_claim_in_place_of_the_audience_rejects(changed: dict[str, Any]) -> None:
    assert rejection(cognito_token(**changed), **COGNITO) is Rejection.AUDIENCE


def test_id_token_with_the_client_as_audience_is_rejected() -> None:
    id_token = cognito_token(aud="console-cli", token_use="id")
    assert rejection(id_token, **COGNITO) is Rejection.TOKEN_TYPE


def test_missing_audience_is_rejected_without_the_setting() -> None:
    rules = {**COGNITO, "audience_claim": "aud"}
    assert rejection(cognito_token(), **rules) is Rejection.AUDIENCE
