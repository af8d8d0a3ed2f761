"""Each claim that lets a token through has its twin, one step away, that does not."""

import math
from dataclasses import replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.identity.claims import TokenRules, principal_of, valid_until
from gateway.domain.model import Principal, VerifiedToken

NOW = 1_800_000_000.0
ISS = "https://idp.example.com/realms/corp"
RULES = TokenRules(
    issuer="corp",
    iss=ISS,
    audiences=frozenset({"console-gateway", "console-gateway-eu"}),
    leeway_s=30.0,
    token_age_max_s=3_600.0,
    token_type=None,
    subject_claim="sub",
    groups_claim="groups",
)


class Absent(Enum):
    """Its name is the same in each process that runs some of the tests."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


def a_token(header: dict[str, Any] | None = None, **claims: Any) -> VerifiedToken:
    values = {"iss": ISS, "aud": "console-gateway", "sub": "ann", "iat": NOW, "exp": NOW + 600}
    values |= claims
    values = {name: value for name, value in values.items() if value is not ABSENT}
    return VerifiedToken("corp", {"alg": "RS256", **(header or {})}, values)


def validate(token: VerifiedToken, now: float = NOW, **rules: Any) -> Principal:
    return principal_of(token, replace(RULES, **rules), now)


def rejection(token: VerifiedToken, now: float = NOW, **rules: Any) -> Rejection:
    with pytest.raises(NotAuthenticated) as caught:
        validate(token, now, **rules)
    assert caught.value.issuer == "corp"
    return caught.value.reason


def test_valid_claims_yield_the_principal() -> None:
    principal = validate(a_token(groups=["ops", "dev"], jti="t-1"))

    assert principal == Principal("corp", "ann", frozenset({"ops", "dev"}), NOW, NOW + 600, "t-1")


def test_jti_and_groups_are_optional() -> None:
    principal = validate(a_token())

    assert (principal.token_id, principal.groups) == (None, frozenset())


# --- the end, the beginning and the age ---------------------------------------------------------


def test_token_is_valid_until_exp_plus_leeway() -> None:
    token = a_token(exp=NOW + 600)

    assert validate(token, NOW + 629.999).subject == "ann"
    assert rejection(token, NOW + 630) is Rejection.EXPIRED


def test_token_without_leeway_expires_at_exp() -> None:
    token = a_token(exp=NOW + 600)

    assert validate(token, NOW + 599.999, leeway_s=0.0).subject == "ann"
    assert rejection(token, NOW + 600, leeway_s=0.0) is Rejection.EXPIRED


def test_old_token_is_rejected_before_its_exp() -> None:
    token = a_token(iat=NOW - 3_600, exp=NOW + 1e9)

    assert validate(token, NOW + 29.999).subject == "ann"
    assert rejection(token, NOW + 30) is Rejection.TOO_OLD


def test_token_is_invalid_before_nbf() -> None:
    token = a_token(nbf=NOW + 100)

    assert validate(token, NOW + 70).subject == "ann"
    assert rejection(token, NOW + 69.999) is Rejection.NOT_YET_VALID


def test_token_with_future_iat_is_rejected() -> None:
    token = a_token(iat=NOW + 100)

    assert validate(token, NOW + 70).subject == "ann"
    assert rejection(token, NOW + 69.999) is Rejection.NOT_YET_VALID


def test_past_nbf_does_not_allow_future_iat() -> None:
    token = a_token(iat=NOW + 100, nbf=NOW - 100)

    assert validate(token, NOW + 70).subject == "ann"
    assert rejection(token, NOW + 69.999) is Rejection.NOT_YET_VALID


@pytest.mark.parametrize("claim", ["exp", "iat"])
@pytest.mark.parametrize("value", [ABSENT, None])
def test_exp_and_iat_are_required(claim: str, value: object) -> None:
    assert rejection(a_token(**{claim: value})) is Rejection.CLAIMS


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    [
        str(int(NOW)), True, False, [NOW], {"value": NOW}, -1, 253_402_300_800,
        math.nan, math.inf, -math.inf, float("1e400"), 10**400, "NaN", "",
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_time_claim_is_rejected(claim: str, value: object) -> None:
    assert rejection(a_token(**{claim: value})) is Rejection.CLAIMS


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_time_claim_may_be_integer_or_float(claim: str) -> None:
    at = NOW + 10 if claim == "exp" else NOW - 10

    assert validate(a_token(**{claim: int(at)})).subject == "ann"
    assert validate(a_token(**{claim: at + 0.5})).subject == "ann"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
SPANS = st.floats(min_value=0, max_value=1e6)


@given(
    exp=st.floats() | st.integers(),
    iat=st.floats(0, 2e9) | st.integers(0, 2_000_000_000),
    now=st.floats(0, 2e9),
    leeway_s=SPANS,
    token_age_max_s=SPANS,
)
def test_expired_or_old_token_is_never_accepted(
    exp: float, iat: float, now: float, leeway_s: float, token_age_max_s: float
) -> None:
    rules = replace(RULES, leeway_s=leeway_s, token_age_max_s=token_age_max_s)
    try:
        principal = principal_of(a_token(exp=exp, iat=iat), rules, now)
    except NotAuthenticated:
        return
    assert now < exp + leeway_s
    assert now < iat + token_age_max_s + leeway_s
    assert now < valid_until(principal, rules)


@given(
    life_s=st.floats(1, 1e6),
    age_s=st.floats(0, 1e6),
    age_left_s=st.floats(1, 1e6),
    later_s=st.floats(0, 2e6),
    leeway_s=SPANS,
)
def test_valid_until_is_the_exact_limit(
    life_s: float, age_s: float, age_left_s: float, later_s: float, leeway_s: float
) -> None:
    token = a_token(exp=NOW + life_s, iat=NOW - age_s)
    rules = replace(RULES, leeway_s=leeway_s, token_age_max_s=age_s + age_left_s)
    end = valid_until(principal_of(token, rules, NOW), rules)
    try:
        principal_of(token, rules, NOW + later_s)
        is_rejected = False
    except NotAuthenticated:
        is_rejected = True
    assert is_rejected == (NOW + later_s >= end)


@given(header=st.dictionaries(st.sampled_from(["typ", "crit", "x"]), JSON), claims=st.data())
def test_any_claims_are_rejected_or_valid(header: dict[str, Any], claims: st.DataObject) -> None:
    names = ("iss", "aud", "sub", "iat", "exp", "nbf", "jti", "groups", "typ", "_claim_names")
    text = claims.draw(st.dictionaries(st.sampled_from(names), JSON))
    try:
        principal = validate(a_token(header, **text))
    except NotAuthenticated:
        return
    assert principal.issuer == "corp"
    assert principal.subject.isprintable()
    assert 0 < len(principal.subject) <= 255
    assert all(group and group.isprintable() for group in principal.groups)
    assert principal.expires_at + RULES.leeway_s > NOW


# --- issuer and audience ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iss",
    [
        ABSENT, None, "", ISS + "/", ISS[:-1], ISS.upper(), "HTTPS" + ISS[5:], " " + ISS,
        ISS + "\n",
        ISS.replace("https", "http"), ISS.replace("/realms", "//realms"), "corp", [ISS], {"a": ISS},
    ],
)  # fmt: skip
def test_iss_must_match_exactly(iss: object) -> None:
    assert rejection(a_token(iss=iss)) is Rejection.ISSUER_UNKNOWN


@pytest.mark.parametrize(
    "aud",
    ["console-gateway", "console-gateway-eu", ["other", "console-gateway"], ["console-gateway"]],
)
def test_one_matching_audience_is_enough(aud: object) -> None:
    assert validate(a_token(aud=aud)).subject == "ann"


@pytest.mark.parametrize(
    "aud",
    [
        ABSENT, None, "", [], "console-gatewa", "console-gateway2", "Console-Gateway",
        "console-gateway ", ["console-gateway", 7], ["console-gateway", None],
        [["console-gateway"]], {"console-gateway": 1}, {"aud": "console-gateway"}, True, 0,
        "other console-gateway",
    ],
    ids=repr,
)  # fmt: skip
def test_similar_audience_is_rejected(aud: object) -> None:
    assert rejection(a_token(aud=aud)) is Rejection.AUDIENCE


# --- what kind of token -------------------------------------------------------------------------


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
def test_required_type_ignores_case_and_prefix(typ: str) -> None:
    assert validate(a_token({"typ": typ}), token_type="at+jwt").subject == "ann"
    assert validate(a_token({"typ": typ}), token_type="application/AT+jwt").subject == "ann"


@pytest.mark.parametrize(
    "header",
    [
        {}, {"typ": "JWT"}, {"typ": ""}, {"typ": "at"}, {"typ": "at+jwt "}, {"typ": "xat+jwt"},
        {"typ": "application/application/at+jwt"}, {"typ": "text/at+jwt"}, {"typ": "logout+jwt"},
        {"typ": None}, {"typ": ["at+jwt"]},
    ],
    ids=repr,
)  # fmt: skip
def test_other_type_than_required_is_rejected(header: dict[str, Any]) -> None:
    assert rejection(a_token(header), token_type="at+jwt") is Rejection.TOKEN_TYPE


@pytest.mark.parametrize("header", [{}, {"typ": "JWT"}, {"typ": "jwt"}, {"typ": "at+jwt"}])
def test_access_tokens_pass_without_a_required_type(header: dict[str, Any]) -> None:
    assert validate(a_token(header)).subject == "ann"


@pytest.mark.parametrize(
    "typ",
    [
        "logout+jwt", "Logout+JWT", "application/logout+jwt", "dpop+jwt", "secevent+jwt",
        "token-introspection+jwt", None, 7, ["JWT"],
    ],
)  # fmt: skip
def test_other_token_types_are_rejected(typ: object) -> None:
    assert rejection(a_token({"typ": typ})) is Rejection.TOKEN_TYPE


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "n"}, {"at_hash": "h"}, {"c_hash": "h"}, {"token_use": "id"}, {"typ": "ID"},
        {"typ": "Refresh"}, {"typ": "Logout"}, {"token_use": 1},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    ],
    ids=repr,
)  # fmt: skip
def test_id_refresh_and_logout_tokens_are_rejected(claims: dict[str, Any]) -> None:
    assert rejection(a_token(**claims)) is Rejection.TOKEN_TYPE


@pytest.mark.parametrize("claims", [{"typ": "Bearer"}, {"token_use": "access"}])
def test_type_claim_may_name_an_access_token(claims: dict[str, Any]) -> None:
    assert validate(a_token(**claims)).subject == "ann"


@pytest.mark.parametrize("aud", ["cli", ["cli"]])
@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "n", "at_hash": "h"},
        {"typ": "ID", "azp": "cli"},
        {"token_use": "id"},
        {"azp": None},
        {},
    ],
    ids=repr,
)
def test_id_tokens_of_one_client_are_accepted(claims: dict[str, Any], aud: object) -> None:
    """`issuers[].cli.token: id_token`, for issuers without access tokens that are JWTs."""
    rules = {"audiences": frozenset({"cli", "console-gateway"}), "id_token_client": "cli"}
    assert validate(a_token(aud=aud, **claims), **rules).subject == "ann"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "console-gateway", "nonce": "n"},
        {"aud": "web", "nonce": "n"},
        {"aud": ["cli", "web"], "nonce": "n"},
        {"aud": ["cli", "console-gateway"], "typ": "ID"},
        {"aud": "cli", "typ": "Refresh"},
        {"aud": "cli", "events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
        {"aud": ABSENT, "client_id": "cli", "nonce": "n"},
        {"aud": "cli", "azp": "phone", "nonce": "n"},
        {"aud": ["cli"], "azp": "phone", "typ": "ID"},
        {"aud": "cli", "azp": ["cli"], "at_hash": "h"},
    ],
    ids=repr,
)
def test_other_id_and_logout_tokens_are_rejected(claims: dict[str, Any]) -> None:
    rules = {
        "audiences": frozenset({"cli", "console-gateway", "web"}),
        "id_token_client": "cli",
        "audience_claim": "client_id",
    }
    assert rejection(a_token(**claims), **rules) is Rejection.TOKEN_TYPE


def test_nonce_is_accepted_with_a_required_type() -> None:
    token = a_token({"typ": "JWT"}, nonce="n")

    assert validate(token, token_type="JWT").subject == "ann"
    assert rejection(token) is Rejection.TOKEN_TYPE
    assert rejection(a_token({"typ": "JWT"}, at_hash="h"), token_type="JWT") is Rejection.TOKEN_TYPE


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "exp", {}])
def test_crit_header_is_rejected(crit: object) -> None:
    assert rejection(a_token({"crit": crit})) is Rejection.CRITICAL_HEADER


# --- subject, groups, jti -----------------------------------------------------------------------

ODD_TEXTS = ["", "a" * 256, "an\x00n", "an\tn", "ann\n", "\ud800", "\x7f"]
NO_TEXTS = [7, True, ["ann"], {"id": "ann"}, *ODD_TEXTS]


@pytest.mark.parametrize("subject", [*NO_TEXTS, None, ABSENT], ids=ascii)
def test_malformed_subject_is_rejected(subject: object) -> None:
    assert rejection(a_token(sub=subject)) is Rejection.CLAIMS


@pytest.mark.parametrize(
    "subject",
    [
        "a" * 255,
        "a@b@c",
        "Ann Lee",
        "安娜",
        "a:b/c|d",
        "\u0646\u0631\u06af\u0633\u200c\u062c\u0627\u0646",
    ],
)
def test_subject_with_format_characters_is_unchanged(subject: str) -> None:
    assert validate(a_token(sub=subject)).subject == subject


@pytest.mark.parametrize("jti", NO_TEXTS, ids=ascii)
def test_malformed_jti_is_rejected(jti: object) -> None:
    assert rejection(a_token(jti=jti)) is Rejection.CLAIMS


@pytest.mark.parametrize("group", [7, True, None, ["ann"], {"id": "ann"}], ids=ascii)
def test_group_of_another_type_rejects_the_token(group: object) -> None:
    assert validate(a_token(groups=["ops", "dev"])).groups == {"ops", "dev"}
    assert rejection(a_token(groups=["ops", group])) is Rejection.CLAIMS


@pytest.mark.parametrize("group", ODD_TEXTS, ids=ascii)
def test_odd_group_name_is_ignored(group: str) -> None:
    assert validate(a_token(groups=["ops", group])).groups == {"ops"}
    assert validate(a_token(groups=group)).groups == frozenset()


def test_single_group_may_be_a_string() -> None:
    assert validate(a_token(groups="ops dev,qa")).groups == {"ops dev,qa"}


@pytest.mark.parametrize("groups", [7, True, {"ops": True}, ["g"] * 1_001], ids=ascii)
def test_malformed_or_too_many_groups_are_rejected(groups: object) -> None:
    assert rejection(a_token(groups=groups)) is Rejection.CLAIMS


def test_thousand_groups_are_accepted() -> None:
    groups = [f"g{i}" for i in range(1_000)]

    assert validate(a_token(groups=groups)).groups == set(groups)


def test_dotted_path_finds_nested_claim() -> None:
    token = a_token(realm_access={"roles": ["ops"]}, person={"id": "u-1"})

    principal = validate(token, groups_claim="realm_access.roles", subject_claim="person.id")

    assert (principal.subject, principal.groups) == ("u-1", {"ops"})


def test_claim_named_by_a_url_is_found() -> None:
    token = a_token(**{"https://corp.example/groups": ["ops"]})

    assert validate(token, groups_claim="https://corp.example/groups").groups == {"ops"}


@pytest.mark.parametrize("claims", [{}, {"realm_access": {}}])
def test_missing_group_path_yields_no_groups(claims: dict[str, Any]) -> None:
    assert validate(a_token(**claims), groups_claim="realm_access.roles").groups == frozenset()


@pytest.mark.parametrize("through", ["text", ["roles"], 7])
def test_path_through_a_non_object_is_rejected(through: object) -> None:
    token = a_token(realm_access=through)

    assert rejection(token, groups_claim="realm_access.roles") is Rejection.CLAIMS


def test_missing_mapped_subject_does_not_use_sub() -> None:
    assert rejection(a_token(), subject_claim="email") is Rejection.CLAIMS


@pytest.mark.parametrize("elsewhere", [{"groups": "src1"}, {"sub": "src1"}, ["groups"]])
def test_distributed_groups_claim_is_rejected(elsewhere: object) -> None:
    assert rejection(a_token(_claim_names=elsewhere)) is Rejection.CLAIMS


def test_other_distributed_claims_are_accepted() -> None:
    assert validate(a_token(_claim_names={"address": "src1"})).subject == "ann"


def test_error_text_has_no_claim_values() -> None:
    with pytest.raises(NotAuthenticated) as caught:
        validate(a_token(sub="canary\n", aud="console-gateway", groups=["canary"]))

    assert "canary" not in str(caught.value)
