"""The text of a ticket: 32 random bytes, and 8 bytes of a keyed hash over them. Pure.

The hash rejects garbage without a look at the store. It is no proof that a ticket exists.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from gateway.domain.model import Secret

RANDOM_BYTES: Final = 32
_TAG_BYTES = 8
_TEXT = re.compile(r"[A-Za-z0-9_-]{54}")
_WITHIN = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{54}(?![A-Za-z0-9_-])")


class TicketTexts:
    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: all replicas share them; the first makes tickets, all verify them."""
        self._keys = [hmac.digest(key, b"console-gateway ticket", "sha256") for key in keys]

    def make(self, random: bytes) -> Secret:
        """Return the text of a ticket with RANDOM_BYTES random bytes."""
        tag = self._tag(self._keys[0], random)
        return Secret(base64.urlsafe_b64encode(random + tag).rstrip(b"=").decode())

    def verify(self, text: str) -> bytes | None:
        """Return the hash under which the ticket is stored; None: no replica made this text."""
        if not _TEXT.fullmatch(text):
            return None
        try:
            raw = base64.b64decode(text + "==", altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        random, tag = raw[:RANDOM_BYTES], raw[RANDOM_BYTES:]
        # The last character has bits without a meaning: each ticket has one spelling.
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
            return None
        if not any(hmac.compare_digest(self._tag(key, random), tag) for key in self._keys):
            return None
        return secret_hash(text)

    def find(self, text: str) -> str | None:
        """Return the first ticket in a text of any form: a request's body, or its address."""
        return next((one for one in _WITHIN.findall(text) if self.verify(one) is not None), None)

    def _tag(self, key: bytes, random: bytes) -> bytes:
        return hmac.digest(key, random, "sha256")[:_TAG_BYTES]


def secret_hash(text: str) -> bytes:
    """Return the form in which a ticket, a cookie or a resume key is stored."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
