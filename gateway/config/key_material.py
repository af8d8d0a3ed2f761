"""Parsing of issuers' keys: JWK sets, PEM files and shared secrets.

This module fetches and caches nothing; drivers/issuers/issuer_keys.py does.
"""

import base64
import binascii
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

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
from cryptography.x509 import Certificate, load_pem_x509_certificate
from jwt import PyJWK, PyJWTError
from jwt.algorithms import HMACAlgorithm

from gateway.domain.model import Secret
from gateway.domain.quoted import quoted

KEYS_BYTES_MAX: Final = 262_144
_KEYS_MAX: Final = 100
"""Issuers publish two to ten. Parsing this many blocks the event loop for some milliseconds."""
_RSA_BITS: Final = range(2048, 8193)
"""The minimum is from NIST SP 800-131A; above the maximum a verification takes milliseconds."""
_PARSED_AS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""The PyJWT algorithm that parses a `kty`. `oct` is absent: a secret must not be published."""
_EDDSA: Final = "EdDSA"
_SECRET_BYTES_MIN: Final = 32
_PEM_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_PEM_BEGIN: Final = b"-----BEGIN "
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_SHOWN_KEYS: Final = 5

SecretEncoding = Literal["text", "base64"]
OnIgnored = Callable[[str], None]
"""Called with the reason for each key that cannot be used."""


class UnusableKeys(Exception):
    """The source contains no usable keys.

    The message quotes names and addresses only, never a key.
    """


def _silent(_: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class IssuerKey:
    kid: str | None
    algorithms: frozenset[str]
    """Algorithms allowed by the key's type, by its `alg` and by the config."""
    key: Any = field(repr=False, compare=False)
    material: bytes = field(repr=False)
    """Public key bytes; they differ if a key with the same `kid` was replaced."""


def keys_for_algorithms(
    found: Iterable[IssuerKey], algorithms: Collection[str], on_ignored: OnIgnored = _silent
) -> tuple[IssuerKey, ...]:
    """Return the keys usable with one of the issuer's algorithms, in order, without duplicates.

    Raises UnusableKeys if none is.
    """
    allowed = frozenset(algorithms)
    keys: dict[IssuerKey, None] = {}
    others: list[str] = []
    for one in found:
        usable = one.algorithms & allowed
        if usable:
            keys[IssuerKey(one.kid, usable, one.key, one.material)] = None
        else:
            fits = ", ".join(sorted(one.algorithms)) or "no supported algorithm"
            others.append(f"{_named(one.kid)} fits {fits}")
    if not keys:
        wanted = ", ".join(algorithms)
        details = "; ".join(others[:_SHOWN_KEYS]) or "it has no usable key"
        raise UnusableKeys(f"no key fits the issuer's algorithms {wanted}: {details}")
    for other in others:
        on_ignored(f"{other}, and not one of `algorithms`")
    return tuple(keys)


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


