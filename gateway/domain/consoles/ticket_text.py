"""The text of a ticket: 32 random bytes, and 8 bytes of a keyed hash over them. Pure.

The hash rejects garbage without a look at the store. It is no proof that a ticket exists. A ticket
that only the memory of one process has is hashed with another key: the others recognise it, and
answer that they cannot redeem it instead of that it is spent.
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
_SHARED: Final = b"console-gateway ticket"
_LOCAL: Final = b"console-gateway ticket of one process"
_LOCAL_MARK: Final = b"local "


class TicketTexts:
    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: all replicas share them; the first makes tickets, all verify them."""
        self._keys = {
            label: [hmac.digest(key, label, "sha256") for key in keys]
            for label in (_SHARED, _LOCAL)
        }

    def make(self, random: bytes, *, is_local: bool = False) -> Secret:
        """Return the text of a ticket with RANDOM_BYTES random bytes.

        `is_local`: only the process that makes the ticket has it.
        """
        tag = self._tag(self._keys[_LOCAL if is_local else _SHARED][0], random)
        return Secret(base64.urlsafe_b64encode(random + tag).rstrip(b"=").decode())

    def verify(self, text: str) -> bytes | None:
        """Return the `ticket_hash` of a text; None: no replica made it."""
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
        for label, keys in self._keys.items():
            if any(hmac.compare_digest(self._tag(key, random), tag) for key in keys):
                return ticket_hash(text, is_local=label == _LOCAL)
        return None

    def find(self, text: str) -> str | None:
        """Return the first ticket in a text of any form: a request's body, or its address."""
        return next((one for one in _WITHIN.findall(text) if self.verify(one) is not None), None)

    def _tag(self, key: bytes, random: bytes) -> bytes:
        return hmac.digest(key, random, "sha256")[:_TAG_BYTES]


def ticket_hash(text: str, *, is_local: bool) -> bytes:
    """Return the name under which a ticket is stored."""
    return (_LOCAL_MARK if is_local else b"") + secret_hash(text)


def is_local_ticket(hashed: bytes) -> bool:
    """Return whether a `ticket_hash` is that of a ticket that only one process has."""
    return len(hashed) > sha256().digest_size


def secret_hash(text: str) -> bytes:
    """Return the form in which a ticket, a cookie or a resume key is stored."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
