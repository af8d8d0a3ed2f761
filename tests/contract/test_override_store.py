"""The port OverrideStore: one suite for the fake and for Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import Override, RevokedToken
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.override_store import ValkeyOverrideStore
from gateway.flow.active_overrides import OverrideStore
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.budget_queues import until_listening
from tests.support.override_store import FakeOverrideStore
from tests.support.valkey import RealValkey

NONE_CACHED: frozenset[str] = frozenset()


def an_override(name: str) -> Override:
    return Override(name, 1.0, 2.0, "corp:ada", "", RevokedToken("corp", name))


@dataclass
class Subject:
    store: OverrideStore
    lose_data: Callable[[], Awaitable[object]]
    make_unreadable: Callable[[str], Awaitable[object]]


@pytest.fixture
async def valkey(shared_valkey: RealValkey) -> AsyncIterator[Valkey]:
    valkey = a_valkey(shared_valkey)
    assert await valkey.probe()
    running = asyncio.create_task(valkey.run_subscription())
    await until_listening(valkey)
    yield valkey
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await valkey.close()


@pytest.fixture
async def redis(shared_valkey: RealValkey) -> AsyncIterator[Redis]:
    async with Redis.from_url(shared_valkey.url) as client:
        yield client


@pytest.fixture(params=["fake", "valkey"])
def subject(request: pytest.FixtureRequest, valkey: Valkey, redis: Redis) -> Subject:
    if request.param == "fake":
        fake = FakeOverrideStore()

        async def lose_data() -> None:
            fake.lose_data()

        async def make_unreadable(override_id: str) -> None:
            fake.make_unreadable(override_id)

        return Subject(fake, lose_data, make_unreadable)
    key = valkey.key("overrides", tag="overrides")

    async def make_unreadable_in_redis(override_id: str) -> None:
        await redis.hset(key, mapping={override_id: b"made up", "version": "another"})

    store = ValkeyOverrideStore(valkey, Sealer([a_seal_key()]))
    return Subject(store, lambda: redis.delete(key), make_unreadable_in_redis)


async def test_empty_store_is_not_complete(
    subject: Subject,
) -> None:
    for known in ("", "known before"):
        stored = await subject.store.read(known, cached=NONE_CACHED)
        assert stored is not None
        assert (list(stored.overrides), set(stored.ids), stored.unreadable) == ([], set(), 0)
        assert not stored.is_complete


async def test_added_override_is_read_once(subject: Subject) -> None:
    await subject.store.add([an_override("a"), an_override("b")], expired=(), complete=False)
    stored = await subject.store.read("", cached=NONE_CACHED)
    assert stored is not None
    assert sorted(stored.overrides, key=lambda override: override.id) == [
        an_override("a"),
        an_override("b"),
    ]
    assert (set(stored.ids), stored.is_complete) == ({"a", "b"}, False)
    assert await subject.store.read(stored.version, cached=stored.ids) is None
    await subject.store.add([an_override("c")], expired=(), complete=False)
    more = await subject.store.read(stored.version, cached=stored.ids)
    assert more is not None
    assert (list(more.overrides), set(more.ids)) == ([an_override("c")], {"a", "b", "c"})


async def test_complete_mark_stays_until_data_is_lost(subject: Subject) -> None:
    await subject.store.add([], expired=(), complete=True)
    await subject.store.add([an_override("a")], expired=(), complete=False)
    stored = await subject.store.read("", cached=NONE_CACHED)
    assert stored is not None
    assert stored.is_complete
    await subject.lose_data()
    again = await subject.store.read(stored.version, cached=stored.ids)
    assert again is not None
    assert (set(again.ids), again.is_complete) == (set(), False)


async def test_removing_expired_overrides_keeps_the_version(subject: Subject) -> None:
    await subject.store.add([an_override("a"), an_override("b")], expired=(), complete=True)
    stored = await subject.store.read("", cached=NONE_CACHED)
    assert stored is not None
    await subject.store.add([], expired=["a", "never there"], complete=True)
    assert await subject.store.read(stored.version, cached=stored.ids) is None
    later = await subject.store.read("", cached=stored.ids)
    assert later is not None
    assert set(later.ids) == {"b"}


async def test_unreadable_override_is_counted_and_can_be_rewritten(
    subject: Subject,
) -> None:
    await subject.store.add([an_override("a"), an_override("b")], expired=(), complete=True)
    await subject.make_unreadable("a")
    stored = await subject.store.read("", cached=NONE_CACHED)
    assert stored is not None
    assert (list(stored.overrides), set(stored.ids), stored.unreadable) == (
        [an_override("b")],
        {"b"},
        1,
    )
    await subject.store.add([an_override("a")], expired=(), complete=True)
    mended = await subject.store.read("", cached=NONE_CACHED)
    assert mended is not None
    assert (set(mended.ids), mended.unreadable) == ({"a", "b"}, 0)


async def test_change_callback_is_called(subject: Subject) -> None:
    changed = asyncio.Event()
    subject.store.on_change(changed.set)
    await subject.store.add([an_override("a")], expired=(), complete=False)
    await asyncio.wait_for(changed.wait(), 60)


async def test_many_overrides_are_read_in_batches(valkey: Valkey) -> None:
    store = ValkeyOverrideStore(valkey, Sealer([a_seal_key()]))
    many = [an_override(f"{n:05}") for n in range(1_100)]
    await store.add(many, expired=[f"x{n}" for n in range(5_000)], complete=True)
    stored = await store.read("", cached=NONE_CACHED)
    assert stored is not None
    assert (list(stored.overrides), len(stored.ids)) == (many, len(many))
    assert stored.is_complete


async def test_overrides_key_has_no_expiry(valkey: Valkey, redis: Redis) -> None:
    await ValkeyOverrideStore(valkey, Sealer([a_seal_key()])).add(
        [an_override("a")], expired=(), complete=True
    )
    assert await redis.ttl(valkey.key("overrides", tag="overrides")) == -1


async def test_seal_key_rotation_keeps_overrides(valkey: Valkey) -> None:
    old, new = a_seal_key(), a_seal_key()
    await ValkeyOverrideStore(valkey, Sealer([old])).add(
        [an_override("a")], expired=(), complete=True
    )
    both = ValkeyOverrideStore(valkey, Sealer([new, old]))
    stored = await both.read("", cached=NONE_CACHED)
    assert stored is not None
    assert (list(stored.overrides), set(stored.ids), stored.unreadable) == (
        [an_override("a")],
        set(),
        0,
    )
    await both.add(stored.overrides, expired=(), complete=True)
    after = await ValkeyOverrideStore(valkey, Sealer([new])).read("", cached=NONE_CACHED)
    assert after is not None
    assert (list(after.overrides), after.unreadable) == ([an_override("a")], 0)


async def test_override_under_another_id_is_unreadable(valkey: Valkey, redis: Redis) -> None:
    store = ValkeyOverrideStore(valkey, Sealer([a_seal_key()]))
    await store.add([an_override("a")], expired=(), complete=True)
    key = valkey.key("overrides", tag="overrides")
    await redis.hset(key, "b", await redis.hget(key, "a"))
    stored = await store.read("", cached=NONE_CACHED)
    assert stored is not None
    assert (list(stored.overrides), stored.unreadable) == ([an_override("a")], 1)


async def test_unavailable_store_raises_soon(own_valkey: RealValkey) -> None:
    valkey = a_valkey(own_valkey, timeout_s=0.2)
    store = ValkeyOverrideStore(valkey, Sealer([a_seal_key()]))
    while not await valkey.probe():
        pass
    own_valkey.hang()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.read("", cached=NONE_CACHED)
    with pytest.raises(StoreUnavailable):
        await store.add([an_override("a")], expired=(), complete=True)
    assert time.monotonic() - began < 20.0
    own_valkey.resume()
    await valkey.close()
