"""The port RequestStore: one suite for the fake and for Valkey; sealed requests in Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from gateway.domain.model import Secret
from gateway.drivers.crypto.sealed_requests import SealedRequests
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.notice_outbox import ValkeyNoticeOutbox
from gateway.drivers.valkey.request_store import ValkeyRequestStore
from gateway.flow.requests.active_requests import NO_VERSION, RequestStore
from tests.contract.test_shared_store import a_seal_key
from tests.support.access_requests import an_access_request, changed
from tests.support.request_store import FakeRequestStore
from tests.support.valkey import RealValkey

FIRST = an_access_request(id="1" * 32)
SECOND = an_access_request(id="2" * 32)
KEY = a_seal_key()


@dataclass
class Subject:
    store: RequestStore
    lose_data: Callable[[], Awaitable[object]]


@pytest.fixture
async def redis(shared_valkey: RealValkey) -> AsyncIterator[Redis]:
    async with Redis.from_url(shared_valkey.url) as client:
        yield client


def keys_of(valkey: Valkey) -> tuple[str, str]:
    tag = "requests"
    return valkey.key("requests", tag=tag), valkey.key("revisions", tag=tag)


@pytest.fixture(params=["fake", "valkey"])
def subject(request: pytest.FixtureRequest, valkey: Valkey, redis: Redis) -> Subject:
    if request.param == "fake":
        fake = FakeRequestStore()

        async def lose_data() -> None:
            fake.lose_data()

        return Subject(fake, lose_data)
    store = a_store(valkey, [KEY])
    return Subject(store, lambda: redis.delete(*keys_of(valkey)))


def a_store(valkey: Valkey, seal_keys: Sequence[Secret]) -> ValkeyRequestStore:
    sealer = Sealer(seal_keys)
    return ValkeyRequestStore(valkey, SealedRequests(sealer), ValkeyNoticeOutbox(valkey, sealer))


async def put(store: RequestStore, request=FIRST, *, replaces="", at_version="", stored_max=10):  # type: ignore[no-untyped-def]
    return await store.put(request, replaces=replaces, at_version=at_version, stored_max=stored_max)


async def test_stored_request_is_read_once_per_revision(subject: Subject) -> None:
    revision = (await put(subject.store)).revision
    assert revision
    read = await subject.store.read("", {})
    assert read is not None
    assert (list(read.requests), dict(read.revisions)) == ([FIRST], {FIRST.id: revision})
    assert await subject.store.read(read.version, read.revisions) is None
    await put(subject.store, SECOND)
    later = await subject.store.read(read.version, read.revisions)
    assert later is not None
    assert list(later.requests) == [SECOND]
    assert later.revisions.keys() == {FIRST.id, SECOND.id}


async def test_only_the_known_copy_is_replaced(subject: Subject) -> None:
    first = (await put(subject.store)).revision
    assert not (await put(subject.store)).revision
    assert not (await put(subject.store, replaces="other")).revision
    changed_once = changed(FIRST, version=2)
    second = (await put(subject.store, changed_once, replaces=first)).revision
    assert second not in ("", first)
    assert not (await put(subject.store, changed(FIRST, version=3), replaces=first)).revision
    read = await subject.store.read("", {})
    assert read is not None
    assert list(read.requests) == [changed_once]


async def test_put_at_a_version_fails_after_any_change(subject: Subject) -> None:
    await put(subject.store)
    read = await subject.store.read("", {})
    assert read is not None
    assert (await put(subject.store, SECOND, at_version=read.version)).revision
    third = an_access_request(id="3" * 32)
    assert not (await put(subject.store, third, at_version=read.version)).revision


async def test_put_into_an_empty_store_is_one_of_those_at_once(subject: Subject) -> None:
    assert (await put(subject.store, at_version=NO_VERSION)).revision
    assert not (await put(subject.store, SECOND, at_version=NO_VERSION)).revision
    await subject.lose_data()
    assert (await put(subject.store, SECOND, at_version=NO_VERSION)).revision


async def test_put_at_a_version_that_is_lost_stores_nothing(subject: Subject) -> None:
    await put(subject.store)
    read = await subject.store.read("", {})
    assert read is not None
    await subject.lose_data()
    assert not (await put(subject.store, SECOND, at_version=read.version)).revision


async def test_bound_applies_to_new_requests_only(subject: Subject) -> None:
    first = (await put(subject.store, stored_max=1)).revision
    full = await put(subject.store, SECOND, stored_max=1)
    assert (full.is_full, full.revision) == (True, "")
    assert (await put(subject.store, changed(FIRST, version=2), replaces=first)).revision
    await subject.store.remove([FIRST.id])
    assert (await put(subject.store, SECOND, stored_max=1)).revision


async def test_lost_data_is_another_version(subject: Subject) -> None:
    await put(subject.store)
    read = await subject.store.read("", {})
    assert read is not None
    await subject.lose_data()
    empty = await subject.store.read(read.version, read.revisions)
    assert empty is not None
    assert not empty.revisions


async def test_copy_of_another_id_or_key_is_unreadable(valkey: Valkey, redis: Redis) -> None:
    store = a_store(valkey, [KEY])
    requests, revisions = keys_of(valkey)
    await put(store)
    sealed = await redis.hget(requests, FIRST.id)
    assert sealed is not None
    for text in (FIRST.requester.subject, FIRST.reason, FIRST.servers[0]):
        assert text.encode() not in sealed
    await redis.hset(requests, SECOND.id, sealed)
    await redis.hset(revisions, mapping={SECOND.id: "x", "version": "y"})
    read = await store.read("", {})
    assert read is not None
    assert list(read.requests) == [FIRST]
    assert read.rewrite == {SECOND.id}
    newer = a_store(valkey, [a_seal_key(), KEY])
    read = await newer.read("", {})
    assert read is not None
    assert list(read.requests) == [FIRST]
    assert read.rewrite == {FIRST.id, SECOND.id}
