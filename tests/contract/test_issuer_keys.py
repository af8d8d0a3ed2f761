"""IssuerKeys against an HTTP issuer on loopback that rotates keys, fails and sends invalid data."""

import asyncio
import base64
import json
import random
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.issuers import DiscoveryKeys, Issuer
from gateway.config.key_material import UnusableKeys, parse_key_set
from gateway.domain.errors import KeysUnavailable, NotAuthenticated, Rejection
from gateway.domain.identity.claims import TokenRules
from gateway.domain.model import Secret
from gateway.drivers.host.handover import Handover
from gateway.drivers.issuers import issuer_keys
from gateway.drivers.issuers.issuer_keys import IssuerKeys, load_initial_keys
from gateway.drivers.issuers.signatures import JwtSignatures, TrustedIssuer
from gateway.flow.identify import Identify
from tests.support.clock import FakeClock, settle
from tests.support.stages import cached_principal
from tests.support.telemetry import RecordingTelemetry
from tests.support.tokens import ALGORITHMS, Signer, ec_signer, ed_signer, rsa_signer

ALL = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "Ed448"]
DISCOVERY = "/.well-known/openid-configuration"


class FakeIssuer:
    """Serves a discovery document and a JWK set, and counts the requests for each."""

    def __init__(self) -> None:
        self.signers: list[Signer] = [rsa_signer()]
        self.fetches: Counter[str] = Counter()
        self.answers: dict[str, Callable[[], web.Response]] = {}
        self.discovery: dict[str, Any] = {}
        self.serve_instead: Callable[[web.Request], Awaitable[web.Response]] | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._server = TestServer(app, host="127.0.0.1")

    async def start(self) -> None:
        await self._server.start_server()
        self.url = str(self._server.make_url("")).rstrip("/")
        self.discovery = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}

    async def stop(self) -> None:
        self.may_answer.set()
        await self._server.close()

    def key_set(self) -> dict[str, Any]:
        return {"keys": [signer.jwk() for signer in self.signers]}

    def fail(self, path: str = "/jwks", status: int = 503) -> None:
        self.answers[path] = lambda: web.Response(status=status)

    async def _serve(self, request: web.Request) -> web.Response:
        if self.serve_instead is not None:
            return await self.serve_instead(request)
        self.fetches[request.path] += 1
        documents = {DISCOVERY: self.discovery, "/jwks": self.key_set()}
        await self.may_answer.wait()
        if request.path in self.answers:
            return self.answers[request.path]()
        if request.path in documents:
            return web.json_response(documents[request.path])
        return web.Response(status=404)


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - the condition changes in a server
            await asyncio.sleep(0.001)


@pytest.fixture
async def idp() -> AsyncIterator[FakeIssuer]:
    issuer = FakeIssuer()
    await issuer.start()
    yield issuer
    await issuer.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        yield session


class Bench:
    """Creates IssuerKeys with fakes."""

    def __init__(self, http: aiohttp.ClientSession, clock: FakeClock) -> None:
        self.http = http
        self.clock = clock
        self.telemetry = RecordingTelemetry()
        self.rotations: list[str] = []
        self.handover = Handover()

    def keys(self, source: dict[str, Any], iss: str = "https://idp", **settings: Any) -> IssuerKeys:
        settings.setdefault("algorithms", ALL)
        issuer = Issuer.model_validate(
            {"name": "corp", "issuer": iss, "audience": ["gw"], "keys": source, **settings}
        )
        return IssuerKeys(
            issuer,
            http=self.http,
            clock=self.clock,
            telemetry=self.telemetry,
            on_rotation=self.rotations.append,
            jitter=Random(1),
            handover=self.handover,
        )

    def jwks(self, idp: FakeIssuer, **settings: Any) -> IssuerKeys:
        return self.keys({"jwks": f"{idp.url}/jwks"}, **settings)

    def discovery(self, idp: FakeIssuer, **settings: Any) -> IssuerKeys:
        return self.keys({"discovery": idp.url}, idp.url, **settings)

    @property
    def outcomes(self) -> list[str]:
        return [outcome for _, outcome in self.telemetry.key_refreshes]


@pytest.fixture
def bench(http: aiohttp.ClientSession, clock: FakeClock) -> Bench:
    return Bench(http, clock)


@asynccontextmanager
async def running(keys: IssuerKeys) -> AsyncIterator[None]:
    task = asyncio.create_task(keys.run())
    try:
        yield
    finally:
        assert not task.done(), "run() ended unexpectedly"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rejection(keys: IssuerKeys, algorithm: str, kid: str | None) -> Rejection:
    with pytest.raises(NotAuthenticated) as caught:
        await keys.keys_for(algorithm, kid)
    return caught.value.reason


def numbers(signer: Signer) -> Any:
    return signer.key.public_key().public_numbers()


# --- sources of keys -----------------------------------------------------------------------------


