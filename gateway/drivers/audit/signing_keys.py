"""Ed25519 keys that sign and verify checkpoints."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gateway.domain.audit.chain import Signer, key_id
from gateway.domain.audit.verify import SignatureCheck
from gateway.domain.model import Secret


def load_signer(private_key: Secret) -> Signer:
    """Load a private key in PEM that the config has validated."""
    key = load_pem_private_key(private_key.reveal().encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return Signer(_id(key.public_key()), key.sign)


def load_verifier(public_key: bytes) -> tuple[str, SignatureCheck] | None:
    """Load a public key in PEM; return its ID and its check, or None if it is not Ed25519."""
    try:
        key = load_pem_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return _verifier(key) if isinstance(key, Ed25519PublicKey) else None


def load_verifier_of(private_key: Secret) -> tuple[str, SignatureCheck]:
    """Return the ID and the check of a private key in PEM that the config has validated."""
    key = load_pem_private_key(private_key.reveal().encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return _verifier(key.public_key())


def _verifier(key: Ed25519PublicKey) -> tuple[str, SignatureCheck]:
    def is_valid(signature: bytes, payload: bytes) -> bool:
        try:
            key.verify(signature, payload)
        except InvalidSignature:
            return False
        return True

    return _id(key), is_valid


def _id(key: Ed25519PublicKey) -> str:
    return key_id(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
