"""Signed requests: verification, expiry and replays."""

import base64
import os
from typing import Any

import pytest

from gateway.domain.errors import BadRequest, NotAuthenticated, Rejection, StoreUnavailable
from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Secret
from gateway.domain.upstream.signing import sign
from gateway.drivers.crypto.issued_keys import SealedKeys
from gateway.drivers.crypto.sealer import Sealer
from gateway.flow.caller_credentials import CallerCredentials, KeyPair
from gateway.flow.local_replay_cache import LocalReplayCache
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

JWT = "head.claims.signature"
SKEW_S = 900.0
PATH = "/v1/p/physicalservers/power-state"


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.telemetry = RecordingTelemetry()
        self.keys = SealedKeys(Sealer([Secret(base64.b64encode(os.urandom(32)).decode())]))
        self.used: Any = LocalReplayCache(self.clock)
        self.pair = self.keys.key_pair(Secret(JWT), expires_at=self.clock.now() + 3_600)
        self.replica = self.a_replica()

    def a_replica(self) -> CallerCredentials:
        return CallerCredentials(self.keys, self.used, self.clock, self.telemetry, skew_s=SKEW_S)

    def request(
        self,
        method: str = "PUT",
        *,
        target: str = PATH,
        body: bytes = b"{}",
        signed_ago_s: float = 0.0,
        pair: KeyPair | None = None,
        **more: str,
    ) -> IncomingRequest:
        pair = pair or self.pair
        headers = sign(
            method=method,
            target=target,
            headers={
                "Host": "gw.example",
                "X-Security-Token": pair.security_token.reveal(),
                **{name.replace("_", "-"): value for name, value in more.items()},
            },
            body=body,
            access_key=Secret(pair.access),
            secret_key=pair.secret,
            at=self.clock.now() - signed_ago_s,
        )
        return IncomingRequest(method, target, headers)

    async def rejection(self, request: IncomingRequest, body: bytes = b"{}") -> Rejection:
        with pytest.raises(NotAuthenticated) as caught:
            await self.replica.jwt_of(request, body)
        assert self.telemetry.identifications[-1] == ("unknown", caught.value.reason.value)
        for secret in (JWT, self.pair.secret.reveal(), self.pair.security_token.reveal()):
            assert secret not in str(caught.value)
        return caught.value.reason

    async def replay(self, request: IncomingRequest) -> Rejection:
        with pytest.raises(NotAuthenticated) as caught:
            await self.replica.mark_used(request)
        assert self.telemetry.identifications[-1] == ("unknown", caught.value.reason.value)
        return caught.value.reason


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_signed_request_yields_its_jwt(scene: Scene) -> None:
    assert await scene.replica.jwt_of(scene.request(), b"{}") == JWT
    assert await scene.replica.jwt_of(scene.request("GET", body=b""), b"") == JWT


async def test_unsigned_request_yields_its_jwt(scene: Scene) -> None:
    bearer = IncomingRequest("GET", PATH, (("Authorization", f"Bearer {JWT}"),))
    assert await scene.replica.jwt_of(bearer, b"") == JWT
    assert await scene.rejection(IncomingRequest("GET", PATH, ())) is Rejection.MISSING


@pytest.mark.parametrize("ago_s", [-SKEW_S, SKEW_S])
async def test_date_within_the_skew_is_accepted(scene: Scene, ago_s: float) -> None:
    assert await scene.replica.jwt_of(scene.request(signed_ago_s=ago_s), b"{}") == JWT


@pytest.mark.parametrize("ago_s", [-SKEW_S - 1, SKEW_S + 1])
async def test_date_beyond_the_skew_is_rejected(scene: Scene, ago_s: float) -> None:
    request = scene.request(signed_ago_s=ago_s)
    assert await scene.rejection(request) is Rejection.SIGNATURE_SKEW


async def test_changed_body_is_rejected(scene: Scene) -> None:
    assert await scene.rejection(scene.request(), b"{ }") is Rejection.SIGNATURE_MISMATCH


async def test_key_pair_expires_before_its_jwt(scene: Scene) -> None:
    await scene.clock.advance(3_599)
    assert await scene.replica.jwt_of(scene.request(), b"{}") == JWT
    await scene.clock.advance(1)
    assert await scene.rejection(scene.request()) is Rejection.ISSUED_KEY_EXPIRED


async def test_signed_write_is_accepted_once(scene: Scene) -> None:
    request = scene.request()
    await scene.replica.mark_used(request)
    assert await scene.replay(request) is Rejection.SIGNATURE_REPLAYED
    await scene.clock.advance(1)
    await scene.replica.mark_used(scene.request())


