"""Validators of response bodies (RFC 9110, 8.8.3)."""

import hashlib
import re


def etag_of(body: bytes) -> str:
    """Return the validator of a body, without quotes."""
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def matches_etag(etag: str, listed: str) -> bool:
    """Return whether `If-None-Match` lists the validator."""
    return listed.strip() == "*" or etag in re.findall(r'"([^"]*)"', listed)
