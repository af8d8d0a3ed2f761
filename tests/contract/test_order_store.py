"""Orders that all replicas see: one suite for the fake and for the real store."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from gateway.domain.errors import StoreUnavailable
from gateway.domain.overrides import Order, RevokedToken
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.override_store import ValkeyOrderStore
from gateway.flow.ports import OrderStore
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.order_store import FakeOrderStore
from tests.support.valkey import RealValkey

NOBODY: frozenset[str] = frozenset()


def an_order(name: str) -> Order:
    return Order(name, 1.0, 2.0, "corp:ada", "", RevokedToken("corp", name))


@dataclass
class Subject:
    store: OrderStore
    forget: Callable[[], Awaitable[object]]
    spoil: Callable[[str], Awaitable[object]]


@pytest.fixture
async def valkey(shared_valkey: RealValkey) -> AsyncIterator[Valkey]:
    valkey = a_valkey(shared_valkey)
    assert await valkey.probe()
    running = asyncio.create_task(valkey.run_subscription())
    await asyncio.sleep(0.05)
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
        fake = FakeOrderStore()

        async def forget() -> None:
            fake.forget()

        async def spoil(order_id: str) -> None:
            fake.spoil(order_id)

        return Subject(fake, forget, spoil)
    key = valkey.key("orders", tag="orders")

    async def spoil_there(order_id: str) -> None:
        await redis.hset(key, mapping={order_id: b"made up", "version": "another"})

    store = ValkeyOrderStore(valkey, Sealer([a_seal_key()]))
    return Subject(store, lambda: redis.delete(key), spoil_there)


async def test_a_store_that_was_told_nothing_says_that_this_may_not_be_all(
    subject: Subject,
) -> None:
    for known in ("", "known before"):
        told = await subject.store.read(known, held=NOBODY)
        assert told is not None
        assert (list(told.orders), set(told.ids), told.unreadable) == ([], set(), 0)
        assert not told.is_complete


async def test_what_one_adds_another_reads_once(subject: Subject) -> None:
    await subject.store.add([an_order("a"), an_order("b")], ended=(), complete=False)
    told = await subject.store.read("", held=NOBODY)
    assert told is not None
    assert sorted(told.orders, key=lambda order: order.id) == [an_order("a"), an_order("b")]
    assert (set(told.ids), told.is_complete) == ({"a", "b"}, False)
    assert await subject.store.read(told.version, held=told.ids) is None
    await subject.store.add([an_order("c")], ended=(), complete=False)
    more = await subject.store.read(told.version, held=told.ids)
    assert more is not None
    assert (list(more.orders), set(more.ids)) == ([an_order("c")], {"a", "b", "c"})


async def test_that_all_is_told_stays_until_the_store_forgets(subject: Subject) -> None:
    await subject.store.add([], ended=(), complete=True)
    await subject.store.add([an_order("a")], ended=(), complete=False)
    told = await subject.store.read("", held=NOBODY)
    assert told is not None
    assert told.is_complete
    await subject.forget()
    again = await subject.store.read(told.version, held=told.ids)
    assert again is not None
    assert (set(again.ids), again.is_complete) == (set(), False)


async def test_ended_orders_are_forgotten_and_that_is_no_news(subject: Subject) -> None:
    await subject.store.add([an_order("a"), an_order("b")], ended=(), complete=True)
    told = await subject.store.read("", held=NOBODY)
    assert told is not None
    await subject.store.add([], ended=["a", "never there"], complete=True)
    assert await subject.store.read(told.version, held=told.ids) is None
    later = await subject.store.read("", held=told.ids)
    assert later is not None
    assert set(later.ids) == {"b"}


async def test_what_cannot_be_read_is_counted_and_mended_by_who_tells_it_anew(
    subject: Subject,
) -> None:
    await subject.store.add([an_order("a"), an_order("b")], ended=(), complete=True)
    await subject.spoil("a")
    told = await subject.store.read("", held=NOBODY)
    assert told is not None
    assert (list(told.orders), set(told.ids), told.unreadable) == ([an_order("b")], {"b"}, 1)
    await subject.store.add([an_order("a")], ended=(), complete=True)
    mended = await subject.store.read("", held=NOBODY)
    assert mended is not None
    assert (set(mended.ids), mended.unreadable) == ({"a", "b"}, 0)


async def test_who_listens_hears_of_orders(subject: Subject) -> None:
    heard = asyncio.Event()
    subject.store.when_changed(heard.set)
    await subject.store.add([an_order("a")], ended=(), complete=False)
    await asyncio.wait_for(heard.wait(), 5)


async def test_more_orders_than_one_script_takes_are_all_told(valkey: Valkey) -> None:
    store = ValkeyOrderStore(valkey, Sealer([a_seal_key()]))
    many = [an_order(f"{n:05}") for n in range(1_100)]
    await store.add(many, ended=[f"x{n}" for n in range(5_000)], complete=True)
    told = await store.read("", held=NOBODY)
    assert told is not None
    assert (list(told.orders), len(told.ids)) == (many, len(many))
    assert told.is_complete


async def test_no_end_is_set_to_them_that_would_let_a_full_server_drop_them(
    valkey: Valkey, redis: Redis
) -> None:
    await ValkeyOrderStore(valkey, Sealer([a_seal_key()])).add(
        [an_order("a")], ended=(), complete=True
    )
    assert await redis.ttl(valkey.key("orders", tag="orders")) == -1


async def test_a_seal_key_is_rotated_without_losing_an_order(valkey: Valkey) -> None:
    old, new = a_seal_key(), a_seal_key()
    await ValkeyOrderStore(valkey, Sealer([old])).add([an_order("a")], ended=(), complete=True)
    both = ValkeyOrderStore(valkey, Sealer([new, old]))
    told = await both.read("", held=NOBODY)
    assert told is not None
    assert (list(told.orders), set(told.ids), told.unreadable) == ([an_order("a")], set(), 0)
    await both.add(told.orders, ended=(), complete=True)
    after = await ValkeyOrderStore(valkey, Sealer([new])).read("", held=NOBODY)
    assert after is not None
    assert (list(after.orders), after.unreadable) == ([an_order("a")], 0)


async def test_an_order_moved_to_another_id_does_not_open(valkey: Valkey, redis: Redis) -> None:
    store = ValkeyOrderStore(valkey, Sealer([a_seal_key()]))
    await store.add([an_order("a")], ended=(), complete=True)
    key = valkey.key("orders", tag="orders")
    await redis.hset(key, "b", await redis.hget(key, "a"))
    told = await store.read("", held=NOBODY)
    assert told is not None
    assert (list(told.orders), told.unreadable) == ([an_order("a")], 1)


async def test_a_store_that_is_away_says_so_soon(own_valkey: RealValkey) -> None:
    valkey = a_valkey(own_valkey, timeout_s=0.2)
    store = ValkeyOrderStore(valkey, Sealer([a_seal_key()]))
    assert await valkey.probe()
    own_valkey.hang()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.read("", held=NOBODY)
    with pytest.raises(StoreUnavailable):
        await store.add([an_order("a")], ended=(), complete=True)
    assert time.monotonic() - began < 2.0
    own_valkey.go_on()
    await valkey.close()
