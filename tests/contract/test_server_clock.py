"""Values, leases and usage in Redis after its clock was set back."""

import base64
import os
from typing import Any

import pytest

from gateway.domain.model import Secret
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.caller_usage import ValkeyCallerUsage
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow.shared_store import LeaseAcquired, LeaseHeld, StoredValue
from tests.support.clock import FakeClock
from tests.support.lua_redis import LuaServer

FAR = 4e9
"""An expiry by the store's clock that is never reached."""
SEAL_KEY = Secret(base64.b64encode(os.urandom(32)).decode())


@pytest.fixture
def server(clock: FakeClock) -> LuaServer:
    return LuaServer(clock)


@pytest.fixture
def store(server: LuaServer) -> ValkeySharedStore:
    way: Any = server
    return ValkeySharedStore(way, Sealer([SEAL_KEY]))


async def test_value_stored_in_the_future_counts_as_absent(
    server: LuaServer, store: ValkeySharedStore
) -> None:
    await store.claim("k", owner="a", lease_s=2)
    await store.publish("k", owner="a", value=b"link", ttl_s=300, until=FAR)
    assert isinstance(await store.claim("k", owner="b", lease_s=2), StoredValue)
    server.ahead_s = -3600.0
    assert isinstance(await store.claim("k", owner="b", lease_s=2), LeaseAcquired)
    assert await store.publish("k", owner="b", value=b"newer", ttl_s=300, until=FAR)
    found = await store.claim("k", owner="c", lease_s=2)
    assert isinstance(found, StoredValue)
    assert found.value == b"newer"
    assert found.ttl_s <= 300


async def test_lease_is_never_longer_than_requested(
    server: LuaServer, store: ValkeySharedStore, clock: FakeClock
) -> None:
    await store.claim("k", owner="a", lease_s=2)
    server.ahead_s = -3600.0
    busy = await store.claim("k", owner="b", lease_s=2)
    assert isinstance(busy, LeaseHeld)
    assert busy.lease_left_s == 2.0
    await clock.advance(2.1)
    assert isinstance(await store.claim("k", owner="b", lease_s=2), LeaseAcquired)


async def test_caller_usage_keeps_its_distance_from_now(
    server: LuaServer, clock: FakeClock
) -> None:
    way: Any = server
    usage = ValkeyCallerUsage(way)
    await usage.spend({"ann": 10}, interval_s=1.0)
    server.ahead_s = -3600.0
    assert await usage.spend({"ann": 1}, interval_s=1.0) == {"ann": 11.0}
    await clock.advance(5.0)
    assert await usage.spend({"ann": 1}, interval_s=1.0) == {"ann": 7.0}
