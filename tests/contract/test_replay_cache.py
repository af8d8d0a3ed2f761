"""One suite for what a process remembers and for what all replicas do."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from gateway.domain.errors import StoreUnavailable
from gateway.drivers.valkey.replay_cache import ValkeyReplayCache
from gateway.flow.caller_credentials import ReplayCache
from gateway.flow.local_replay_cache import LocalReplayCache
from tests.contract.test_shared_store import a_valkey
from tests.support.clock import FakeClock
from tests.support.valkey import RealValkey


@dataclass
class Subject:
    cache: ReplayCache
    elapse: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["here", "valkey"])
async def subject(
    request: pytest.FixtureRequest, shared_valkey: RealValkey
) -> AsyncIterator[Subject]:
    if request.param == "here":
        clock = FakeClock()
        yield Subject(LocalReplayCache(clock), clock.advance)
        return
    valkey = a_valkey(shared_valkey)
    assert await valkey.probe()
    yield Subject(ValkeyReplayCache(valkey), asyncio.sleep)
    await valkey.close()


async def test_first_use_is_accepted_once(subject: Subject) -> None:
    assert await subject.cache.use("a", ttl_s=60)
    assert not await subject.cache.use("a", ttl_s=60)
    assert await subject.cache.use("b", ttl_s=60)


async def test_undone_use_may_be_repeated(subject: Subject) -> None:
    assert await subject.cache.use("c", ttl_s=60)
    await subject.cache.undo_use("c")
    await subject.cache.undo_use("never used")
    assert await subject.cache.use("c", ttl_s=60)
    assert not await subject.cache.use("c", ttl_s=60)


async def test_one_of_concurrent_uses_is_accepted(subject: Subject) -> None:
    uses = await asyncio.gather(*(subject.cache.use("a", ttl_s=60) for _ in range(20)))
    assert uses.count(True) == 1


async def test_use_expires_after_its_ttl(subject: Subject) -> None:
    assert await subject.cache.use("a", ttl_s=0.1)
    assert await subject.cache.use("b", ttl_s=600)
    await subject.elapse(0.2)
    assert await subject.cache.use("a", ttl_s=60)
    assert not await subject.cache.use("b", ttl_s=60)


async def test_rejected_use_does_not_extend_the_ttl(subject: Subject) -> None:
    for i in range(20):
        name = f"a{i}"
        assert await subject.cache.use(name, ttl_s=0.3)
        if not await subject.cache.use(name, ttl_s=60):
            break  # else the machine was busy, and the first use has ended
    else:
        pytest.fail("no use is rejected")
    await subject.elapse(0.4)
    assert await subject.cache.use(name, ttl_s=60)


async def test_uses_are_shared_within_a_namespace(
    shared_valkey: RealValkey,
) -> None:
    one, two, stranger = (
        a_valkey(shared_valkey, namespace="t-used"),
        a_valkey(shared_valkey, namespace="t-used"),
        a_valkey(shared_valkey),
    )
    for valkey in (one, two, stranger):
        assert await valkey.probe()
    assert await ValkeyReplayCache(one).use("a", ttl_s=600)
    assert not await ValkeyReplayCache(two).use("a", ttl_s=600)
    assert await ValkeyReplayCache(stranger).use("a", ttl_s=600)
    for valkey in (one, two, stranger):
        await valkey.close()


async def test_unavailable_replay_cache_raises(own_valkey: RealValkey) -> None:
    valkey = a_valkey(own_valkey)
    with pytest.raises(StoreUnavailable):
        await ValkeyReplayCache(valkey).use("a", ttl_s=600)
    await valkey.close()
