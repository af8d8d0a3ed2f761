"""Authenticated encryption for values in Redis and for credentials that callers keep."""

import base64
import hmac
import os
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.domain.model import Secret

_NONCE_BYTES = 12  # NIST SP 800-38D, 8.2.2: random 96-bit nonces
_KEY_ID_BYTES = 4


class Sealer:
    """AES-256-GCM with several keys: the first one seals, all of them open (key rotation).

    A sealed value is bound to a name, such as its Redis key, and opens only with that name.
    """

    def __init__(self, keys: Sequence[Secret]) -> None:
        """`keys`: 32 bytes each in base64, validated by the config."""
        ciphers = [_cipher(key) for key in keys]
        self._by_id = dict(reversed(ciphers))
        self._key_id, self._cipher = ciphers[0]
        self._derivation_keys = {
            _key_id(raw): _derivation_key(raw) for raw in map(_raw, reversed(keys))
        }

    def seal(self, plain: bytes, *, bound_to: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return self._key_id + nonce + self._cipher.encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes | None:
        """Return the plain bytes; None if no configured key sealed them for this name."""
        cipher = self._by_id.get(sealed[:_KEY_ID_BYTES])
        if cipher is None or len(sealed) < _KEY_ID_BYTES + _NONCE_BYTES:
            return None
        nonce = sealed[_KEY_ID_BYTES : _KEY_ID_BYTES + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[_KEY_ID_BYTES + _NONCE_BYTES :], bound_to)
        except InvalidTag:
            return None

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the first key sealed it; otherwise it must be sealed again."""
        return sealed[:_KEY_ID_BYTES] == self._key_id

    def derive(self, sealed: bytes) -> bytes | None:
        """Return 32 secret bytes that are a function of `sealed` and the key that sealed it.

        They need not be stored. None: that key is not configured.
        """
        key = self._derivation_keys.get(sealed[:_KEY_ID_BYTES])
        return None if key is None else hmac.digest(key, sealed, "sha256")


def _cipher(key: Secret) -> tuple[bytes, AESGCM]:
    raw = _raw(key)
    return _key_id(raw), AESGCM(raw)


def _raw(key: Secret) -> bytes:
    return base64.b64decode(key.reveal())


def _key_id(raw: bytes) -> bytes:
    return sha256(b"key id\0" + raw).digest()[:_KEY_ID_BYTES]


def _derivation_key(raw: bytes) -> bytes:
    """Derive a separate key, so that no key is used for both AES and HMAC."""
    return hmac.digest(raw, b"derive from what is sealed", "sha256")
