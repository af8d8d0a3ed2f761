"""The box's identity provider against what OIDC promises and what a forger sends."""

import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from gateway.demo.cloud.idp import ALGORITHMS, AUDIENCE
from gateway.demo.cloud.simulated_cloud import CloudBox
from tests.support.box import AT_ONCE, asked


@pytest.fixture
async def box() -> AsyncIterator[CloudBox]:
    async with CloudBox(AT_ONCE) as running:
        yield running


async def keys_of(box: CloudBox) -> jwt.PyJWKSet:
    document = (await asked(box.idp.url, "/.well-known/openid-configuration")).json
    assert document["issuer"] == box.idp.url
    assert document["jwks_uri"].startswith(box.idp.url)
    answer = await asked(box.idp.url, document["jwks_uri"].removeprefix(box.idp.url))
    return jwt.PyJWKSet.from_dict(answer.json)


def judged(token: str, keys: jwt.PyJWKSet, issuer: str) -> dict[str, Any]:
    """Read a token as PyJWT, told everything, reads it."""
    key = keys[jwt.get_unverified_header(token)["kid"]]
    options: Any = {"require": ["exp", "sub", "iss", "aud", "iat"]}
    return jwt.decode(
        token,
        key.key,
        algorithms=list(ALGORITHMS),
        audience=AUDIENCE,
        issuer=issuer,
        options=options,
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_of_each_algorithm_is_proved_by_the_published_key(
    box: CloudBox, algorithm: str
) -> None:
    box.idp.rotate(algorithm)
    token = box.idp.token("olga", groups=["operators"])
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    claims = judged(token, await keys_of(box), box.idp.url)
    assert (claims["sub"], claims["groups"]) == ("olga", ["operators"])


async def test_rs256_is_the_default(box: CloudBox) -> None:
    assert jwt.get_unverified_header(box.idp.token("olga"))["alg"] == "RS256"


@pytest.mark.parametrize(
    ("asked_for", "error"),
    [
        ({"life_s": -60}, jwt.ExpiredSignatureError),
        ({"claims": {"aud": "other"}}, jwt.InvalidAudienceError),
        ({"claims": {"iss": "https://elsewhere.example"}}, jwt.InvalidIssuerError),
        ({"claims": {"nbf": 4_000_000_000}}, jwt.ImmatureSignatureError),
        ({"claims": {"exp": None}}, jwt.MissingRequiredClaimError),
        ({"subject": None}, jwt.MissingRequiredClaimError),
        ({"forged": "signature"}, jwt.InvalidSignatureError),
        ({"forged": "foreign_key"}, jwt.InvalidSignatureError),
        ({"forged": "none"}, jwt.InvalidAlgorithmError),
        ({"forged": "hs256"}, jwt.InvalidAlgorithmError),
        ({"headers": {"kid": "made-up"}}, KeyError),
        ({"headers": {"kid": None}}, KeyError),
    ],
)
async def test_a_wrong_token_is_wrong_in_just_the_way_asked_for(
    box: CloudBox, asked_for: dict[str, Any], error: type[Exception]
) -> None:
    keys = await keys_of(box)
    assert judged(box.idp.token("olga"), keys, box.idp.url)["sub"] == "olga"
    details = dict(asked_for)
    token = box.idp.token(details.pop("subject", "olga"), **details)
    with pytest.raises(error):
        judged(token, keys, box.idp.url)


async def test_the_confused_token_would_fool_who_takes_the_algorithm_from_it(box: CloudBox) -> None:
    header = jwt.get_unverified_header(box.idp.token("olga", forged="hs256"))
    good = jwt.get_unverified_header(box.idp.token("olga"))
    assert (header["alg"], header["kid"]) == ("HS256", good["kid"])


async def test_a_token_of_another_kind_says_so(box: CloudBox) -> None:
    token = box.idp.token("olga", headers={"typ": "logout+jwt"})
    assert jwt.get_unverified_header(token)["typ"] == "logout+jwt"


async def test_rotation_withdraws_the_old_key_unless_it_is_kept(box: CloudBox) -> None:
    first = box.idp.keys[0].kid
    box.idp.rotate("ES256", keep_old=True)
    second = box.idp.keys[-1].kid
    assert {key.key_id for key in (await keys_of(box)).keys} == {first, second}
    box.idp.rotate("EdDSA")
    (left,) = (await keys_of(box)).keys
    assert left.key_id not in (first, second)
    assert jwt.get_unverified_header(box.idp.token("olga"))["kid"] == left.key_id


async def test_key_fetches_are_counted(box: CloudBox) -> None:
    for _ in range(3):
        await asked(box.idp.url, "/jwks")
    assert box.idp.fetches == 3
    assert (await asked(box.idp.url, "/_box/counters")).json["fetches"] == 3


async def test_tokens_and_rotation_are_to_be_had_over_http(box: CloudBox) -> None:
    body = json.dumps({"subject": "olga", "groups": ["a"], "claims": {"x": 1}})
    minted = await asked(box.idp.url, "/_box/tokens", method="POST", body=body)
    claims = judged(minted.json["token"], await keys_of(box), box.idp.url)
    assert (claims["sub"], claims["x"]) == ("olga", 1)
    before = box.idp.keys[-1].kid
    turned = await asked(box.idp.url, "/_box/rotate", method="POST", body='{"algorithm": "PS256"}')
    assert turned.json["kid"] == box.idp.keys[-1].kid != before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_box/tokens", '{"subject": "olga", "colour": "red"}'),
        ("/_box/tokens", '{"subject": "olga", "forged": "gold"}'),
        ("/_box/rotate", '{"algorithm": "RS1"}'),
        ("/_box/faults", '{"kind": "boredom"}'),
        ("/_box/faults", "not json"),
        ("/_box/settings", '{"colour": "red"}'),
    ],
)
async def test_who_steers_it_wrongly_is_told(box: CloudBox, path: str, body: str) -> None:
    answer = await asked(box.idp.url, path, method="POST", body=body)
    assert answer.status == 400
    assert answer.json["error"]
    assert box.idp.faults == []


async def test_a_garbage_key_set_holds_no_key(box: CloudBox) -> None:
    box.idp.fail("keys_garbage", path="/jwks")
    with pytest.raises(jwt.PyJWTError):
        await keys_of(box)
    box.idp.heal()
    assert (await keys_of(box)).keys


async def test_an_issuer_may_name_itself_wrongly(box: CloudBox) -> None:
    box.idp.fail("issuer_foreign", path="openid-configuration")
    document = (await asked(box.idp.url, "/.well-known/openid-configuration")).json
    assert document["issuer"] != box.idp.url


async def test_it_comes_back_on_the_same_port(box: CloudBox) -> None:
    port = box.idp.port
    await box.idp.stop()
    with pytest.raises(OSError, match="refused"):
        await asked(box.idp.url, "/jwks")
    await box.idp.start()
    assert box.idp.port == port
    assert (await asked(box.idp.url, "/jwks")).status == 200