def parse_key_file(text: bytes, on_ignored: OnIgnored = _silent) -> list[IssuerKey]:
    """Parse a JWK set, or public keys and certificates in PEM; raise UnusableKeys.

    Of a certificate only the public key is used: its dates and its signature are not checked.
    """
    text = text.removeprefix(_UTF8_MARK)
    if text.lstrip().startswith(b"{"):
        return parse_key_set(parse_json(text), on_ignored)
    blocks = list(_PEM_BLOCK.finditer(text))
    if not blocks or len(blocks) != text.count(_PEM_BEGIN) or len(blocks) > _KEYS_MAX:
        raise UnusableKeys("the file is neither a JWK set nor public keys in PEM")
    try:
        found = [_parse_pem_block(block[1], block[0]) for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKeys("the file has a block that is no public key in PEM") from error
    _reject_chain([one for one in found if isinstance(one, Certificate)])
    return [
        _public_key(one.public_key() if isinstance(one, Certificate) else one, kid=None)
        for one in found
    ]


def _parse_pem_block(kind: bytes, block: bytes) -> Any:
    """Return a public key or a certificate."""
    if kind.endswith(b"PRIVATE KEY"):
        raise UnusableKeys(
            "the file has a private key; name a file with the public key: `openssl pkey -pubout`"
        )
    return (
        load_pem_x509_certificate(block) if kind == b"CERTIFICATE" else load_pem_public_key(block)
    )


def _reject_chain(certificates: Collection[Certificate]) -> None:
    # The authority's key would verify tokens as well.
    subjects = {one.subject for one in certificates}
    if any(one.issuer in subjects and one.issuer != one.subject for one in certificates):
        raise UnusableKeys(
            "the file has a certificate with its authority; leave only the certificate of the key"
            " that signs tokens"
        )


def parse_shared_secret(secret: Secret, encoding: SecretEncoding) -> IssuerKey:
    """Return the HS256 key; raise UnusableKeys."""
    text = secret.reveal().encode()
    if encoding == "base64":
        text = _decode_base64(text)
    if len(text) < _SECRET_BYTES_MIN:
        raise UnusableKeys(
            f"must have at least {_SECRET_BYTES_MIN} bytes, and has {len(text)} (RFC 7518, 3.2)"
        )
    try:
        key = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(text)
    except PyJWTError as error:
        raise UnusableKeys("the secret must not be a public key") from error
    return IssuerKey(None, frozenset({"HS256"}), key, material=key)


def _decode_base64(text: bytes) -> bytes:
    """Decode base64 or base64url, with or without padding."""
    unpadded = text.strip().rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(unpadded + b"=" * (-len(unpadded) % 4), validate=True)
    except binascii.Error:
        raise UnusableKeys("must be base64, because of `encoding: base64`") from None


def parse_key_set(document: object, on_ignored: OnIgnored = _silent) -> list[IssuerKey]:
    """Parse a JWK set (RFC 7517); a key that cannot verify tokens is left out."""
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise UnusableKeys("not a JWK set: a JSON object with a list `keys`")
    if len(members) > _KEYS_MAX:
        on_ignored(f"{len(members) - _KEYS_MAX} keys after the first {_KEYS_MAX}")
    return list(_parse_members(members[:_KEYS_MAX], on_ignored))


def _parse_members(members: list[Any], on_ignored: OnIgnored) -> Iterator[IssuerKey]:
    for member in members:
        try:
            yield _parse_jwk(member)
        except UnusableKeys as unusable:
            kid = member.get("kid") if isinstance(member, dict) else None
            on_ignored(f"{_named(kid)}: {unusable}")


def _parse_jwk(member: object) -> IssuerKey:
    """Parse one key of a set (RFC 7517, section 4).

    Raises UnusableKeys if it cannot verify tokens.
    """
    if not isinstance(member, dict):
        raise UnusableKeys("not a JSON object")
    jwk = {name: value for name, value in member.items() if value is not None}  # null is absent
    kid, alg = jwk.get("kid"), jwk.get("alg")
    if not (kid is None or isinstance(kid, str)):
        raise UnusableKeys("`kid` is not a text")
    _check_use(jwk)
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _PARSED_AS:
        raise UnusableKeys(f"`kty` is {quoted(kty)}, and not RSA, EC or OKP")
    try:
        parsed = _public_key(PyJWK(jwk, algorithm=_PARSED_AS[kty]).key, kid)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, LookupError):
        raise UnusableKeys("its members are not those of a public key") from None
    if alg is None:
        return parsed
    if not isinstance(alg, str) or alg not in parsed.algorithms:
        fits = ", ".join(sorted(parsed.algorithms)) or "no supported algorithm"
        raise UnusableKeys(f"`alg` is {quoted(alg)}, but the key fits {fits}")
    # The algorithm of a key on an Edwards curve has two names (RFC 9864).
    is_edwards = _EDDSA in parsed.algorithms
    fitting = parsed.algorithms if is_edwards else frozenset({alg})
    return IssuerKey(kid, fitting, parsed.key, parsed.material)


def _check_use(jwk: dict[str, Any]) -> None:
    operations = jwk.get("key_ops", [])
    if jwk.get("use", "sig") != "sig":
        raise UnusableKeys(f"`use` is {quoted(jwk['use'])}, and not 'sig'")
    if "d" in jwk:
        # Compromised: anyone could have signed with it.
        raise UnusableKeys("the private key is published")
    if not isinstance(operations, list) or (operations and "verify" not in operations):
        raise UnusableKeys("`key_ops` does not include 'verify'")


def _named(kid: object) -> str:
    return "a key without `kid`" if kid is None else f"key {quoted(kid)}"


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
        case Ed25519PublicKey():
            return frozenset({_EDDSA, "Ed25519"})
        case Ed448PublicKey():
            return frozenset({_EDDSA, "Ed448"})
        case _:
            return frozenset()
