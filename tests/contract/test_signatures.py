"""JwtSignatures with real keys of each algorithm."""

from typing import Any

import pytest

from gateway.domain.errors import KeysUnavailable, NotAuthenticated, Rejection
from gateway.domain.model import Secret, VerifiedToken
from gateway.drivers.issuers.signatures import JwtSignatures, TrustedIssuer
from tests.support.tokens import Signer, ec_signer, ed_signer, rsa_signer

CORP, PARTNER, SHARED = "https://corp.example", "https://partner.example", "urn:shared"
SECRET = b"s" * 32
CLAIMS = {"iss": CORP, "sub": "ann", "exp": 1, "nested": {"a": [1, 2.5, None, "x"]}}


class FakeKeys:
    """Public keys by kid, as an issuer publishes them."""

    def __init__(self, *signers: Signer) -> None:
        self._signers = signers
        self.lookups: list[tuple[str, str | None]] = []
        self.tried: list[tuple[Any, ...]] = []
        self.replacements: tuple[Any, ...] = ()
        self.available = True

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        self.lookups.append((algorithm, kid))
        if not self.available:
            raise KeysUnavailable("keys of issuer corp are too old", retry_after_s=1.0)
        found = tuple(
            signer.key if algorithm == "HS256" else signer.key.public_key()
            for signer in self._signers
            if (signer.algorithm, signer.kid) == (algorithm, kid)
        )
        if not found:
            raise NotAuthenticated(Rejection.KEY_UNKNOWN)
        return found

    async def keys_after_mismatch(
        self, algorithm: str, kid: str | None, tried: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        self.tried.append(tried)
        return self.replacements


SIGNERS = {
    "RS256": rsa_signer("RS256"),
    "RS384": rsa_signer("RS384", algorithm="RS384"),
    "RS512": rsa_signer("RS512", algorithm="RS512"),
    "PS256": rsa_signer("PS256", algorithm="PS256"),
    "ES256": ec_signer("ES256"),
    "ES384": ec_signer("ES384", algorithm="ES384"),
    "EdDSA": ed_signer("EdDSA"),
}
HS256 = Signer("HS256", SECRET, None)


@pytest.fixture
def corp() -> FakeKeys:
    return FakeKeys(*SIGNERS.values())


@pytest.fixture
def signatures(corp: FakeKeys) -> JwtSignatures:
    return JwtSignatures(
        [
            TrustedIssuer("corp", CORP, frozenset(SIGNERS), corp),
            TrustedIssuer(
                "partner", PARTNER, frozenset({"RS256"}), FakeKeys(rsa_signer(which="b"))
            ),
            TrustedIssuer("shared", SHARED, frozenset({"HS256"}), FakeKeys(HS256)),
        ]
    )


async def rejection(signatures: JwtSignatures, token: str) -> NotAuthenticated:
    with pytest.raises(NotAuthenticated) as caught:
        await signatures.verify(Secret(token))
    return caught.value


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_allowed_algorithms_verify(signatures: JwtSignatures, algorithm: str) -> None:
    verified = await signatures.verify(Secret(SIGNERS[algorithm].token(CLAIMS)))

    assert verified == VerifiedToken("corp", {"alg": algorithm, "kid": algorithm}, CLAIMS)


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_signature_of_other_claims_is_rejected(
    signatures: JwtSignatures, algorithm: str
) -> None:
    head, claims, _ = SIGNERS[algorithm].token(CLAIMS).split(".")
    other = SIGNERS[algorithm].token({**CLAIMS, "sub": "bob"}).split(".")[2]

    rejected = await rejection(signatures, f"{head}.{claims}.{other}")

    assert (rejected.reason, rejected.issuer) == (Rejection.SIGNATURE, "corp")


async def test_shared_secret_verifies_hs256(signatures: JwtSignatures) -> None:
    claims = {**CLAIMS, "iss": SHARED}
    wrong = Signer("HS256", SECRET[:-1] + b"t", None)

    assert (await signatures.verify(Secret(HS256.token(claims)))).issuer == "shared"
    assert (await rejection(signatures, wrong.token(claims))).reason is Rejection.SIGNATURE


async def test_issuer_selects_the_keys(signatures: JwtSignatures, corp: FakeKeys) -> None:
    of_partner = rsa_signer(which="b")

    verified = await signatures.verify(Secret(of_partner.token({"iss": PARTNER})))
    rejected = await rejection(signatures, of_partner.token({"iss": CORP}))

    assert verified.issuer == "partner"
    assert (rejected.reason, rejected.issuer) == (Rejection.KEY_UNKNOWN, "corp")
    assert corp.lookups == [("RS256", "k1")]


async def test_claims_are_not_judged(signatures: JwtSignatures) -> None:
    token = SIGNERS["RS256"].token({**CLAIMS, "exp": "never", "nbf": 9e18, "aud": {}})

    assert (await signatures.verify(Secret(token))).claims["exp"] == "never"


async def test_either_key_with_equal_kid_verifies() -> None:
    one, two = rsa_signer("k"), rsa_signer("k", which="b")
    signatures = JwtSignatures(
        [TrustedIssuer("corp", CORP, frozenset({"RS256"}), FakeKeys(one, two))]
    )

    assert (await signatures.verify(Secret(one.token(CLAIMS)))).issuer == "corp"
    assert (await signatures.verify(Secret(two.token(CLAIMS)))).issuer == "corp"
    stranger = rsa_signer("k", which="c").token(CLAIMS)
    assert (await rejection(signatures, stranger)).reason is Rejection.SIGNATURE


async def test_replacement_of_a_key_is_tried_once(
    signatures: JwtSignatures, corp: FakeKeys
) -> None:
    token = Secret(rsa_signer("RS256", which="b").token(CLAIMS))
    corp.replacements = (rsa_signer(which="c").key.public_key(),)
    assert (await rejection(signatures, token.reveal())).reason is Rejection.SIGNATURE
    corp.replacements = (*corp.replacements, rsa_signer(which="b").key.public_key())
    assert (await signatures.verify(token)).issuer == "corp"
    assert corp.tried == [(SIGNERS["RS256"].key.public_key(),)] * 2


async def test_names_of_rfc_9864_are_one_algorithm_and_pinned() -> None:
    def trusting(*algorithms: str) -> JwtSignatures:
        return JwtSignatures([TrustedIssuer("corp", CORP, frozenset(algorithms), _AnyEdwardsKey())])

    for signer, name in ((ED25519, "Ed25519"), (ED448, "Ed448")):
        token = signer.token(CLAIMS, alg=name)
        assert (await trusting(name).verify(Secret(token))).issuer == "corp"
        for others in (("EdDSA",), ("RS256", "HS256")):
            rejected = await rejection(trusting(*others), token)
            assert rejected.reason is Rejection.ALGORITHM
        head, claims, signature = token.split(".")
        flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
        rejected = await rejection(trusting(name), f"{head}.{claims}.{flipped}")
        assert rejected.reason is Rejection.SIGNATURE


ED25519, ED448 = ed_signer(), ed_signer(is_448=True)


class _AnyEdwardsKey:
    """Offers both keys for every algorithm."""

    async def keys_for(self, algorithm: str, kid: str | None) -> tuple[Any, ...]:
        return ED25519.key.public_key(), ED448.key.public_key()

    async def keys_after_mismatch(
        self, algorithm: str, kid: str | None, tried: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        return ()


async def test_missing_keys_raise_keys_unavailable(
    signatures: JwtSignatures, corp: FakeKeys
) -> None:
    corp.available = False

    with pytest.raises(KeysUnavailable):
        await signatures.verify(Secret(SIGNERS["RS256"].token(CLAIMS)))


async def test_cheap_checks_precede_key_lookup(signatures: JwtSignatures, corp: FakeKeys) -> None:
    signer = SIGNERS["RS256"]
    for token in (
        "garbage",
        signer.token(CLAIMS) + ".",
        signer.token({**CLAIMS, "iss": CORP + "/"}),
        signer.token(CLAIMS, alg="HS256"),
        signer.token(CLAIMS, kid=7),
        signer.token({**CLAIMS, "pad": "x" * 20_000}),
    ):
        await rejection(signatures, token)

    assert corp.lookups == []
