"""A search for secrets in everything that was seen or written, in the forms that hide them."""

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes


def forms_of(secret: str) -> dict[str, bytes]:
    """Return the bytes that give a secret away, by encoding. Base64 has three alignments."""
    data = secret.encode()
    forms = {
        "raw": data,
        "percent-encoded": quote(secret, safe="").encode(),
        "fully percent-encoded": "".join(f"%{byte:02x}" for byte in data).encode(),
        "JSON": json.dumps(secret)[1:-1].encode(),
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
        "UTF-16": secret.encode("utf-16-le"),
    }
    for shift in range(3):
        # Without the characters that depend on the bytes before and after the secret.
        text = base64.b64encode(bytes(shift) + data)
        inner = text[4 * bool(shift) : len(text) - 4]
        forms[f"base64, shifted by {shift}"] = inner
        forms[f"base64 for URLs, shifted by {shift}"] = inner.translate(
            bytes.maketrans(b"+/", b"-_")
        )
    return forms


def find_leaks(secrets: Iterable[str], seen: Iterable[bytes]) -> list[str]:
    """Return a description of each place where a secret, or a form of it, occurs."""
    wanted = {(secret, name): form for secret in secrets for name, form in forms_of(secret).items()}
    found = []
    for i, data in enumerate(seen):
        for variant in _decoded(data):
            found += [
                f"item {i}: {name} form of {secret[:4]}… in {variant[:80]!r}"
                for (secret, name), form in wanted.items()
                if form in variant
            ]
    return found


def _decoded(data: bytes) -> set[bytes]:
    """Return the data as it is, and without each layer of percent-encoding."""
    variants = {data}
    while (data := unquote_to_bytes(data)) not in variants and len(variants) < 5:
        variants.add(data)
    return variants
