"""A search for secrets in everything that was seen or written, in the forms that hide them."""

import base64
import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import valkey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


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


def unseal_all(data: bytes, seal_key: str) -> list[bytes]:
    """Return the plain bytes of each sealed value in the data, whatever name it is bound to.

    A sealed value is the key's ID, a nonce and AES-GCM. Its text can be read without a check of the
    tag: GCM encrypts in counter mode, from 2.
    """
    key = base64.b64decode(seal_key)
    key_id = sha256(b"key id\0" + key).digest()[:4]
    plain, at = [], data.find(key_id)
    while at >= 0:
        nonce, sealed = data[at + 4 : at + 16], data[at + 16 :]
        if len(nonce) == 12:
            counter = modes.CTR(nonce + (2).to_bytes(4, "big"))
            plain.append(Cipher(algorithms.AES(key), counter).decryptor().update(sealed))
        at = data.find(key_id, at + 1)
    return plain


def redis_contents(url: str, seal_key: str) -> list[bytes]:
    """Return every key and value in Redis, and what is sealed in them."""
    found: list[bytes] = []
    with valkey.Valkey.from_url(url) as client:
        for key in client.scan_iter():
            found.append(key)
            found += _values(client, key)
    return found + [plain for data in found for plain in unseal_all(data, seal_key)]


def _values(client: Any, key: bytes) -> list[bytes]:
    match client.type(key):
        case b"string":
            return [client.get(key) or b""]
        case b"hash":
            return [part for item in client.hgetall(key).items() for part in item]
        case b"list":
            return list(client.lrange(key, 0, -1))
        case b"set":
            return list(client.smembers(key))
        case b"zset":
            return list(client.zrange(key, 0, -1))
        case b"stream":
            entries = client.xrange(key)
            return [part for _, fields in entries for item in fields.items() for part in item]
        case kind:
            raise AssertionError(f"cannot read a key of type {kind!r}")


def _decoded(data: bytes) -> set[bytes]:
    """Return the data as it is, and without each layer of percent-encoding."""
    variants = {data}
    while (data := unquote_to_bytes(data)) not in variants and len(variants) < 5:
        variants.add(data)
    return variants
