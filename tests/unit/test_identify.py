"""Verified tokens are cached until they expire, up to a bound."""

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.errors import DeadlineExceeded, KeysUnavailable, NotAuthenticated, Rejection
from gateway.domain.identity.claims import CALLER_JWT_CHARS_MAX, TokenRules
from gateway.domain.model import Principal, Secret, VerifiedToken
from gateway.drivers.issuers.groups_claims import MissingGroupsClaims
from gateway.flow.identify import Identify
from tests.support.clock import FakeClock, settle
from tests.support.stages import cached_principal
from tests.support.telemetry import RecordingTelemetry

CORP = TokenRules(
    issuer="corp",
    iss="https://corp",
    audiences=frozenset({"console-gateway"}),
    leeway_s=30.0,
    token_age_max_s=3_600.0,
    token_type=None,
    subject_claim="sub",
    groups_claim="groups",
)
PARTNER = replace(CORP, issuer="partner", iss="https://partner")


class FakeSignatures:
    """Verifies the tokens that were signed here; `blocked` makes it wait."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._tokens: dict[str, VerifiedToken] = {}
        self.proofs: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.are_keys_there = True

    def sign(self, token: str, rules: TokenRules = CORP, **claims: Any) -> str:
        now = self._clock.now()
        body = {"iss": rules.iss, "aud": "console-gateway", "sub": token, "iat": now}
        body |= {"exp": now + 600, "groups": [], **claims}
        self._tokens[token] = VerifiedToken(rules.issuer, {}, body)
        return token

    async def verify(self, caller_jwt: Secret) -> VerifiedToken:
        self.proofs.append(caller_jwt.reveal())
        await self.may_end.wait()
        if not self.are_keys_there:
            raise KeysUnavailable("keys of issuer corp were never loaded", retry_after_s=1.0)
        if caller_jwt.reveal() not in self._tokens:
            raise NotAuthenticated(Rejection.SIGNATURE, issuer="corp")
        return self._tokens[caller_jwt.reveal()]


@pytest.fixture
def signatures(clock: FakeClock) -> FakeSignatures:
    return FakeSignatures(clock)


@pytest.fixture
def telemetry() -> RecordingTelemetry:
    return RecordingTelemetry()


@pytest.fixture
def identify(
    signatures: FakeSignatures, clock: FakeClock, telemetry: RecordingTelemetry
) -> Identify:
    return Identify(
        revoked=lambda _: False,
        find_lock=lambda _: None,
        groups_required=lambda _: False,
        groups_missing=lambda _: None,
        signatures=signatures,
        rules={"corp": CORP, "partner": PARTNER},
        clock=clock,
        telemetry=telemetry,
        tokens_max=3,
    )


async def test_verified_token_is_cached(
    identify: Identify, signatures: FakeSignatures, telemetry: RecordingTelemetry
) -> None:
    token = signatures.sign("ann")

    assert cached_principal(identify, token) is None
    principal = await identify.identify(Secret(token))

    assert principal.subject == "ann"
    assert cached_principal(identify, token) is principal
    assert await identify.identify(Secret(token)) is principal
    assert signatures.proofs == ["ann"]
    assert telemetry.identifications == [
        ("corp", "ok"), ("corp", "cached"), ("corp", "cached"),
    ]  # fmt: skip


async def test_verification_ends_at_the_deadline(
    identify: Identify, signatures: FakeSignatures, clock: FakeClock
) -> None:
    token = signatures.sign("ann")
    signatures.may_end.clear()
    async with asyncio.timeout(60):
        with pytest.raises(DeadlineExceeded):
            await identify.identify_by_deadline(token, clock.monotonic() + 0.01)


async def test_cache_distinguishes_tokens_of_one_person(
    identify: Identify, signatures: FakeSignatures
) -> None:
    await identify.identify(Secret(signatures.sign("ann")))

    assert cached_principal(identify, "ann ") is None
    assert cached_principal(identify, "an") is None


async def test_cached_token_expires_at_exp_plus_leeway(
    identify: Identify, signatures: FakeSignatures, clock: FakeClock
) -> None:
    token = signatures.sign("ann", exp=clock.now() + 600)
    await identify.identify(Secret(token))

    await clock.advance(629.5)
    assert cached_principal(identify, token) is not None
    await clock.advance(0.5)
    assert cached_principal(identify, token) is None
    assert identify.cached_count == 0
    with pytest.raises(NotAuthenticated) as caught:
        await identify.identify(Secret(token))
    assert caught.value.reason is Rejection.EXPIRED


async def test_cached_token_expires_at_its_maximum_age(
    identify: Identify, signatures: FakeSignatures, clock: FakeClock
) -> None:
    token = signatures.sign("ann", exp=clock.now() + 1e6)
    await identify.identify(Secret(token))

    await clock.advance(3_629.5)
    assert cached_principal(identify, token) is not None
    await clock.advance(0.5)
    assert cached_principal(identify, token) is None
    with pytest.raises(NotAuthenticated) as caught:
        await identify.identify(Secret(token))
    assert caught.value.reason is Rejection.TOO_OLD


async def test_check_rejects_a_person_of_an_issuer_that_the_config_lacks(
    identify: Identify, signatures: FakeSignatures, clock: FakeClock
) -> None:
    principal = await identify.identify(Secret(signatures.sign("ann", exp=clock.now() + 600)))
    with pytest.raises(NotAuthenticated) as caught:  # stored for a session by another process
        identify.check(replace(principal, issuer="removed"))
    assert caught.value.reason is Rejection.ISSUER_UNKNOWN


async def test_check_rejects_a_token_that_expired_since(
    identify: Identify, signatures: FakeSignatures, clock: FakeClock
) -> None:
    principal = await identify.identify(Secret(signatures.sign("ann", exp=clock.now() + 600)))
    await clock.advance(629.5)
    identify.check(principal)
    await clock.advance(0.5)
    with pytest.raises(NotAuthenticated) as caught:
        identify.check(principal)
    assert (caught.value.reason, caught.value.principal) == (Rejection.EXPIRED, principal)


async def test_cached_token_follows_the_wall_clock(
    identify: Identify, signatures: FakeSignatures, clock: FakeClock
) -> None:
    token = signatures.sign("ann")
    await identify.identify(Secret(token))

    clock.step_wall(700)

    assert cached_principal(identify, token) is None


async def test_full_cache_evicts_the_oldest_token(
    identify: Identify, signatures: FakeSignatures
) -> None:
    tokens = [signatures.sign(f"p{i}") for i in range(1_000)]
    for token in tokens:
        await identify.identify(Secret(token))
        assert identify.cached_count <= 3

    assert cached_principal(identify, tokens[-4]) is None
    assert all(cached_principal(identify, token) is not None for token in tokens[-3:])


async def test_invalid_tokens_evict_nothing(identify: Identify, signatures: FakeSignatures) -> None:
    token = signatures.sign("ann")
    await identify.identify(Secret(token))

    for i in range(100):
        with pytest.raises(NotAuthenticated):
            await identify.identify(Secret(f"garbage-{i}"))

    assert cached_principal(identify, token) is not None
    assert identify.cached_count == 1


async def test_concurrent_requests_share_one_verification(
    identify: Identify, signatures: FakeSignatures
) -> None:
    token = signatures.sign("ann")
    signatures.may_end.clear()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(identify.identify(Secret(token))) for _ in range(50)]
        await settle()
        signatures.may_end.set()

    assert {task.result() for task in tasks} == {cached_principal(identify, token)}
    assert signatures.proofs == ["ann"]


async def test_concurrent_invalid_requests_share_one_verification(
    identify: Identify, signatures: FakeSignatures, telemetry: RecordingTelemetry
) -> None:
    signatures.may_end.clear()
    tasks = [asyncio.create_task(identify.identify(Secret("garbage"))) for _ in range(50)]
    await settle()
    signatures.may_end.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(outcome, NotAuthenticated) for outcome in outcomes)
    assert signatures.proofs == ["garbage"]
    assert telemetry.identifications == [("corp", "signature")] * 50


async def test_rejection_is_not_cached(identify: Identify, signatures: FakeSignatures) -> None:
    with pytest.raises(NotAuthenticated):
        await identify.identify(Secret("ann"))

    signatures.sign("ann")

    assert (await identify.identify(Secret("ann"))).subject == "ann"


async def test_cancelled_verification_does_not_fail_waiting_requests(
    identify: Identify, signatures: FakeSignatures
) -> None:
    token = signatures.sign("ann")
    signatures.may_end.clear()
    first = asyncio.create_task(identify.identify(Secret(token)))
    await settle()
    others = [asyncio.create_task(identify.identify(Secret(token))) for _ in range(3)]
    await settle()

    first.cancel()
    others[1].cancel()
    await settle()
    signatures.may_end.set()
    outcomes = await asyncio.gather(first, *others, return_exceptions=True)

    subjects = [o.subject if isinstance(o, Principal) else type(o) for o in outcomes]
    assert subjects == [asyncio.CancelledError, "ann", asyncio.CancelledError, "ann"]
    assert signatures.proofs == ["ann", "ann"]


async def test_key_rotation_drops_tokens_of_that_issuer(
    identify: Identify, signatures: FakeSignatures
) -> None:
    ann, bob = signatures.sign("ann"), signatures.sign("bob", PARTNER)
    await identify.identify(Secret(ann))
    await identify.identify(Secret(bob))

    identify.drop_issuer("corp")

    assert cached_principal(identify, ann) is None
    assert cached_principal(identify, bob) is not None


async def test_token_verified_during_rotation_is_not_cached(
    identify: Identify, signatures: FakeSignatures
) -> None:
    token = signatures.sign("ann")
    signatures.may_end.clear()
    task = asyncio.create_task(identify.identify(Secret(token)))
    await settle()

    identify.drop_issuer("corp")
    signatures.may_end.set()

    assert (await task).subject == "ann"
    assert cached_principal(identify, token) is None


async def test_without_keys_only_cached_tokens_pass(
    identify: Identify, signatures: FakeSignatures, telemetry: RecordingTelemetry
) -> None:
    ann, bob = signatures.sign("ann"), signatures.sign("bob")
    await identify.identify(Secret(ann))
    signatures.are_keys_there = False

    with pytest.raises(KeysUnavailable):
        await identify.identify(Secret(bob))

    assert cached_principal(identify, ann) is not None
    assert ("unknown", "keys_unavailable") in telemetry.identifications


async def test_claims_use_the_rules_of_the_signing_issuer(
    identify: Identify, signatures: FakeSignatures, telemetry: RecordingTelemetry
) -> None:
    token = signatures.sign("mallory", PARTNER, iss=CORP.iss)

    with pytest.raises(NotAuthenticated) as caught:
        await identify.identify(Secret(token))

    assert caught.value.reason is Rejection.ISSUER_UNKNOWN
    assert telemetry.identifications == [("partner", "issuer_unknown")]


async def test_too_long_token_is_rejected_before_verification(
    identify: Identify, signatures: FakeSignatures, telemetry: RecordingTelemetry
) -> None:
    longest = signatures.sign("a" * CALLER_JWT_CHARS_MAX, sub="ann")
    longer = signatures.sign(longest + "a", sub="ann")

    assert (await identify.identify(Secret(longest))).subject == "ann"
    assert cached_principal(identify, longer) is None
    with pytest.raises(NotAuthenticated) as caught:
        await identify.identify(Secret(longer))

    assert caught.value.reason is Rejection.TOO_LARGE
    assert signatures.proofs == [longest]
    assert telemetry.identifications[-1] == ("unknown", "too_large")


@pytest.mark.parametrize("token", ["", "\udcff", "\x00", "安", "a.b.c"])
async def test_any_text_can_be_looked_up(identify: Identify, token: str) -> None:
    assert cached_principal(identify, token) is None
    with pytest.raises(NotAuthenticated):
        await identify.identify(Secret(token))


async def test_cache_does_not_contain_the_token(
    identify: Identify, signatures: FakeSignatures
) -> None:
    token = signatures.sign("canary-token", sub="ann")
    await identify.identify(Secret(token))

    stored = [*vars(identify).values(), *vars(identify)["_cached"].items()]

    assert identify.cached_count == 1
    assert not any("canary" in repr(value) for value in stored)
    assert not any(
        isinstance(referent, str) and "canary" in referent
        for key, value in vars(identify)["_cached"].items()
        for referent in [key, *gc.get_referents(value)]
    )


async def test_missing_groups_claim_is_rejected_while_required(
    signatures: FakeSignatures, clock: FakeClock, telemetry: RecordingTelemetry
) -> None:
    required: set[str] = set()
    missing: list[str] = []
    identify = Identify(
        revoked=lambda _: False,
        find_lock=lambda _: None,
        groups_required=required.__contains__,
        groups_missing=missing.append,
        signatures=signatures,
        rules={"corp": CORP, "partner": PARTNER},
        clock=clock,
        telemetry=telemetry,
        tokens_max=3,
    )
    token = signatures.sign("ann", groups=None)
    principal = await identify.identify(Secret(token))
    assert not principal.has_groups_claim
    assert telemetry.identifications == [("corp", "ok_without_groups")]

    required.add("corp")
    assert cached_principal(identify, token) is None
    with pytest.raises(NotAuthenticated) as rejected:
        await identify.identify(Secret(token))
    assert rejected.value.reason is Rejection.GROUPS_MISSING
    assert missing == ["corp", "corp"]
    with pytest.raises(NotAuthenticated):
        identify.check(principal)

    required.clear()
    assert (await identify.identify(Secret(token))).subject == "ann"


async def test_claim_path_that_never_resolves_is_logged_once_per_issuer(
    signatures: FakeSignatures,
    clock: FakeClock,
    telemetry: RecordingTelemetry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rules = {
        "corp": replace(CORP, groups_claim="kubernetes.io.group"),
        "partner": replace(PARTNER, groups_claim="roles"),
    }
    missing = MissingGroupsClaims({name: (one.groups_claim,) for name, one in rules.items()})
    identify = Identify(
        revoked=lambda _: False,
        find_lock=lambda _: None,
        groups_required=lambda issuer: issuer == "partner",
        groups_missing=missing.report,
        signatures=signatures,
        rules=rules,
        clock=clock,
        telemetry=telemetry,
        tokens_max=3,
    )
    for number in range(20):
        claims = {"kubernetes.io": {"groups": ["ops"]}}
        await identify.identify(Secret(signatures.sign(f"ann-{number}", **claims)))
        with pytest.raises(NotAuthenticated):
            await identify.identify(Secret(signatures.sign(f"bob-{number}", PARTNER)))
    logged = [
        (one.message, one.__dict__["issuer"], one.__dict__["claims"]) for one in caplog.records
    ]
    assert logged == [
        ("groups_claim_missing", "corp", ["kubernetes.io.group"]),
        ("groups_claim_missing", "partner", ["roles"]),
    ]
    outcomes = Counter(telemetry.identifications)
    assert outcomes == {("corp", "ok_without_groups"): 20, ("partner", "groups_missing"): 20}
