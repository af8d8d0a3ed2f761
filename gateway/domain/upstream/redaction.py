"""Removal of credentials and console URLs from what the cloud returns (invariant 6). Pure.

An error text may quote the request that it is about, and so the service account's credential.
"""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import quote

from gateway.domain.model import Headers
from gateway.domain.upstream.signing import ALGORITHM

REMOVED: Final = "…"
_NO_SECRETS: Final = frozenset({"host", "x-sdk-date", "x-project-id", "x-domain-id"})
"""Headers of a signed request that are no secret."""
_PROOF: Final = re.compile(r"(?:Access|Signature)=([^, ]+)")
_SECRET_CHARS_MIN: Final = 4
_WORD: Final = re.compile(r"[A-Za-z0-9+/_=-]{12,}")
"""Long enough that it is part of a credential by quotation only, not by chance."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9+/=_-]{100,}")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*(?::|%3a)(?:\\?/|%2f){2}\S*", re.IGNORECASE)
_QUERY: Final = re.compile(r"\S*(?:[?&]|%3f|%26)[\w.-]+(?:=|%3d)\S*", re.IGNORECASE)
"""The console token is in the query, also of a URL without its scheme."""
_TOKEN_MEMBER: Final = re.compile(r"\btoken\b[\"']?\s*[=:]\s*\S{8,}", re.IGNORECASE)


def secrets_in(credential: Headers) -> tuple[str, ...]:
    """Return the secret texts in the headers that authenticate a request to the cloud."""
    found: list[str] = []
    for name, value in credential:
        if name.lower() not in _NO_SECRETS:
            found.append(value)
            if value.startswith(ALGORITHM):
                found += _PROOF.findall(value)
    return tuple(found)


def redact(text: str, secrets: Collection[str]) -> str:
    """Replace secrets, parts of secrets, long tokens and URLs by an ellipsis."""
    for secret in secrets:
        if len(secret) >= _SECRET_CHARS_MIN:
            for spelling in {secret, quote(secret, safe="")}:
                text = re.sub(re.escape(spelling), REMOVED, text, flags=re.IGNORECASE)
    for pattern in (_URL, _QUERY, _TOKEN, _TOKEN_MEMBER):
        text = pattern.sub(REMOVED, text)
    return _WORD.sub(lambda word: REMOVED if _is_part(word[0], secrets) else word[0], text)


def redact_body(body: bytes, secrets: Collection[str]) -> bytes:
    """Replace complete secrets in a body; return the same object if it has none."""
    for secret in secrets:
        if len(secret) < _SECRET_CHARS_MIN:
            continue
        for spelling in (secret, secret.replace("/", "\\/")):  # JSON may escape the slash
            if spelling.encode() in body:
                body = body.replace(spelling.encode(), REMOVED.encode())
    return body


def _is_part(word: str, secrets: Collection[str]) -> bool:
    return any(word in secret for secret in secrets)
