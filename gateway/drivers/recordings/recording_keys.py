"""The keys of recordings: a data key for each recording, wrapped with `recordings.keys`."""

import base64
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.domain.model import Secret
from gateway.domain.recordings.part_format import BlockCipher, Ciphers, Stream
from gateway.drivers.crypto.sealer import Sealer

_KEY_BYTES: Final = 32
_PURPOSES: Final = {Stream.SCREEN: b"recording screen", Stream.KEYSTROKES: b"recording keystrokes"}


class RecordingKeyMissing(Exception):
    """No key of `recordings.keys` opens the recording's data key."""


@dataclass(frozen=True, slots=True)
class DataKeys:
    """The keys of one recording."""

    screen: bytes = field(repr=False)
    keystrokes: bytes | None = field(repr=False)
    """None: keystrokes are not recorded, or may not be read."""

    def ciphers(self, salt: str) -> Ciphers:
        """Return the ciphers of the part with this salt."""
        found: dict[Stream, BlockCipher] = {Stream.SCREEN: _cipher(self.screen, salt)}
        if self.keystrokes is not None:
            found[Stream.KEYSTROKES] = _cipher(self.keystrokes, salt)
        return found

    def without_keystrokes(self) -> "DataKeys":
        return DataKeys(self.screen, None)


class RecordingKeys:
    """The first of `recordings.keys` wraps, all of them unwrap."""

    def __init__(self, keys: Sequence[Secret]) -> None:
        self._sealer = Sealer(keys)

    def create(self, recording: str, *, with_keystrokes: bool) -> tuple[DataKeys, bytes]:
        """Return new keys, and the content of keys.json."""
        second = os.urandom(_KEY_BYTES) if with_keystrokes else None
        keys = DataKeys(os.urandom(_KEY_BYTES), second)
        return keys, self._wrap(recording, keys)

    def unwrap(self, recording: str, wrapped: bytes) -> DataKeys:
        """Return the keys in keys.json; raise RecordingKeyMissing."""
        screen, keystrokes = _parse(wrapped)
        return DataKeys(
            self._open(recording, Stream.SCREEN, screen),
            None if keystrokes is None else self._open(recording, Stream.KEYSTROKES, keystrokes),
        )

    def rewrap(self, recording: str, wrapped: bytes) -> bytes | None:
        """Return keys.json wrapped with the first key; None if it is. Raise RecordingKeyMissing."""
        if all(self._sealer.is_current(one) for one in _parse(wrapped) if one is not None):
            return None
        return self._wrap(recording, self.unwrap(recording, wrapped))

    def _wrap(self, recording: str, keys: DataKeys) -> bytes:
        def seal(stream: Stream, key: bytes | None) -> str | None:
            if key is None:
                return None
            bound_to = _bound_to(recording, stream)
            return base64.b64encode(self._sealer.seal(key, bound_to=bound_to)).decode()

        return orjson.dumps(
            {
                "screen": seal(Stream.SCREEN, keys.screen),
                "keystrokes": seal(Stream.KEYSTROKES, keys.keystrokes),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )

    def _open(self, recording: str, stream: Stream, wrapped: bytes) -> bytes:
        key = self._sealer.open(wrapped, bound_to=_bound_to(recording, stream))
        if key is None:
            raise RecordingKeyMissing("no key of `recordings.keys` opens keys.json")
        return key


def _bound_to(recording: str, stream: Stream) -> bytes:
    return _PURPOSES[stream] + b"\0" + recording.encode()


def _cipher(key: bytes, salt: str) -> AESGCM:
    return AESGCM(hmac.digest(key, b"part\0" + salt.encode(), "sha256"))


def _parse(wrapped: bytes) -> tuple[bytes, bytes | None]:
    try:
        fields = orjson.loads(wrapped)
        screen, keystrokes = fields["screen"], fields["keystrokes"]
        return (
            base64.b64decode(screen, validate=True),
            None if keystrokes is None else base64.b64decode(keystrokes, validate=True),
        )
    except (ValueError, KeyError, TypeError):
        raise RecordingKeyMissing("keys.json is damaged") from None
