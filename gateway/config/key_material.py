"""Parsing of issuers' keys: JWK sets, PEM files and shared secrets.

This module fetches and caches nothing; drivers/issuers/issuer_keys.py does.
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
"""Issuers publish two to ten. Parsing this many blocks the event loop for some milliseconds."""
_RSA_BITS: Final = range(2048, 8193)
"""The minimum is from NIST SP 800-131A; above the maximum a verification takes milliseconds."""
_PARSED_AS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""The PyJWT algorithm that parses a `kty`. `oct` is absent: a secret must not be published."""


class UnusableKeys(Exception):
    """The source contains no usable keys. The message never quotes the source."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    kid: str | None
    algorithms: frozenset[str]
    """Algorithms allowed by the key's type, by its `alg` and by the config."""
    key: Any = field(repr=False, compare=False)
    material: bytes = field(repr=False)
    """Public key bytes; they differ if a key with the same `kid` was replaced."""


def keys_for_algorithms(
    found: Iterable[IssuerKey], algorithms: Collection[str]
) -> frozenset[IssuerKey]:
    """Return the keys usable with one of the issuer's algorithms.

    Raises UnusableKeys if none is.
    """
    allowed = frozenset(algorithms)
    keys = frozenset(
        IssuerKey(one.kid, one.algorithms & allowed, one.key, one.material)
        for one in found
        if one.algorithms & allowed
    )
    if not keys:
        raise UnusableKeys("no key fits the issuer's algorithms")
    return keys


def parse_json(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnusableKeys("not JSON") from error


def read_key_file(file: Path) -> bytes:
    """Read a file of keys; raise UnusableKeys or OSError."""
    with file.open("rb") as opened:
        text = opened.read(KEYS_BYTES_MAX + 1)
    if len(text) > KEYS_BYTES_MAX:
        raise UnusableKeys(f"the file has more than {KEYS_BYTES_MAX} bytes")
    return text


def parse_key_file(text: bytes) -> list[IssuerKey]:
    """Parse a JWK set or one public key in PEM; raise UnusableKeys."""
    if text.lstrip().startswith(b"{"):
        return parse_key_set(parse_json(text))
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKeys("the file is neither a JWK set nor a public key in PEM") from error
    return [_public_key(key, kid=None)]


def parse_shared_secret(secret: Secret) -> IssuerKey:
    try:
        key = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret.reveal().encode())
    except PyJWTError as error:
        raise UnusableKeys("the secret must not be a public key") from error
    return IssuerKey(None, frozenset({"HS256"}), key, material=key)


def parse_key_set(document: object) -> list[IssuerKey]:
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise UnusableKeys("not a JWK set")
    keys = [_parse_jwk(member) for member in members[:_KEYS_MAX] if isinstance(member, dict)]
    return [key for key in keys if key is not None]


def _parse_jwk(jwk: dict[str, Any]) -> IssuerKey | None:
    """Parse one key of a set (RFC 7517, section 4); return None if it cannot verify tokens."""
    jwk = {name: value for name, value in jwk.items() if value is not None}  # null is absent
    kid, alg, operations = jwk.get("kid"), jwk.get("alg"), jwk.get("key_ops", [])
    if not (kid is None or isinstance(kid, str)) or jwk.get("use", "sig") != "sig":
        return None
    # A published private key (`d`) is compromised: anyone could have signed with it.
    if (
        "d" in jwk
        or not isinstance(operations, list)
        or (operations and "verify" not in operations)
    ):
        return None
    try:
        key = PyJWK(jwk, algorithm=_PARSED_AS[jwk["kty"]]).key
        parsed = _public_key(key, kid)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, LookupError):
        return None
    fitting = frozenset(name for name in parsed.algorithms if alg in (None, name))
    return IssuerKey(kid, fitting, parsed.key, parsed.material)


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
