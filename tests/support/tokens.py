"""Keys and JWTs for tests, including malformed ones that no library creates."""

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

ALGORITHMS = get_default_algorithms()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: bytes, payload: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Sign header and payload unchanged."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(sign(signed.encode()))}"


@dataclass(frozen=True)
class Signer:
    """An issuer's private key and its key ID."""

    algorithm: str
    key: Any
    kid: str | None = "k1"

    def sign(self, message: bytes) -> bytes:
        return ALGORITHMS[self.algorithm].sign(message, self.key)

    def token(self, claims: dict[str, Any], **header: Any) -> str:
        head = {"alg": self.algorithm, "kid": self.kid, **header}
        head = {name: value for name, value in head.items() if value is not None}
        return raw_token(json.dumps(head).encode(), json.dumps(claims).encode(), self.sign)

    def jwk(self, **members: Any) -> dict[str, Any]:
        """Return the public key as a JWK, without the members that are None."""
        jwk = ALGORITHMS[self.algorithm].to_jwk(self.key.public_key(), as_dict=True)
        jwk |= {"kid": self.kid, "use": "sig", "alg": self.algorithm, **members}
        return {name: value for name, value in jwk.items() if value is not None}

    def pem(self) -> bytes:
        pem: bytes = self.key.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        return pem


@functools.cache
def _rsa_key(which: str, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def rsa_signer(
    kid: str | None = "k1", *, algorithm: str = "RS256", which: str = "a", bits: int = 2048
) -> Signer:
    """Return a signer. The key is cached by `which`, because its generation is slow."""
    return Signer(algorithm, _rsa_key(which, bits), kid)


def ec_signer(kid: str | None = "k1", *, algorithm: str = "ES256") -> Signer:
    curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return Signer(algorithm, ec.generate_private_key(curve[algorithm]), kid)


def ed_signer(kid: str | None = "k1", *, is_448: bool = False) -> Signer:
    key = ed448.Ed448PrivateKey if is_448 else ed25519.Ed25519PrivateKey
    return Signer("EdDSA", key.generate(), kid)
