import base64
import os

import pytest

from gateway.domain.model import Secret
from gateway.drivers.crypto.issued_keys import SealedKeys
from gateway.drivers.crypto.sealer import Sealer

JWT = Secret("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl")


def a_key() -> Secret:
    return Secret(base64.b64encode(os.urandom(32)).decode())


@pytest.fixture
def keys() -> SealedKeys:
    return SealedKeys(Sealer([a_key()]))


def test_security_token_opens_to_its_key_pair(keys: SealedKeys) -> None:
    pair = keys.key_pair(JWT, expires_at=1_800_000_000.25)
    assert keys.open_key_pair(pair.security_token.reveal()) == pair
    assert pair.caller_jwt == JWT
    assert pair.expires_at == 1_800_000_000.25
    assert pair.access.startswith("CGW")


def test_key_pairs_are_unique(keys: SealedKeys) -> None:
    pairs = [keys.key_pair(JWT, expires_at=1.0) for _ in range(3)]
    for part in ("access", "secret", "security_token"):
        assert len({getattr(pair, part) for pair in pairs}) == 3


def test_key_pair_opens_only_with_its_seal_key() -> None:
    key = a_key()
    pair = SealedKeys(Sealer([key])).key_pair(JWT, expires_at=1.0)
    text = pair.security_token.reveal()
    assert SealedKeys(Sealer([key])).open_key_pair(text) == pair
    assert SealedKeys(Sealer([a_key()])).open_key_pair(text) is None


def test_key_pair_ends_with_its_seal_key() -> None:
    old, new = a_key(), a_key()
    pair = SealedKeys(Sealer([old])).key_pair(JWT, expires_at=1.0)
    assert SealedKeys(Sealer([new, old])).open_key_pair(pair.security_token.reveal()) == pair
    assert SealedKeys(Sealer([new])).open_key_pair(pair.security_token.reveal()) is None


def test_subject_token_opens_to_the_jwt(keys: SealedKeys) -> None:
    token = keys.subject_token(JWT)
    assert keys.open_subject_token(token.reveal()) == JWT
    assert JWT.reveal() not in token.reveal()


def test_token_purposes_are_separate(keys: SealedKeys) -> None:
    subject = keys.subject_token(JWT).reveal()
    security = keys.key_pair(JWT, expires_at=1.0).security_token.reveal()
    assert keys.open_key_pair(subject) is None
    assert keys.open_subject_token(security) is None
    assert keys.open_key_pair(subject.replace("cgwsub_", "cgwkey_")) is None
    assert keys.open_subject_token(security.replace("cgwkey_", "cgwsub_")) is None


def test_any_changed_character_is_rejected(keys: SealedKeys) -> None:
    text = keys.key_pair(JWT, expires_at=1.0).security_token.reveal()
    for place, letter in enumerate(text):
        other = "B" if letter == "A" else "A"
        assert keys.open_key_pair(text[:place] + other + text[place + 1 :]) is None


@pytest.mark.parametrize(
    "text",
    ["", "cgwkey_", "cgwkey_é", "cgwkey_A", "cgwkey_!!!!", "x.y.z", "cgwkey_" + "A" * 40_000],
)
def test_arbitrary_text_does_not_open(keys: SealedKeys, text: str) -> None:
    assert keys.open_key_pair(text) is None
    assert keys.open_key_pair(text + "=") is None


def test_key_pair_repr_has_no_secret(keys: SealedKeys) -> None:
    pair = keys.key_pair(JWT, expires_at=1.0)
    for secret in (pair.secret, pair.security_token, pair.caller_jwt):
        assert secret.reveal() not in repr(pair)
