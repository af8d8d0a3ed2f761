"""What an issuer signs with, of whatever form: a key set, a PEM file, a shared secret.

Nothing is fetched here and nothing kept: drivers/issuer_keys.py does that.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from jwt import PyJWK, PyJWTError
from jwt.algorithms import HMACAlgorithm

from gateway.domain.model import Secret

KEYS_BYTES_MAX: Final = 262_144
_KEYS_MAX: Final = 100
"""Issuers publish two to ten; parsing these many costs some milliseconds of the loop."""
_RSA_BITS: Final = range(2048, 8193)
"""NIST SP 800-131A sets the floor; above the ceiling one check would cost milliseconds."""
_PARSED_AS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""Which of PyJWT's algorithms reads a `kty`. `oct` is missing: a secret is not published."""


class UnusableKeys(Exception):
    """What the source gave is no set of keys for us. The text holds nothing of what it gave."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    kid: str | None
    algorithms: frozenset[str]
    """Those that fit the key's type, its own `alg`, and our config."""
    key: Any = field(repr=False, compare=False)
    material: bytes = field(repr=False)
    """Tells whether a key under the same `kid` has changed."""


def keys_for_algorithms(
    found: Iterable[IssuerKey], algorithms: Collection[str]
) -> frozenset[IssuerKey]:
    """Return those that may have made a signature by one of the issuer's algorithms.

    Raises KeysUnusable where there is none.
    """
    allowed = frozenset(algorithms)
    keys = frozenset(
        IssuerKey(held.kid, held.algorithms & allowed, held.key, held.material)
        for held in found
        if held.algorithms & allowed
    )
    if not keys:
        raise UnusableKeys("no key that fits the issuer's algorithms")
    return keys


def parse_json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnusableKeys("not JSON") from error


def read_key_file(file: Path) -> bytes:
    """Read a file of keys; raises KeysUnusable, OSError."""
    with file.open("rb") as opened:
        text = opened.read(KEYS_BYTES_MAX + 1)
    if len(text) > KEYS_BYTES_MAX:
        raise UnusableKeys("the file is too long")
    return text


def parse_key_file(text: bytes) -> list[IssuerKey]:
    """Read a key set, or one public key in PEM; raises KeysUnusable."""
    if text.lstrip().startswith(b"{"):
        return parse_key_set(parse_json(text))
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKeys("the file is neither a key set nor a PEM public key") from error
    return [_public_key(key, kid=None)]


def parse_shared_secret(secret: Secret) -> IssuerKey:
    try:
        key = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret.reveal().encode())
    except PyJWTError as error:
        raise UnusableKeys("the secret is a public key") from error
    return IssuerKey(None, frozenset({"HS256"}), key, material=key)


def parse_key_set(document: object) -> list[IssuerKey]:
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise UnusableKeys("not a key set")
    keys = [_parse_jwk(member) for member in members[:_KEYS_MAX] if isinstance(member, dict)]
    return [key for key in keys if key is not None]


def _parse_jwk(jwk: dict[str, Any]) -> IssuerKey | None:
    """Read one member of a set (RFC 7517, 4); None if it is broken or not for checking tokens."""
    kid, alg, operations = jwk.get("kid"), jwk.get("alg"), jwk.get("key_ops", ["verify"])
    if not (kid is None or isinstance(kid, str)) or jwk.get("use", "sig") != "sig":
        return None
    # Whoever publishes a private key has lost it: `d` is nobody's signature any more.
    if "d" in jwk or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = PyJWK(jwk, algorithm=_PARSED_AS[jwk["kty"]]).key
        held = _public_key(key, kid)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, LookupError):
        return None
    fitting = frozenset(name for name in held.algorithms if alg in (None, name))
    return IssuerKey(kid, fitting, held.key, held.material)


def _public_key(key: Any, kid: str | None) -> IssuerKey:
    material = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return IssuerKey(kid, _usable_algorithms(key), key, material)


def _usable_algorithms(key: object) -> frozenset[str]:
    match key:
        case RSAPublicKey(key_size=bits) if bits in _RSA_BITS:
            return frozenset({"RS256", "RS384", "RS512", "PS256"})
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return frozenset({"ES256"})
        case EllipticCurvePublicKey(curve=SECP384R1()):
            return frozenset({"ES384"})
        case Ed25519PublicKey() | Ed448PublicKey():
            return frozenset({"EdDSA"})
        case _:
            return frozenset()
