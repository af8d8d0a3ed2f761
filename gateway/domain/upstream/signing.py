"""SDK-HMAC-SHA256: how a request is signed with an access key (dossier 3.4). Pure.

What is signed is what stands on the request line and in the headers that are given, so whoever
sends must send exactly these. rules/sdk_signature.py judges what comes by the same canonical form.
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


def sign(  # noqa: PLR0913 - the parts of a request, and of a key pair
    *,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    access_key: Secret,
    secret_key: Secret,
    at: float,
) -> Headers:
    """Return `headers` with the two more that prove the request: X-Sdk-Date and Authorization.

    `target` is the request line's, query included. All of `headers` are signed, `Host` must be
    among them, and all that is returned must be sent. `at` is in seconds since the epoch; the
    cloud takes 15 minutes of difference from its own clock.
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
    # The vendor sorts before encoding. A plus is a plus here, never a blank.
    pairs = sorted(
        (unquote_to_bytes(name), unquote_to_bytes(value))
        for name, _, value in (part.partition(b"=") for part in _raw(query).split(b"&") if part)
    )
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in pairs)


def _raw(text: str) -> bytes:
    # Bytes that are no UTF-8 come out of a request as lone surrogates.
    return text.encode("utf-8", "surrogateescape")
