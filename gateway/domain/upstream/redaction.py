"""Removal of credentials and console URLs from what the cloud returns (invariant 6). Pure.

An error text may quote the request that it is about, and so the service account's credential.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final
from urllib.parse import quote

from gateway.domain.model import Headers
from gateway.domain.upstream.signing import ALGORITHM

REMOVED: Final = "…"
_NO_SECRETS: Final = frozenset(
    {"host", "x-sdk-date", "x-project-id", "x-domain-id", "traceparent", "tracestate"}
)
"""Headers of a signed or traced request that are no secret."""
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
    for spelling in _spellings(secrets):
        if spelling in body:
            body = body.replace(spelling, REMOVED.encode())
    return body


def without_secrets(headers: Mapping[str, str], secrets: Collection[str]) -> Mapping[str, str]:
    """Return the headers whose values contain no complete secret; the same object if all are."""
    long = [secret for secret in secrets if len(secret) >= _SECRET_CHARS_MIN]
    if not any(secret in value for value in headers.values() for secret in long):
        return headers
    return {
        name.lower(): value
        for name, value in headers.items()
        if not any(secret in value for secret in long)
    }


class SecretSearch:
    """Search for complete secrets in a body that arrives in chunks.

    The end of what was read is held back, because a secret may begin there.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        self._spellings = tuple(_spellings(secrets))
        self._tail_bytes = max((len(one) for one in self._spellings), default=1) - 1
        self._tail = b""

    def add(self, chunk: bytes) -> bytes | None:
        """Return the bytes that may be forwarded; None if a secret was found."""
        if not self._spellings:
            return chunk
        text = self._tail + chunk
        if any(spelling in text for spelling in self._spellings):
            return None
        end = max(0, len(text) - self._tail_bytes)
        self._tail = text[end:]
        return text[:end]

    def rest(self) -> bytes:
        """Return the held end, at the end of the body."""
        return self._tail


def _spellings(secrets: Collection[str]) -> Iterator[bytes]:
    for secret in secrets:
        if len(secret) >= _SECRET_CHARS_MIN:
            yield secret.encode()
            if "/" in secret:
                yield secret.replace("/", "\\/").encode()  # JSON may escape the slash


def _is_part(word: str, secrets: Collection[str]) -> bool:
    return any(word in secret for secret in secrets)
