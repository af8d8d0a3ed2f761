"""The simulated identity provider: OIDC discovery, key rotation and forged tokens."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest

from gateway.demo.cloud.idp import ALGORITHMS, AUDIENCE
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from tests.support.simulated_cloud import UNLIMITED, fetch_async


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(UNLIMITED) as running:
        yield running


async def keys_of(cloud: SimulatedCloud) -> jwt.PyJWKSet:
    document = (await fetch_async(cloud.idp.url, "/.well-known/openid-configuration")).json
    assert document["issuer"] == cloud.idp.url
    assert document["jwks_uri"].startswith(cloud.idp.url)
    response = await fetch_async(cloud.idp.url, document["jwks_uri"].removeprefix(cloud.idp.url))
    return jwt.PyJWKSet.from_dict(response.json)


def decode(token: str, keys: jwt.PyJWKSet, issuer: str) -> dict[str, Any]:
    """Decode a token with PyJWT, with all checks enabled."""
    key = keys[jwt.get_unverified_header(token)["kid"]]
    options: Any = {"require": ["exp", "sub", "iss", "aud", "iat"]}
    return jwt.decode(
        token,
        key.key,
        algorithms=KNOWN,
        audience=AUDIENCE,
        issuer=issuer,
        options=options,
    )


KNOWN = [name for name in ALGORITHMS if name not in ("Ed25519", "Ed448")]
"""PyJWT lacks the names of RFC 9864."""


@pytest.mark.parametrize("algorithm", ["Ed25519", "Ed448"])
async def test_keys_have_the_names_of_rfc_9864(cloud: SimulatedCloud, algorithm: str) -> None:
    cloud.idp.rotate(algorithm)
    token = cloud.idp.token("olga")
    (published,) = (await fetch_async(cloud.idp.url, "/jwks")).json["keys"]
    assert (published["alg"], published["crv"]) == (algorithm, algorithm)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    signed, _, signature = token.rpartition(".")
    key = jwt.PyJWK(published, algorithm="EdDSA").key
    key.verify(base64.urlsafe_b64decode(signature + "=="), signed.encode())


@pytest.mark.parametrize("algorithm", KNOWN)
async def test_published_keys_verify_each_algorithm(cloud: SimulatedCloud, algorithm: str) -> None:
    cloud.idp.rotate(algorithm)
    token = cloud.idp.token("olga", groups=["operators"])
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    claims = decode(token, await keys_of(cloud), cloud.idp.url)
    assert (claims["sub"], claims["groups"]) == ("olga", ["operators"])


async def test_default_algorithm_is_rs256(cloud: SimulatedCloud) -> None:
    assert jwt.get_unverified_header(cloud.idp.token("olga"))["alg"] == "RS256"


@pytest.mark.parametrize(
    ("parameters", "error"),
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
async def test_invalid_token_has_only_the_requested_fault(
    cloud: SimulatedCloud, parameters: dict[str, Any], error: type[Exception]
) -> None:
    keys = await keys_of(cloud)
    assert decode(cloud.idp.token("olga"), keys, cloud.idp.url)["sub"] == "olga"
    details = dict(parameters)
    token = cloud.idp.token(details.pop("subject", "olga"), **details)
    with pytest.raises(error):
        decode(token, keys, cloud.idp.url)


async def test_hs256_forgery_uses_the_published_kid(
    cloud: SimulatedCloud,
) -> None:
    header = jwt.get_unverified_header(cloud.idp.token("olga", forged="hs256"))
    good = jwt.get_unverified_header(cloud.idp.token("olga"))
    assert (header["alg"], header["kid"]) == ("HS256", good["kid"])


async def test_token_type_can_be_set(cloud: SimulatedCloud) -> None:
    token = cloud.idp.token("olga", headers={"typ": "logout+jwt"})
    assert jwt.get_unverified_header(token)["typ"] == "logout+jwt"


async def test_rotation_withdraws_the_old_key(cloud: SimulatedCloud) -> None:
    first = cloud.idp.keys[0].kid
    cloud.idp.rotate("ES256", keep_old=True)
    second = cloud.idp.keys[-1].kid
    assert {key.key_id for key in (await keys_of(cloud)).keys} == {first, second}
    cloud.idp.rotate("EdDSA")
    (left,) = (await keys_of(cloud)).keys
    assert left.key_id not in (first, second)
    assert jwt.get_unverified_header(cloud.idp.token("olga"))["kid"] == left.key_id


async def test_key_set_requests_are_counted(cloud: SimulatedCloud) -> None:
    for _ in range(3):
        await fetch_async(cloud.idp.url, "/jwks")
    assert cloud.idp.fetches == 3
    assert (await fetch_async(cloud.idp.url, "/_box/counters")).json["fetches"] == 3


async def test_tokens_and_rotation_work_over_http(cloud: SimulatedCloud) -> None:
    body = json.dumps({"subject": "olga", "groups": ["a"], "claims": {"x": 1}})
    minted = await fetch_async(cloud.idp.url, "/_box/tokens", method="POST", body=body)
    claims = decode(minted.json["token"], await keys_of(cloud), cloud.idp.url)
    assert (claims["sub"], claims["x"]) == ("olga", 1)
    before = cloud.idp.keys[-1].kid
    turned = await fetch_async(
        cloud.idp.url, "/_box/rotate", method="POST", body='{"algorithm": "PS256"}'
    )
    assert turned.json["kid"] == cloud.idp.keys[-1].kid != before


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
async def test_invalid_control_requests_are_400(
    cloud: SimulatedCloud, path: str, body: str
) -> None:
    response = await fetch_async(cloud.idp.url, path, method="POST", body=body)
    assert response.status == 400
    assert response.json["error"]
    assert cloud.idp.faults == []


async def test_garbage_key_set_can_be_injected(cloud: SimulatedCloud) -> None:
    cloud.idp.fail("keys_garbage", path="/jwks")
    with pytest.raises(jwt.PyJWTError):
        await keys_of(cloud)
    cloud.idp.heal()
    assert (await keys_of(cloud)).keys


async def test_foreign_issuer_can_be_injected(cloud: SimulatedCloud) -> None:
    cloud.idp.fail("issuer_foreign", path="openid-configuration")
    document = (await fetch_async(cloud.idp.url, "/.well-known/openid-configuration")).json
    assert document["issuer"] != cloud.idp.url


async def test_restart_uses_the_same_port(cloud: SimulatedCloud) -> None:
    port = cloud.idp.port
    await cloud.idp.stop()
    with pytest.raises(OSError, match="refused"):
        await fetch_async(cloud.idp.url, "/jwks")
    await cloud.idp.start()
    assert cloud.idp.port == port
    assert (await fetch_async(cloud.idp.url, "/jwks")).status == 200
