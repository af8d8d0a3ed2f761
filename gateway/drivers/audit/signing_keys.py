"""Ed25519 keys of the audit log's checkpoints."""

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
    """Take a private key in PEM, as settings.AuditSettings has validated."""
    key = load_pem_private_key(private_key.reveal().encode(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return Signer(_id(key.public_key()), key.sign)


def load_verifier(public_key: bytes) -> tuple[str, SignatureCheck] | None:
    """Return the id of a public key in PEM, and what it proves; None: it is no Ed25519 key."""
    try:
        key = load_pem_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(key, Ed25519PublicKey):
        return None

    def proves(signature: bytes, text: bytes) -> bool:
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return _id(key), proves


def _id(key: Ed25519PublicKey) -> str:
    return key_id(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