async def test_discovery_leads_to_the_keys(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.discovery(idp)
    assert not keys.loaded

    await keys.refresh()

    assert keys.loaded
    (key,) = await keys.keys_for("RS256", "k1")
    assert key.public_numbers() == numbers(rsa_signer())
    assert bench.outcomes == ["ok"]
    assert idp.fetches == {DISCOVERY: 1, "/jwks": 1}


@pytest.mark.parametrize("end", ["/", "x", " ", "\n", "/%2e"])
async def test_discovery_document_of_similar_issuer_is_rejected(
    bench: Bench, idp: FakeIssuer, end: str
) -> None:
    idp.discovery["issuer"] += end

    with pytest.raises(KeysUnavailable):
        await bench.discovery(idp).refresh()

    assert idp.fetches == {DISCOVERY: 1}


@pytest.mark.parametrize(
    "address",
    [
        None, 7, "", "/jwks", "jwks", "ftp://127.0.0.1/jwks", "file:///etc/passwd",
        "//127.0.0.1/jwks",
        "javascript:1", "http://", "http://[::1", "http://user@127.0.0.1/jwks", "http://a:b@h/jwks",
        "http://127.0.0.1:99999/jwks", "http://" + "a" * 70 + ".example./jwks", ["http://127.0.0.1"],
    ],
)  # fmt: skip
async def test_invalid_jwks_uri_is_rejected(bench: Bench, idp: FakeIssuer, address: object) -> None:
    idp.discovery["jwks_uri"] = address
    keys = bench.discovery(idp)

    with pytest.raises(KeysUnavailable):
        await keys.refresh()

    assert not keys.loaded
    assert bench.outcomes == ["failed"]


async def test_https_discovery_rejects_http_keys(bench: Bench) -> None:
    keys = bench.keys({"discovery": "https://idp"})
    document = {"issuer": "https://idp", "jwks_uri": "https://keys.example/jwks"}
    source = DiscoveryKeys(discovery="https://idp")

    assert keys._key_set_address(document, source) == "https://keys.example/jwks"
    for host in ("keys.example", "127.0.0.1"):
        with pytest.raises(UnusableKeys, match="jwks_uri must be https"):
            keys._key_set_address({**document, "jwks_uri": f"http://{host}/jwks"}, source)


async def test_http_discovery_on_loopback_rejects_http_keys_elsewhere(bench: Bench) -> None:
    document = {"issuer": "https://idp", "jwks_uri": "http://keys.example/jwks"}
    keys = bench.keys({"discovery": "https://idp"})
    with pytest.raises(UnusableKeys, match="jwks_uri must be https"):
        keys._key_set_address(document, DiscoveryKeys(discovery="http://127.0.0.1:9"))
    source = DiscoveryKeys(discovery="http://idp", insecure_http=True)
    assert keys._key_set_address(document, source) == "http://keys.example/jwks"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", [DISCOVERY, "/jwks"])
async def test_redirects_are_not_followed(
    bench: Bench, idp: FakeIssuer, path: str, status: int
) -> None:
    other = f"{idp.url}/elsewhere"
    idp.answers[path] = lambda: web.Response(status=status, headers={"Location": other})
    idp.answers["/elsewhere"] = lambda: web.json_response(idp.key_set())

    with pytest.raises(KeysUnavailable):
        await bench.discovery(idp).refresh()

    assert idp.fetches["/elsewhere"] == 0


BAD_SETS: dict[str, Callable[[], web.Response]] = {
    "not json": lambda: web.Response(body=b"<html>"),
    "empty": lambda: web.Response(body=b""),
    "not utf-8": lambda: web.Response(body=b'{"keys": "\xff"}'),
    "a list": lambda: web.json_response([]),
    "null": lambda: web.json_response(None),
    "no keys": lambda: web.json_response({}),
    "keys null": lambda: web.json_response({"keys": None}),
    "keys object": lambda: web.json_response({"keys": {}}),
    "no key in it": lambda: web.json_response({"keys": []}),
    "strange members": lambda: web.json_response({"keys": [None, 7, "k", [], {}]}),
    "deep": lambda: web.Response(body=b'{"keys":' + b"[" * 100_000),
    "long": lambda: web.Response(body=b'{"keys": [], "x": "' + b"x" * 300_000 + b'"}'),
    "404": lambda: web.Response(status=404),
    "500": lambda: web.Response(status=500),
    "204": lambda: web.Response(status=204),
}


@pytest.mark.parametrize("name", BAD_SETS)
async def test_garbage_never_replaces_valid_keys(bench: Bench, idp: FakeIssuer, name: str) -> None:
    keys = bench.jwks(idp)
    await keys.refresh()
    idp.answers["/jwks"] = BAD_SETS[name]

    with pytest.raises(KeysUnavailable):
        await keys.refresh()

    assert await keys.keys_for("RS256", "k1")
    assert bench.outcomes == ["ok", "failed"]
    assert bench.rotations == ["corp"]


async def test_endless_response_is_cut_off(bench: Bench, idp: FakeIssuer) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65_536

    idp.answers["/jwks"] = lambda: web.Response(body=endless())

    with pytest.raises(KeysUnavailable, match="larger than"):
        await bench.jwks(idp).refresh()


async def test_silent_issuer_times_out(
    bench: Bench, idp: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "_TIMEOUT", aiohttp.ClientTimeout(total=0.03))
    idp.may_answer.clear()

    with pytest.raises(KeysUnavailable, match="no response in time"):
        await bench.jwks(idp).refresh()


# --- valid and invalid keys ----------------------------------------------------------------------


def private_jwk(signer: Signer) -> dict[str, Any]:
    jwk = ALGORITHMS[signer.algorithm].to_jwk(signer.key, as_dict=True)
    return {**jwk, "key_ops": ["sign", "verify"]}


BAD_KEYS: dict[str, Callable[[], dict[str, Any]]] = {
    "kind unknown": lambda: rsa_signer("bad").jwk(kty="LATTICE"),
    "no kind": lambda: rsa_signer("bad").jwk(kty=None),
    "kind is a list": lambda: rsa_signer("bad").jwk(kty=["RSA"]),
    "no modulus": lambda: rsa_signer("bad").jwk(n=None),
    "modulus is a number": lambda: rsa_signer("bad").jwk(n=7),
    "modulus is no base64": lambda: rsa_signer("bad").jwk(n="%%%"),
    "exponent 1": lambda: rsa_signer("bad").jwk(e="AQ"),
    "exponent even": lambda: rsa_signer("bad").jwk(e="Ag"),
    "kid is a number": lambda: rsa_signer("bad").jwk(kid=7),
    "kid is an object": lambda: rsa_signer("bad").jwk(kid={"a": 1}),
    "for encryption": lambda: rsa_signer("bad").jwk(use="enc"),
    "use unknown": lambda: rsa_signer("bad").jwk(use="tls"),
    "use is a list": lambda: rsa_signer("bad").jwk(use=["sig"]),
    "only for signing": lambda: rsa_signer("bad").jwk(key_ops=["sign"]),
    "operations are no list": lambda: rsa_signer("bad").jwk(key_ops="verify"),
    "algorithm none": lambda: rsa_signer("bad").jwk(alg="none"),
    "algorithm of secrets": lambda: rsa_signer("bad").jwk(alg="HS256"),
    "algorithm of encryption": lambda: rsa_signer("bad").jwk(alg="RSA-OAEP"),
    "algorithm of curves": lambda: rsa_signer("bad").jwk(alg="ES256"),
    "algorithm is an object": lambda: rsa_signer("bad").jwk(alg={"a": 1}),
    "private": lambda: rsa_signer("bad").jwk(key_ops=None) | private_jwk(rsa_signer("bad")),
    "private on a curve": lambda: private_jwk(ec_signer("bad")) | {"kid": "bad"},
    "a secret": lambda: {"kty": "oct", "kid": "bad", "k": "c2VjcmV0" * 8, "alg": "HS256"},
    "a secret for any": lambda: {"kty": "oct", "kid": "bad", "k": "c2VjcmV0" * 8},
    "too short": lambda: rsa_signer("bad", which="short", bits=1024).jwk(),
    "off the curve": lambda: ec_signer("bad").jwk(y="A" * 43),
    "curve unknown": lambda: ec_signer("bad").jwk(crv="P-257"),
    "curve of no algorithm here": lambda: ec_signer("bad", algorithm="ES512").jwk(alg=None),
    "another curve's algorithm": lambda: ec_signer("bad").jwk(alg="ES384"),
    "key agreement": lambda: {"kty": "OKP", "kid": "bad", "crv": "X25519", "x": "A" * 43},
    "no x": lambda: ed_signer("bad").jwk(x=None),
    "algorithm of the other curve": lambda: ed_signer("bad").jwk(alg="Ed448"),
    "algorithm of the first curve": lambda: ed_signer("bad", is_448=True).jwk(alg="Ed25519"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
async def test_invalid_key_is_skipped_and_others_load(
    bench: Bench, idp: FakeIssuer, name: str
) -> None:
    jwk = BAD_KEYS[name]()
    good = rsa_signer("good").jwk()
    idp.answers["/jwks"] = lambda: web.json_response({"keys": [jwk, good, jwk]})
    keys = bench.jwks(idp, unknown_kid_cooldown_s=1e6)
    keys._next_request_at = float("inf")

    await keys.refresh()

    assert await keys.keys_for("RS256", "good")
    for algorithm in ALL:
        assert await rejection(keys, algorithm, "bad") in {
            Rejection.KEY_UNKNOWN,
            Rejection.ALGORITHM,
        }


JWKS_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.sampled_from(ALL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


MEMBERS = ["kty", "kid", "use", "alg", "key_ops", "n", "e", "d", "x", "y", "crv", "k", "oth", "p"]


@given(
    base=st.sampled_from(["rsa", "ec", "okp"]),
    members=st.dictionaries(st.sampled_from(MEMBERS), JWKS_VALUES),
)
def test_any_jwk_is_loaded_or_skipped(base: str, members: dict[str, Any]) -> None:
    good = {"rsa": rsa_signer().jwk(), "ec": ec_signer().jwk(), "okp": ed_signer().jwk()}[base]

    found = parse_key_set({"keys": [{**good, **members}]})

    assert all(key.algorithms <= set(ALL) for key in found)


async def test_algorithm_must_match_the_key_type(bench: Bench, idp: FakeIssuer) -> None:
    fits = {
        "rsa": (rsa_signer("rsa").jwk(alg=None), {"RS256", "RS384", "RS512", "PS256"}),
        "p256": (ec_signer("p256").jwk(alg=None), {"ES256"}),
        "p384": (ec_signer("p384", algorithm="ES384").jwk(alg=None), {"ES384"}),
        "ed25519": (ed_signer("ed25519").jwk(alg=None), {"EdDSA", "Ed25519"}),
        "ed448": (ed_signer("ed448", is_448=True).jwk(alg=None), {"EdDSA", "Ed448"}),
        "both names": (ed_signer("both names").jwk(alg="EdDSA"), {"EdDSA", "Ed25519"}),
        "rfc 9864": (ed_signer("rfc 9864").jwk(alg="Ed25519"), {"EdDSA", "Ed25519"}),
        "of 448": (ed_signer("of 448", is_448=True).jwk(alg="Ed448"), {"EdDSA", "Ed448"}),
        "only-ps": (rsa_signer("only-ps").jwk(alg="PS256"), {"PS256"}),
    }
    idp.answers["/jwks"] = lambda: web.json_response({"keys": [jwk for jwk, _ in fits.values()]})
    keys = bench.jwks(idp)
    await keys.refresh()
    keys._next_request_at = float("inf")

    for kid, (_, fitting) in fits.items():
        for algorithm in ALL:
            if algorithm in fitting:
                assert len(await keys.keys_for(algorithm, kid)) == 1
            else:
                assert await rejection(keys, algorithm, kid) is Rejection.ALGORITHM


async def test_disallowed_algorithm_has_no_key(bench: Bench, idp: FakeIssuer) -> None:
    idp.signers = [rsa_signer("k1")]
    keys = bench.jwks(idp, algorithms=["ES256"])

    with pytest.raises(KeysUnavailable):
        await keys.refresh()

    assert not keys.loaded


async def test_keys_with_equal_kid_are_selected_by_algorithm(bench: Bench, idp: FakeIssuer) -> None:
    one, two = rsa_signer("k"), rsa_signer("k", which="b")
    idp.signers = [one, two, one, ec_signer("k")]
    keys = bench.jwks(idp)
    await keys.refresh()

    found = await keys.keys_for("RS256", "k")

    assert {key.public_numbers() for key in found} == {numbers(one), numbers(two)}
    assert len(found) == 2
    assert len(await keys.keys_for("ES256", "k")) == 1


async def test_token_without_kid_may_be_from_any_fitting_key(bench: Bench, idp: FakeIssuer) -> None:
    idp.signers = [rsa_signer("a"), ec_signer("c"), rsa_signer("b", which="b")]
    keys = bench.jwks(idp)
    await keys.refresh()
    keys._next_request_at = float("inf")

    found = await keys.keys_for("RS256", None)
    assert [key.public_numbers() for key in found] == [
        numbers(rsa_signer("a")), numbers(rsa_signer("b", which="b")),
    ]  # fmt: skip
    assert len(await keys.keys_for("ES256", None)) == 1
    assert await rejection(keys, "EdDSA", None) is Rejection.KEY_UNKNOWN
    assert await rejection(keys, "HS256", None) is Rejection.KEY_UNKNOWN


@pytest.mark.parametrize("kid", [None, "k"])
async def test_at_most_ten_keys_are_tried_for_a_token(
    bench: Bench, idp: FakeIssuer, kid: str | None
) -> None:
    idp.signers = [ed_signer("k") for _ in range(30)]
    keys = bench.jwks(idp)
    await keys.refresh()
    keys._next_request_at = float("inf")

    found = await keys.keys_for("EdDSA", kid)

    first_ten = [signer.key.public_key() for signer in idp.signers[:10]]
    assert [*found] == first_ten, "in the published order"
    with pytest.raises(NotAuthenticated) as caught:
        await keys.keys_after_mismatch("EdDSA", kid, found)
    assert caught.value.reason is Rejection.SIGNATURE, "the other twenty are not tried either"


async def test_single_key_without_kid_matches_any_kid(bench: Bench, idp: FakeIssuer) -> None:
    idp.signers = [rsa_signer(None), ec_signer("c")]
    keys = bench.jwks(idp)
    await keys.refresh()
    assert len(await keys.keys_for("RS256", "whatever")) == 1

    idp.signers.append(rsa_signer("b", which="b"))
    await keys.refresh()
    keys._next_request_at = float("inf")

    assert await rejection(keys, "RS256", "whatever") is Rejection.KEY_UNKNOWN


async def test_keys_without_kid_all_match_any_kid(bench: Bench, idp: FakeIssuer) -> None:
    idp.signers = [rsa_signer(None), rsa_signer(None, which="b"), ec_signer("c")]
    keys = bench.jwks(idp)
    await keys.refresh()
    keys._next_request_at = float("inf")

    assert len(await keys.keys_for("RS256", "whatever")) == 2
    assert await rejection(keys, "RS256", "c") is Rejection.ALGORITHM


async def test_number_of_keys_is_bounded(bench: Bench, idp: FakeIssuer) -> None:
    idp.signers = [ed_signer(f"k{i}") for i in range(101)]
    keys = bench.jwks(idp)
    await keys.refresh()
    keys._next_request_at = float("inf")

    assert await keys.keys_for("EdDSA", "k99")
    assert await rejection(keys, "EdDSA", "k100") is Rejection.KEY_UNKNOWN


# --- unknown kid --------------------------------------------------------------------------------


async def test_random_kids_cost_one_fetch_per_cooldown(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp, unknown_kid_cooldown_s=30.0)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        assert idp.fetches["/jwks"] == 1
        for round_ in range(1, 4):
            floods = [keys.keys_for("RS256", secrets.token_hex(8)) for _ in range(10_000)]
            outcomes = await asyncio.gather(*floods, return_exceptions=True)
            assert all(isinstance(outcome, NotAuthenticated) for outcome in outcomes)
            assert idp.fetches["/jwks"] == 1 + round_
            await bench.clock.advance(29.9)
            assert await rejection(keys, "RS256", "random") is Rejection.KEY_UNKNOWN
            assert idp.fetches["/jwks"] == 1 + round_
            await bench.clock.advance(0.1)


async def test_unknown_kids_do_not_delay_valid_tokens(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.may_answer.clear()
        flood = [asyncio.create_task(keys.keys_for("RS256", f"x{i}")) for i in range(100)]
        await settle()

        assert await keys.keys_for("RS256", "k1")

        idp.may_answer.set()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_new_kid_works_after_one_fetch(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.signers = [rsa_signer("k2", which="b")]

        found = await asyncio.gather(*(keys.keys_for("RS256", "k2") for _ in range(100)))

        assert {key.public_numbers() for (key,) in found} == {numbers(idp.signers[0])}
        assert idp.fetches["/jwks"] == 2
        assert bench.rotations == ["corp", "corp"]


async def test_refresh_before_rotation_is_followed_by_another(
    bench: Bench, idp: FakeIssuer
) -> None:
    keys = bench.jwks(idp, keys_refresh_s=300.0)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.may_answer.clear()
        await bench.clock.advance(300.0)
        await eventually(lambda: idp.fetches["/jwks"] == 2)
        idp.signers = [rsa_signer("k2", which="b")]  # the response in progress has the old key
        requested = asyncio.create_task(keys.keys_for("RS256", "k2"))
        await settle()
        idp.may_answer.set()

        assert len(await requested) == 1
        assert idp.fetches["/jwks"] == 3


async def test_cancelled_caller_does_not_cancel_the_fetch(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.signers = [rsa_signer("k2", which="b")]
        idp.may_answer.clear()
        requested = [asyncio.create_task(keys.keys_for("RS256", "k2")) for _ in range(5)]
        await eventually(lambda: idp.fetches["/jwks"] == 2)
        requested[0].cancel()
        requested[3].cancel()
        await settle()
        idp.may_answer.set()
        outcomes = await asyncio.gather(*requested, return_exceptions=True)

        assert [isinstance(outcome, tuple) for outcome in outcomes] == [
            False, True, True, False, True,
        ]  # fmt: skip
        assert idp.fetches["/jwks"] == 2


async def test_replaced_key_under_its_kid_works_after_one_fetch(
    bench: Bench, idp: FakeIssuer
) -> None:
    signatures = JwtSignatures(
        [TrustedIssuer("corp", "https://idp", frozenset(ALL), keys := bench.jwks(idp))]
    )
    claims = {"iss": "https://idp", "sub": "ann"}
    async with running(keys):
        await eventually(lambda: keys.loaded)
        for new in (rsa_signer("k1", which="b"), ec_signer("k1"), rsa_signer(None, which="c")):
            idp.signers = [new]
            fetches = idp.fetches["/jwks"]

            verified = await asyncio.gather(
                *(signatures.verify(Secret(new.token(claims))) for _ in range(20))
            )

            assert {one.issuer for one in verified} == {"corp"}
            assert idp.fetches["/jwks"] == fetches + 1
            await bench.clock.advance(30.0)
        with pytest.raises(NotAuthenticated):
            await signatures.verify(Secret(rsa_signer("k1").token(claims)))


async def test_forged_signatures_cost_one_fetch_per_cooldown(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp, unknown_kid_cooldown_s=30.0)
    signatures = JwtSignatures([TrustedIssuer("corp", "https://idp", frozenset(ALL), keys)])
    claims = {"iss": "https://idp", "sub": "mallory"}
    forged = [
        Secret(rsa_signer("k1", which="b").token(claims)),
        Secret(rsa_signer(None, which="b").token(claims)),
        Secret(ec_signer("k1").token(claims)),
        Secret(ec_signer(None).token(claims)),
    ]
    async with running(keys):
        await eventually(lambda: keys.loaded)
        for round_ in range(1, 4):
            flood = [signatures.verify(token) for token in forged * 100]
            outcomes = await asyncio.gather(*flood, return_exceptions=True)
            assert {getattr(one, "reason", None) for one in outcomes} == {
                Rejection.SIGNATURE, Rejection.ALGORITHM, Rejection.KEY_UNKNOWN,
            }  # fmt: skip
            assert idp.fetches["/jwks"] == 1 + round_
            await bench.clock.advance(29.9)
            with pytest.raises(NotAuthenticated):
                await signatures.verify(forged[0])
            assert idp.fetches["/jwks"] == 1 + round_
            await bench.clock.advance(0.1)
    assert bench.rotations == ["corp"], "no cached token was dropped"


async def test_forged_signature_during_outage_is_rejected(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp)
    signatures = JwtSignatures([TrustedIssuer("corp", "https://idp", frozenset(ALL), keys)])
    forged = Secret(rsa_signer("k1", which="b").token({"iss": "https://idp"}))
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.fail()
        for _ in range(2):
            with pytest.raises(NotAuthenticated) as caught:
                await signatures.verify(forged)
            assert caught.value.reason is Rejection.SIGNATURE


async def test_new_kid_is_unavailable_while_the_issuer_fails(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.signers = [rsa_signer("k2", which="b")]
        idp.fail(status=500)
        for _ in range(2):  # the second one is within the cooldown
            with pytest.raises(KeysUnavailable) as caught:
                await keys.keys_for("RS256", "k2")
            assert 1.0 <= caught.value.retry_after_s <= 30.0
        idp.answers.clear()
        await bench.clock.advance(caught.value.retry_after_s)
        await eventually(lambda: bench.outcomes[-1] == "ok")
        assert await keys.keys_for("RS256", "k2")
        assert await rejection(keys, "RS256", "k3") is Rejection.KEY_UNKNOWN


async def test_unknown_kid_during_outage_costs_one_fetch(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.fail()
        outcomes = await asyncio.gather(
            *(keys.keys_for("RS256", f"x{i}") for i in range(1_000)), return_exceptions=True
        )

        assert {type(outcome) for outcome in outcomes} == {KeysUnavailable}
        assert idp.fetches["/jwks"] == 2
        assert await keys.keys_for("RS256", "k1")


# --- refreshes ---------------------------------------------------------------------------------


async def test_keys_are_refreshed_on_schedule(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp, keys_refresh_s=300.0)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        for times in range(2, 6):
            wait_s = keys._due_at - bench.clock.monotonic()
            assert 270.0 <= wait_s <= 300.0
            await bench.clock.advance(wait_s - 0.5)
            assert idp.fetches["/jwks"] == times - 1
            await bench.clock.advance(0.5)
            await eventually(lambda: len(bench.outcomes) == times)  # noqa: B023

    assert bench.rotations == ["corp"]


async def test_refreshes_of_replicas_are_spread(bench: Bench, idp: FakeIssuer) -> None:
    due: set[float] = set()
    for seed in range(20):
        keys = bench.jwks(idp)
        keys._jitter = random.Random(seed)
        await keys.refresh()
        due.add(round(keys._due_at - bench.clock.monotonic()))

    assert min(due) >= 270
    assert max(due) <= 300
    assert len(due) > 5


async def test_keys_expire_after_keys_age_max(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp, keys_refresh_s=300.0, keys_age_max_s=1_000.0)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        idp.fail()
        for _ in range(99):
            await bench.clock.advance(10.0)
            await asyncio.sleep(0.002)
        assert idp.fetches["/jwks"] > 10
        assert await keys.keys_for("RS256", "k1")
        await bench.clock.advance(9.9)
        assert await keys.keys_for("RS256", "k1")
        assert bench.rotations == ["corp"]

        await bench.clock.advance(0.1)

        assert not keys.loaded
        with pytest.raises(KeysUnavailable) as caught:
            await keys.keys_for("RS256", "k1")
        assert caught.value.retry_after_s >= 1.0
        await eventually(lambda: bench.rotations == ["corp", "corp"])

        idp.answers.clear()
        while not keys.loaded:
            await bench.clock.advance(1.0)
            await asyncio.sleep(0.001)
        assert await keys.keys_for("RS256", "k1")


async def test_failed_refreshes_are_retried_with_back_off(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.jwks(idp, keys_refresh_s=300.0)
    idp.fail()
    waits: list[float] = []
    for _ in range(12):
        with pytest.raises(KeysUnavailable) as caught:
            await keys.refresh()
        waits.append(keys._due_at - bench.clock.monotonic())
        assert caught.value.retry_after_s == max(1.0, waits[-1])

    assert waits[0] <= 2.0
    assert all(15.0 <= wait <= 30.0 for wait in waits[5:])


async def test_issuer_down_at_start_is_loaded_later(bench: Bench, idp: FakeIssuer) -> None:
    keys = bench.discovery(idp)
    idp.fail(DISCOVERY)
    async with running(keys):
        await eventually(lambda: bench.outcomes == ["failed"])
        with pytest.raises(KeysUnavailable):
            await keys.keys_for("RS256", "k1")
        idp.answers.clear()
        await bench.clock.advance(2.0)
        await eventually(lambda: keys.loaded)

        assert await keys.keys_for("RS256", "k1")


async def test_issuer_without_listener_is_unavailable(bench: Bench) -> None:
    keys = bench.keys({"jwks": "http://127.0.0.1:1/jwks"})

    with pytest.raises(KeysUnavailable, match="issuer corp"):
        await keys.refresh()

    assert bench.outcomes == ["failed"]


# --- files and secrets --------------------------------------------------------------------------


async def test_pem_file_matches_any_kid(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(rsa_signer().pem())
    keys = bench.keys({"public_key_file": file})
    await keys.refresh()

    for kid in (None, "any", "other"):
        (key,) = await keys.keys_for("RS256", kid)
        assert key.public_numbers() == numbers(rsa_signer())


def certificate(
    signer: Signer, name: str = "idp", issuer: Signer | None = None, issuer_name: str = "idp"
) -> bytes:
    """Return a certificate in PEM, expired long ago; self-signed without `issuer`."""
    began = datetime(2001, 1, 1, tzinfo=UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(signer.key.public_key())
        .serial_number(1)
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=1))
        .sign((issuer or signer).key, SHA256())
    )
    return built.public_bytes(Encoding.PEM)


async def test_every_key_of_a_pem_file_is_used(bench: Bench, tmp_path: Path) -> None:
    one, two, three = (rsa_signer(None, which=which) for which in "abc")
    file = tmp_path / "keys.pem"
    file.write_bytes(b"\xef\xbb\xbf# current\n" + one.pem() + b"# next\n" + certificate(two))
    keys = bench.keys({"public_key_file": file})
    await keys.refresh()
    signatures = JwtSignatures([TrustedIssuer("corp", "https://idp", frozenset(ALL), keys)])
    keys._next_request_at = float("inf")

    for signer in (one, two):
        for kid in ("any", None):
            token = Secret(signer.token({"iss": "https://idp"}, kid=kid))
            assert (await signatures.verify(token)).issuer == "corp"
    with pytest.raises(NotAuthenticated):
        await signatures.verify(Secret(three.token({"iss": "https://idp"})))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            certificate(rsa_signer(), "idp", rsa_signer(which="b"), "authority")
            + certificate(rsa_signer(which="b"), "authority", issuer_name="authority"),
            "with its authority",
        ),
        (rsa_signer().pem() + rsa_signer(which="b").pem()[:-20], "neither"),
        (
            rsa_signer().pem() + b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "no",
        ),
        (rsa_signer().pem().replace(b"PUBLIC KEY", b"DSA PARAMETERS"), "no public key"),
        (rsa_signer().pem() * 101, "neither"),
    ],
    ids=["chain", "cut off", "junk", "other block", "too many"],
)
def test_config_rejects_a_pem_file_of_which_a_part_is_unusable(
    bench: Bench, tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "keys.pem"
    file.write_bytes(content)
    with pytest.raises(ValidationError, match=problem):
        bench.keys({"public_key_file": file})


async def test_changed_key_set_file_is_reloaded(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [rsa_signer("k1").jwk()]}))
    keys = bench.keys({"public_key_file": file})
    async with running(keys):
        await eventually(lambda: keys.loaded)
        file.write_text(json.dumps({"keys": [rsa_signer("k2", which="b").jwk()]}))

        assert await keys.keys_for("RS256", "k2")
        assert await rejection(keys, "RS256", "k1") is Rejection.KEY_UNKNOWN


NO_PUBLIC_KEYS = {
    "empty": b"",
    "junk": b"junk",
    "half": b"{",
    "no set": b"{}",
    "long": b"x" * 300_000,
    "private": rsa_signer().key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
}


@pytest.mark.parametrize("content", [*NO_PUBLIC_KEYS.values(), None], ids=[*NO_PUBLIC_KEYS, "gone"])
async def test_file_without_public_key_keeps_old_keys(
    bench: Bench, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(rsa_signer().pem())
    keys = bench.keys({"public_key_file": file})
    await keys.refresh()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)

    with pytest.raises(KeysUnavailable):
        await keys.refresh()

    assert await keys.keys_for("RS256", None)


@pytest.mark.parametrize("content", [*NO_PUBLIC_KEYS.values(), None], ids=[*NO_PUBLIC_KEYS, "gone"])
def test_config_rejects_file_without_public_key(
    bench: Bench, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ValidationError, match="public_key_file") as reported:
        bench.keys({"public_key_file": file})
    assert "BEGIN" not in str(reported.value)


def test_config_rejects_file_key_without_matching_algorithm(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(rsa_signer().pem())
    expected = "no key fits the issuer's algorithms ES256: a key without `kid` fits PS256, RS256"
    with pytest.raises(ValidationError, match=expected):
        bench.keys({"public_key_file": file}, algorithms=["ES256"])


async def test_shared_secret_allows_only_hs256(bench: Bench) -> None:
    secret = Secret("s" * 32)
    keys = bench.keys({"secret": secret}, algorithms=["HS256"])
    await keys.refresh()

    assert await keys.keys_for("HS256", None) == (b"s" * 32,)
    assert await keys.keys_for("HS256", "any") == (b"s" * 32,)
    keys._next_request_at = float("inf")
    assert await rejection(keys, "RS256", "any") is Rejection.KEY_UNKNOWN
    assert "sss" not in repr(vars(keys))


@pytest.mark.parametrize("form", ["pem", "jwk"])
def test_public_key_is_rejected_as_secret(bench: Bench, form: str) -> None:
    signer = rsa_signer()
    text = signer.pem().decode() if form == "pem" else json.dumps(signer.jwk())
    with pytest.raises(ValidationError, match="the secret must not be a public key"):
        bench.keys({"secret": Secret(text)}, algorithms=["HS256"])


def test_config_rejects_short_secret(bench: Bench) -> None:
    with pytest.raises(ValidationError, match="at least 32 bytes, and has 31"):
        bench.keys({"secret": Secret("s" * 31)}, algorithms=["HS256"])


@pytest.mark.parametrize("form", ["base64", "base64url", "unpadded"])
async def test_shared_secret_may_be_base64(bench: Bench, form: str) -> None:
    key = bytes(range(190, 250))
    encode = base64.b64encode if form == "base64" else base64.urlsafe_b64encode
    text = encode(key).decode()
    text = text.rstrip("=") if form == "unpadded" else text
    source = {"secret": Secret(text), "encoding": "base64"}
    keys = bench.keys(source, algorithms=["HS256"])
    await keys.refresh()
    signatures = JwtSignatures([TrustedIssuer("corp", "https://idp", frozenset({"HS256"}), keys)])
    claims = {"iss": "https://idp"}

    token = Secret(Signer("HS256", key, None).token(claims))
    assert (await signatures.verify(token)).issuer == "corp"
    keys._next_request_at = float("inf")
    with pytest.raises(NotAuthenticated):
        await signatures.verify(Secret(Signer("HS256", text.encode(), None).token(claims)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (base64.b64encode(b"s" * 31).decode(), "at least 32 bytes, and has 31"),
        ("canary not base64 " * 10, "must be base64"),
        ("canary" * 10 + "!", "must be base64"),
        (base64.b64encode(rsa_signer().pem()).decode(), "must not be a public key"),
    ],
    ids=["short", "blanks", "other characters", "public key"],
)
def test_config_rejects_wrong_base64_secret(bench: Bench, text: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem) as caught:
        bench.keys({"secret": Secret(text), "encoding": "base64"}, algorithms=["HS256"])
    assert "canary" not in str(caught.value)


def test_encoding_is_for_shared_secrets_only(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(rsa_signer().pem())
    with pytest.raises(ValidationError, match="encoding"):
        bench.keys({"public_key_file": file, "encoding": "base64"})
    for algorithms in (["RS256"], ["HS256", "RS256"]):
        with pytest.raises(ValidationError, match="does not fit this kind"):
            bench.keys({"secret": Secret("s" * 44), "encoding": "base64"}, algorithms=algorithms)


# --- handover to later workers ---------------------------------------------------------------


async def test_worker_started_during_outage_inherits_keys(
    bench: Bench, idp: FakeIssuer, clock: FakeClock
) -> None:
    aged = {"keys_refresh_s": 60, "keys_age_max_s": 100}
    await bench.discovery(idp, **aged).refresh()
    await clock.advance(40)
    idp.fail(DISCOVERY)
    fetched = idp.fetches.total()

    new = bench.discovery(idp, **aged)
    await load_initial_keys([new], within_s=10)

    assert idp.fetches.total() == fetched  # a known key causes no wait
    assert new.age_s >= 40
    assert await new.keys_for("RS256", "k1")
    await clock.advance(60)
    assert not new.loaded
    with pytest.raises(KeysUnavailable):
        await new.keys_for("RS256", "k1")


async def test_withdrawn_keys_are_not_handed_over(bench: Bench, idp: FakeIssuer) -> None:
    before = bench.jwks(idp)
    await before.refresh()
    await bench.clock.advance(1)
    idp.signers = [rsa_signer("k2", which="other")]
    await before.refresh()

    assert [cached_value.kid for cached_value in bench.jwks(idp)._keys] == ["k2"]


async def test_keys_of_another_source_are_not_inherited(bench: Bench, idp: FakeIssuer) -> None:
    await bench.jwks(idp).refresh()

    assert not bench.discovery(idp).loaded
    assert not bench.keys({"jwks": f"{idp.url}/other"}).loaded
    assert not bench.jwks(idp, algorithms=["EdDSA"]).loaded
    assert bench.jwks(idp, algorithms=["RS256"]).loaded


async def test_shared_secret_is_not_handed_over(bench: Bench) -> None:
    secret = {"secret": Secret("s" * 32)}
    await bench.keys(secret, algorithms=["HS256"]).refresh()

    assert not bench.keys(secret, algorithms=["HS256"]).loaded


async def test_start_waits_for_reachable_issuers_only(bench: Bench, idp: FakeIssuer) -> None:
    idp.may_answer.clear()
    unavailable, slow = bench.keys({"jwks": "http://127.0.0.1:1/jwks"}), bench.jwks(idp)
    loading = asyncio.create_task(load_initial_keys([unavailable, slow], within_s=10))
    await eventually(lambda: bench.outcomes == ["failed"])
    await asyncio.wait({loading}, timeout=0.1)
    idp.may_answer.set()
    await loading

    assert slow.loaded


# --- together with Identify ---------------------------------------------------------------------


async def test_rotation_drops_cached_tokens_of_old_key(
    http: aiohttp.ClientSession, idp: FakeIssuer, clock: FakeClock
) -> None:
    telemetry = RecordingTelemetry()
    line: list[Identify] = []

    def forget(issuer: str) -> None:
        line[0].drop_issuer(issuer)

    keys = IssuerKeys(
        Issuer.model_validate(
            {"name": "corp", "issuer": idp.url, "audience": ["gw"], "keys": {"discovery": idp.url}}
        ),
        http=http,
        clock=clock,
        telemetry=telemetry,
        on_rotation=forget,
        jitter=Random(1),
        handover=Handover(),
    )
    rules = TokenRules("corp", idp.url, frozenset({"gw"}), 30.0, 86_400.0, None, "sub", "groups")
    line.append(
        Identify(
            revoked=lambda _: False,
            find_lock=lambda _: None,
            groups_required=lambda _: False,
            groups_missing=lambda _: None,
            signatures=JwtSignatures([TrustedIssuer("corp", idp.url, frozenset({"RS256"}), keys)]),
            rules={"corp": rules},
            clock=clock,
            telemetry=telemetry,
            tokens_max=10,
        )
    )
    identify = line[0]
    now = clock.now()
    claims = {"iss": idp.url, "aud": "gw", "sub": "ann", "iat": now, "exp": now + 9_000}
    old, new = rsa_signer("k1").token(claims), rsa_signer("k2", which="b").token(claims)
    async with running(keys):
        await eventually(lambda: keys.loaded)
        await identify.identify(Secret(old))
        assert cached_principal(identify, old) is not None

        idp.signers = [rsa_signer("k2", which="b")]
        assert (await identify.identify(Secret(new))).subject == "ann"

        assert cached_principal(identify, old) is None
        await identify.identify(Secret(new))  # the keys changed during the first attempt
        assert cached_principal(identify, new) is not None
        with pytest.raises(NotAuthenticated) as caught:
            await identify.identify(Secret(old))
        assert caught.value.reason is Rejection.KEY_UNKNOWN
        assert telemetry.identifications[-1] == ("corp", "key_unknown")


async def test_issuer_mismatch_names_both_values(bench: Bench, idp: FakeIssuer) -> None:
    idp.discovery["issuer"] += "/\x1b[2J"
    with pytest.raises(KeysUnavailable) as caught:
        await bench.discovery(idp).refresh()
    assert f"names another issuer: '{idp.url}/\\x1b[2J', and `issuers[].issuer` is '{idp.url}'" in (
        str(caught.value)
    )
    idp.discovery["issuer"] = "x" * 10_000
    with pytest.raises(KeysUnavailable) as caught:
        await bench.discovery(idp).refresh()
    assert len(str(caught.value)) < 400


class _LoopbackResolver(aiohttp.abc.AbstractResolver):
    """Resolves every name to loopback."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host="127.0.0.1", port=port,
                family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST,
            )
        ]  # fmt: skip

    async def close(self) -> None:
        return None


async def test_encoded_path_query_and_host_with_underscore_are_requested(
    idp: FakeIssuer, clock: FakeClock
) -> None:
    requested: list[tuple[str, str]] = []
    port = urlsplit(idp.url).port
    base = f"http://my_idp:{port}/realms/My%20Realm"
    document = {"issuer": base, "jwks_uri": f"{base}/keys?appid=b%2Fc"}

    async def serve(request: web.Request) -> web.Response:
        requested.append((request.host, request.raw_path))
        is_key_set = request.path.endswith("/keys")
        return web.json_response(idp.key_set() if is_key_set else document)

    idp.serve_instead = serve
    connector = aiohttp.TCPConnector(resolver=_LoopbackResolver())
    async with aiohttp.ClientSession(connector=connector) as http:
        source = {"discovery": f"{base}/?appid=a%20b", "insecure_http": True}
        await Bench(http, clock).keys(source, base).refresh()
    host = f"my_idp:{port}"
    assert requested == [
        (host, "/realms/My%20Realm/.well-known/openid-configuration?appid=a%20b"),
        (host, "/realms/My%20Realm/keys?appid=b%2Fc"),
    ]


async def test_redirect_is_named_without_its_path(bench: Bench, idp: FakeIssuer) -> None:
    headers = {"Location": "https://other.example:8443/secret?token=x"}
    idp.answers["/jwks"] = lambda: web.Response(status=302, headers=headers)
    with pytest.raises(KeysUnavailable, match=r"302, a redirect to 'https://other\.example:8443';"):
        await bench.jwks(idp).refresh()


async def test_ignored_keys_are_logged_with_reasons_once(
    bench: Bench, idp: FakeIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    jwks = [
        rsa_signer("ok").jwk(), rsa_signer("\x1b[2J").jwk(use="enc"), ec_signer("ec").jwk(),
        rsa_signer("alg").jwk(alg="ES256"), rsa_signer(None).jwk(kty="LATTICE"), 7,
    ]  # fmt: skip
    idp.answers["/jwks"] = lambda: web.json_response({"keys": jwks})
    keys = bench.jwks(idp, algorithms=["RS256", "Ed25519"])
    with caplog.at_level("INFO", "gateway.keys"):
        await keys.refresh()
        await keys.refresh()
    assert keys.summary.startswith("1 key; ignored: key '\\x1b[2J': `use` is 'enc'")
    (logged,) = [one for one in caplog.records if one.msg == "keys_ignored"]
    assert logged.__dict__["keys"] == [
        "key '\\x1b[2J': `use` is 'enc', and not 'sig'",
        "key 'alg': `alg` is 'ES256', but the key fits PS256, RS256, RS384, RS512",
        "a key without `kid`: `kty` is 'LATTICE', and not RSA, EC or OKP",
        "a key without `kid`: not a JSON object",
        "key 'ec' fits ES256, and not one of `algorithms`",
    ]


async def test_error_names_address_and_reason(bench: Bench, idp: FakeIssuer) -> None:
    idp.answers[DISCOVERY] = lambda: web.Response(status=404)
    with pytest.raises(KeysUnavailable, match=f"{idp.url}{DISCOVERY}: HTTP status 404"):
        await bench.discovery(idp).refresh()
    closed = "http://127.0.0.1:1"
    with pytest.raises(KeysUnavailable) as refused:
        await bench.keys({"discovery": closed}).refresh()
    assert f"{closed}{DISCOVERY}: no connection: connection refused" in str(refused.value)
    with pytest.raises(KeysUnavailable) as unknown:
        await bench.keys({"jwks": "https://missing.invalid/jwks"}).refresh()
    assert "https://missing.invalid/jwks: no connection: the host name does not resolve" in str(
        unknown.value
    )
    assert "ssl:default" not in str(refused.value)
