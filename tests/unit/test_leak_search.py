"""The search for leaked secrets finds a planted one in every form, and nothing where none is."""

import base64
import json
import os
from urllib.parse import quote

import pytest

from gateway.domain.model import Secret
from gateway.drivers.crypto.sealer import Sealer
from tests.support.leaks import find_leaks, unseal_all

SECRET = "3544eafb-f607-43ba-ab6f-e93d24e53c92"
PLANTED = {
    "raw": f"GET /vnc?token={SECRET}&x=1",
    "percent-encoded": f"?path=websockify%3Ftoken%3D{quote(SECRET, safe='')}",
    "each byte percent-encoded": "".join(f"%{ord(one):02X}" for one in SECRET),
    "percent-encoded twice": quote(quote("".join(f"%{ord(one):02x}" for one in SECRET[:36]))),
    "in JSON": json.dumps({"log": json.dumps({"url": SECRET})}),
    "hex": f"0x{SECRET.encode().hex()}",
    "HEX": SECRET.encode().hex().upper(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 after 1 byte": base64.b64encode(b"x" + SECRET.encode() + b"yz").decode(),
    "base64 after 2 bytes": base64.b64encode(b"xx" + SECRET.encode() + b"y").decode(),
    "base64 for URLs": base64.urlsafe_b64encode(b"???" + SECRET.encode()).decode(),
}


@pytest.mark.parametrize("text", PLANTED.values(), ids=PLANTED)
def test_planted_secret_is_found(text: str) -> None:
    assert find_leaks([SECRET], [b"nothing here", text.encode()])


def test_secret_in_a_binary_frame_is_found() -> None:
    frame = b"\0\x01\xff" + SECRET.encode() + b"\xfe"
    assert find_leaks([SECRET], [frame])
    assert find_leaks([SECRET], [SECRET.encode("utf-16-le")])


def test_other_texts_are_not_found() -> None:
    other = "0" * 36
    texts = [text.replace(SECRET, other).encode() for text in PLANTED.values()]
    assert not find_leaks(["9" * 36], texts)


def test_sealed_secret_is_found_whatever_it_is_bound_to() -> None:
    key = base64.b64encode(os.urandom(32)).decode()
    sealer = Sealer([Secret(key)])
    sealed = [sealer.seal(SECRET.encode(), bound_to=name) for name in (b"one", b"two")]
    data = b"|".join([b"before", *sealed])
    assert not find_leaks([SECRET], [data])
    plain = unseal_all(data, key)
    assert [bool(find_leaks([SECRET], [one])) for one in plain] == [True, True]
    assert not unseal_all(data, base64.b64encode(os.urandom(32)).decode())
