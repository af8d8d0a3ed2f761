"""Fingerprints distinguish links, equal on all replicas, without revealing them."""

import base64
import re

from gateway.domain.model import Secret
from gateway.drivers.crypto.fingerprints import KeyedFingerprints


def under(key: bytes) -> KeyedFingerprints:
    return KeyedFingerprints(Secret(base64.b64encode(key * 32).decode()))


def test_replicas_share_fingerprints() -> None:
    link = Secret("https://console.example/?token=canary")
    assert under(b"k").of(link) == under(b"k").of(Secret(link.reveal()))
    assert re.fullmatch(r"[0-9a-f]{16}", under(b"k").of(link))


def test_fingerprint_depends_on_link_and_key() -> None:
    seen = {under(key).of(Secret(text)) for key in (b"k", b"l") for text in ("a", "b", "")}
    assert len(seen) == 6
