import base64
import os

from gateway.domain.model import Secret
from gateway.drivers.crypto.sealer import Sealer


def a_key() -> Secret:
    return Secret(base64.b64encode(os.urandom(32)).decode())


def test_sealed_value_opens_with_its_name() -> None:
    sealer = Sealer([a_key()])
    sealed = sealer.seal(b"link", bound_to=b"name")
    assert b"link" not in sealed
    assert sealer.open(sealed, bound_to=b"name") == b"link"


def test_other_name_does_not_open() -> None:
    sealer = Sealer([a_key()])
    assert sealer.open(sealer.seal(b"link", bound_to=b"name"), bound_to=b"nam") is None


def test_changed_bit_does_not_open() -> None:
    sealer = Sealer([a_key()])
    sealed = sealer.seal(b"link", bound_to=b"name")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert sealer.open(bytes(changed), bound_to=b"name") is None


def test_second_key_opens_and_first_key_seals() -> None:
    old, new = a_key(), a_key()
    sealed = Sealer([old]).seal(b"link", bound_to=b"name")
    both = Sealer([new, old])
    assert both.open(sealed, bound_to=b"name") == b"link"
    assert Sealer([new]).open(both.seal(b"x", bound_to=b"name"), bound_to=b"name") == b"x"
    assert Sealer([new]).open(sealed, bound_to=b"name") is None
    assert not both.is_current(sealed)
    assert both.is_current(both.seal(b"x", bound_to=b"name"))


def test_too_short_value_does_not_open() -> None:
    sealer = Sealer([a_key()])
    sealed = sealer.seal(b"", bound_to=b"")
    for size in range(len(sealed)):
        assert sealer.open(sealed[:size], bound_to=b"") is None