async def test_verifying_a_write_does_not_mark_it(scene: Scene) -> None:
    request = scene.request()
    for _ in range(2):
        assert await scene.replica.jwt_of(request, b"{}") == JWT
    await scene.replica.mark_used(request)


async def test_other_replica_rejects_the_replay(scene: Scene) -> None:
    request = scene.request()
    await scene.a_replica().mark_used(request)
    assert await scene.replay(request) is Rejection.SIGNATURE_REPLAYED


async def test_unmarked_write_may_be_sent_again(scene: Scene) -> None:
    request = scene.request()
    await scene.replica.mark_used(request)
    await scene.replica.unmark_used(request)
    await scene.a_replica().mark_used(request)


@pytest.mark.parametrize("signed_ago_s", [-SKEW_S, 0, SKEW_S])
async def test_write_is_never_accepted_twice(scene: Scene, signed_ago_s: float) -> None:
    request = scene.request(signed_ago_s=signed_ago_s)
    await scene.replica.mark_used(request)
    for _ in range(40):
        await scene.clock.advance(60)
        reason = await scene.replay(request)
        assert reason in {Rejection.SIGNATURE_REPLAYED, Rejection.SIGNATURE_SKEW}


async def test_without_store_each_replica_rejects_own_replays(scene: Scene) -> None:
    class Unavailable:
        async def use(self, key: str, *, ttl_s: float) -> bool:
            raise StoreUnavailable("away")

    scene.used = Unavailable()
    scene.replica = scene.a_replica()
    request = scene.request()
    await scene.replica.mark_used(request)
    assert await scene.replay(request) is Rejection.SIGNATURE_REPLAYED


async def test_mixed_key_pairs_are_rejected(scene: Scene) -> None:
    other = scene.keys.key_pair(Secret("head.other.signature"), expires_at=2e9)
    mixed = KeyPair(other.access, other.secret, scene.pair.security_token, Secret(JWT), 2e9)
    assert await scene.rejection(scene.request(pair=mixed)) is Rejection.ISSUED_KEY


async def test_foreign_key_pair_is_rejected(scene: Scene) -> None:
    assert await scene.rejection(Scene().request()) is Rejection.ISSUED_KEY


async def test_missing_security_token_is_rejected(scene: Scene) -> None:
    request = scene.request()
    headers = tuple(pair for pair in request.headers if pair[0] != "X-Security-Token")
    bare = IncomingRequest(request.method, request.target, headers)
    assert await scene.rejection(bare) is Rejection.ISSUED_KEY


async def test_unsigned_security_token_is_still_bound(scene: Scene) -> None:
    request = scene.request()
    # Some clients add it after signing (upstream-api.md#3.3); the access key is a digest of it.
    headers = sign(
        method="PUT",
        target=PATH,
        headers={"Host": "gw.example"},
        body=b"{}",
        access_key=Secret(scene.pair.access),
        secret_key=scene.pair.secret,
        at=scene.clock.now(),
    )
    token = scene.pair.security_token.reveal()
    after = IncomingRequest("PUT", PATH, (*headers, ("x-security-token", token)))
    assert await scene.replica.jwt_of(after, b"{}") == JWT
    assert request != after


async def test_second_credential_must_equal_the_jwt(scene: Scene) -> None:
    assert await scene.replica.jwt_of(scene.request(X_Auth_Token=JWT), b"{}") == JWT
    other = scene.request(X_Auth_Token="head.other.signature")
    assert await scene.rejection(other) is Rejection.AMBIGUOUS


@pytest.mark.parametrize("name", ["X-Security-Token", "Authorization", "X-Sdk-Date", "Host"])
async def test_repeated_header_is_malformed(scene: Scene, name: str) -> None:
    request = scene.request()
    (value,) = request.header_values(name.lower())
    twice = IncomingRequest(
        request.method, request.target, (*request.headers, (name.lower(), value))
    )
    with pytest.raises(BadRequest):
        await scene.replica.jwt_of(twice, b"{}")


async def test_project_header_must_match_the_path(scene: Scene) -> None:
    assert await scene.replica.jwt_of(scene.request(X_Project_Id="p"), b"{}") == JWT
    with pytest.raises(BadRequest):
        await scene.replica.jwt_of(scene.request(X_Project_Id="q"), b"{}")
    listing = scene.request("GET", target="/v3/projects?name=x", body=b"", X_Project_Id="q")
    assert await scene.replica.jwt_of(listing, b"") == JWT


async def test_local_replay_cache_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flow.local_replay_cache._KEYS_MAX", 3)
    used = LocalReplayCache(scene.clock)
    for key in "abcd":
        assert await used.use(key, ttl_s=60)
    assert not await used.use("d", ttl_s=60)
    assert await used.use("a", ttl_s=60), "the oldest made room"
