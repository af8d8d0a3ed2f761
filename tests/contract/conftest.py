import itertools
from collections.abc import AsyncIterator, Iterator
from functools import cache
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.demo.cloud import idp
from gateway.drivers.valkey.connection import Valkey
from tests.contract.test_shared_store import a_valkey
from tests.support.valkey import RealValkey

_KEYS = 16
"""More than a test uses at a time."""


@pytest.fixture(scope="session", autouse=True)
def reused_signing_keys() -> Iterator[None]:
    """Let keys take turns: to generate one is most of what a simulated cloud costs."""
    key_of = cache(lambda turn: rsa.generate_private_key(public_exponent=65_537, key_size=2_048))
    turns = itertools.cycle(range(_KEYS))
    generator = SimpleNamespace(generate_private_key=lambda **_: key_of(next(turns)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idp, "rsa", generator)
        yield


@pytest.fixture
async def valkey(shared_valkey: RealValkey) -> AsyncIterator[Valkey]:
    valkey = a_valkey(shared_valkey)
    assert await valkey.probe()
    yield valkey
    await valkey.close()
