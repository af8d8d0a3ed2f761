"""Key pairs and subject tokens that contain the caller's JWT, sealed (port `IssuedKeys`)."""

import base64
import struct
from hashlib import sha256

from gateway.domain.identity.sdk_signature import (
    ACCESS_PREFIX,
    SECURITY_TOKEN_PREFIX,
    SUBJECT_TOKEN_PREFIX,
)
from gateway.domain.model import Secret
from gateway.drivers.crypto.sealer import Sealer
from gateway.flow.caller_credentials import KeyPair

_TOKEN_CHARS_MAX = 32_768
"""The longest accepted JWT takes 22,000 characters when it is sealed."""
_EXPIRY = struct.Struct(">d")


class SealedKeys:
    """A security token contains the JWT and the pair's expiry; both keys are derived from it.

    The seal is bound to the purpose, so that a subject token cannot serve as a security token.
    """

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def subject_token(self, caller_jwt: Secret) -> Secret:
        sealed = self._sealer.seal(caller_jwt.reveal().encode(), bound_to=b"subject token")
        return Secret(SUBJECT_TOKEN_PREFIX + _text(sealed))

    def open_subject_token(self, subject_token: str) -> Secret | None:
        sealed = _sealed(subject_token, SUBJECT_TOKEN_PREFIX)
        jwt = self._sealer.open(sealed, bound_to=b"subject token")
        return None if jwt is None else Secret(jwt.decode())

    def key_pair(self, caller_jwt: Secret, *, expires_at: float) -> KeyPair:
        plain = _EXPIRY.pack(expires_at) + caller_jwt.reveal().encode()
        sealed = self._sealer.seal(plain, bound_to=b"security token")
        return self._pair(sealed, plain)

    def open_key_pair(self, security_token: str) -> KeyPair | None:
        sealed = _sealed(security_token, SECURITY_TOKEN_PREFIX)
        plain = self._sealer.open(sealed, bound_to=b"security token")
        return None if plain is None else self._pair(sealed, plain)

    def _pair(self, sealed: bytes, plain: bytes) -> KeyPair:
        secret = self._sealer.derive(sealed)
        assert secret is not None, "the sealer has the key of what it sealed or opened"
        (expires_at,) = _EXPIRY.unpack_from(plain)
        return KeyPair(
            access=ACCESS_PREFIX + sha256(b"access key\0" + sealed).hexdigest()[:32].upper(),
            secret=Secret(secret.hex()),
            security_token=Secret(SECURITY_TOKEN_PREFIX + _text(sealed)),
            caller_jwt=Secret(plain[_EXPIRY.size :].decode()),
            expires_at=expires_at,
        )


def _text(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _sealed(text: str, prefix: str) -> bytes:
    """Undo `_text`; return b"", which never opens, for text that `_text` did not produce."""
    if len(text) > _TOKEN_CHARS_MAX or not text.startswith(prefix):
        return b""
    letters = text.removeprefix(prefix)
    try:
        sealed = base64.b64decode(letters + "=" * (-len(letters) % 4), b"-_", validate=True)
    except ValueError:
        return b""
    return sealed if _text(sealed) == letters else b""
