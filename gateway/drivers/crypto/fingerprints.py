"""Fingerprints of secrets (port `Fingerprints`): a keyed hash, which cannot be brute-forced."""

import base64
import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.domain.model import Secret

_DIGITS = 16


class KeyedFingerprints:
    """HMAC-SHA-256 with a key derived from the first seal key, which all replicas share."""

    def __init__(self, seal_key: Secret) -> None:
        """`seal_key`: base64, validated by the config."""
        derive = HKDF(SHA256(), length=32, salt=None, info=b"console-gateway link fingerprint")
        self._key = derive.derive(base64.b64decode(seal_key.reveal()))

    def of(self, secret: Secret) -> str:
        return hmac.digest(self._key, secret.reveal().encode(), "sha256").hex()[:_DIGITS]
