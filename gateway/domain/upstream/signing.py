"""SDK-HMAC-SHA256: sign a request with an access key (upstream-api.md#3.4). Pure.

The signature covers the request line and the given headers, so exactly these must be sent.
domain/identity/sdk_signature.py verifies signed requests with the same canonical form.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from gateway.domain.model import Headers, Secret

ALGORITHM: Final = "SDK-HMAC-SHA256"
DATE_FORM: Final = "%Y%m%dT%H%M%SZ"


def sign(  # noqa: PLR0913 - the parts of a request and of a key pair
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    access_key: Secret,
    secret_key: Secret,
    at: float,
) -> Headers:
    """Return `headers` with X-Sdk-Date and Authorization added.

    `target` is that of the request line, with the query. All of `headers` are signed; `Host` must
    be one of them. Send every returned header. `at` is in seconds since the epoch; the cloud
    accepts a difference of 15 minutes from its own clock.
    """
    date = datetime.fromtimestamp(at, UTC).strftime(DATE_FORM)
    sent = (*headers.items(), ("X-Sdk-Date", date))
    signed = sorted((name.lower(), value.strip()) for name, value in sent)
    proof = signature(
        method=method.upper(),
        target=target,
        signed=signed,
        body=body,
        date=date,
        secret_key=secret_key,
    )
    names = ";".join(name for name, _ in signed)
    claim = f"{ALGORITHM} Access={access_key.reveal()}, SignedHeaders={names}, "
    return (*sent, ("Authorization", f"{claim}Signature={proof}"))


def signature(
    *,
    method: str,
    target: str,
    signed: Sequence[tuple[str, str]],
    body: bytes,
    date: str,
    secret_key: Secret,
) -> str:
    """Return the signature in hex. `signed`: names in lower case, values stripped, by name."""
    path, _, query = target.partition("?")
    canonical = "\n".join(
        (
            method,
            _canonical_path(path),
            _canonical_query(query),
            *(f"{name}:{value}" for name, value in signed),
            "",
            ";".join(name for name, _ in signed),
            hashlib.sha256(body).hexdigest(),
        )
    )
    to_sign = f"{ALGORITHM}\n{date}\n{hashlib.sha256(_raw(canonical)).hexdigest()}"
    return hmac.new(secret_key.reveal().encode(), to_sign.encode(), hashlib.sha256).hexdigest()


def _canonical_path(path: str) -> str:
    # The vendor decodes the whole path first, so an encoded slash becomes a plain one.
    plain = quote(unquote_to_bytes(_raw(path)), safe="/~")
    return plain if plain.endswith("/") else f"{plain}/"


def _canonical_query(query: str) -> str:
    # The vendor sorts before encoding. A plus sign is literal here, not a blank.
    pairs = sorted(
        (unquote_to_bytes(name), unquote_to_bytes(value))
        for name, _, value in (part.partition(b"=") for part in _raw(query).split(b"&") if part)
    )
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)


def _raw(text: str) -> bytes:
    # Bytes that are not UTF-8 arrive as lone surrogates.
    return text.encode("utf-8", "surrogateescape")
