"""One suite for the fake and for the real store: the fake earns its trust here."""

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from gateway.config.store import RedisServer, StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import Secret
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey import shared_store
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.shared_store import ValkeySharedStore
from gateway.flow.shared_store import (
    ANY_VERSION,
    HolderFailed,
    LeaseAcquired,
    LeaseHeld,
    SharedStore,
    StoredValue,
)
from tests.support.budget_queues import until_listening
from tests.support.clock import FakeClock
from tests.support.shared_store import FakeSharedStore
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey
from tests.support.waiting import until

FAR = 4e9
"""By the store's clock."""


def a_seal_key() -> Secret:
    return Secret(base64.b64encode(os.urandom(32)).decode())


def a_valkey(server: RealValkey, *, namespace: str = "", timeout_s: float = 10.0) -> Valkey:
    store = StoreSettings(
        redis=RedisServer(url=server.url),
        seal_keys=(a_seal_key(),),
        namespace=namespace or f"t-{secrets.token_hex(4)}",
        timeout_s=timeout_s,
        connect_timeout_s=10.0,
    )
    return Valkey(
        store,
        client_factory(store),
        process_id=secrets.token_hex(4),
        clock=SystemClock(),
        telemetry=RecordingTelemetry(),
    )


@dataclass
class Subject:
    store: SharedStore
    elapse: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["fake", "valkey"])
async def subject(
    request: pytest.FixtureRequest, shared_valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Subject]:
    if request.param == "fake":
        clock = FakeClock()
        yield Subject(FakeSharedStore(clock), clock.advance)
        return
    monkeypatch.setattr(shared_store, "_FAILURE_TTL_MS", 600_000)  # the machine may be busy
    valkey = a_valkey(shared_valkey)
    store = ValkeySharedStore(valkey, Sealer([a_seal_key()]))
    assert await valkey.probe()
    running = asyncio.create_task(valkey.run_subscription())
    await until_listening(valkey)
    yield Subject(store, asyncio.sleep)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await valkey.close()


async def test_second_claim_sees_the_lease_holder(
    subject: Subject,
) -> None:
    assert isinstance(await subject.store.claim("k", owner="a", lease_s=600), LeaseAcquired)
    second = await subject.store.claim("k", owner="b", lease_s=600)
    assert isinstance(second, LeaseHeld)
    assert second.holder == "a"
    assert 500 < second.lease_left_s <= 600
    assert second.version == b""


async def test_busy_lease_names_the_stored_version(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    await subject.store.publish("k", owner="a", value=b"one", ttl_s=6_000, until=FAR)
    found = await subject.store.claim("k", owner="b", lease_s=600)
    assert isinstance(found, StoredValue)
    await subject.store.claim("k", owner="b", lease_s=600, skip=ANY_VERSION)
    busy = await subject.store.claim("k", owner="c", lease_s=600, skip=ANY_VERSION)
    assert isinstance(busy, LeaseHeld)
    assert busy.version == found.version


async def test_published_value_has_its_ttl(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    assert await subject.store.publish("k", owner="a", value=b"link", ttl_s=6_000, until=FAR)
    found = await subject.store.claim("k", owner="b", lease_s=600)
    assert isinstance(found, StoredValue)
    assert found.value == b"link"
    assert 5_900 < found.ttl_s <= 6_000


async def test_late_publish_expires_by_the_store_clock(
    subject: Subject,
) -> None:
    claimed = await subject.store.claim("k", owner="a", lease_s=600)
    assert isinstance(claimed, LeaseAcquired)
    await subject.elapse(0.1)
    until = claimed.store_time + 2_000
    assert await subject.store.publish("k", owner="a", value=b"link", ttl_s=6_000, until=until)
    found = await subject.store.claim("k", owner="b", lease_s=600)
    assert isinstance(found, StoredValue)
    assert 1_900 < found.ttl_s <= 1_999.9


async def test_expired_publish_stores_nothing(
    subject: Subject,
) -> None:
    claimed = await subject.store.claim("k", owner="a", lease_s=600)
    assert isinstance(claimed, LeaseAcquired)
    await subject.elapse(0.1)
    until = claimed.store_time + 0.05
    assert await subject.store.publish("k", owner="a", value=b"link", ttl_s=6_000, until=until)
    assert isinstance(await subject.store.claim("k", owner="b", lease_s=600), LeaseAcquired)


async def test_value_expires_after_its_ttl(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    await subject.store.publish("k", owner="a", value=b"link", ttl_s=0.02, until=FAR)
    await subject.elapse(0.04)
    assert isinstance(await subject.store.claim("k", owner="b", lease_s=600), LeaseAcquired)


async def test_publish_requires_the_lease(subject: Subject) -> None:
    await subject.store.claim("k", owner="slow", lease_s=0.02)
    await subject.elapse(0.04)
    assert isinstance(await subject.store.claim("k", owner="next", lease_s=600), LeaseAcquired)
    assert not await subject.store.publish("k", owner="slow", value=b"old", ttl_s=6_000, until=FAR)
    assert await subject.store.publish("k", owner="next", value=b"new", ttl_s=6_000, until=FAR)
    found = await subject.store.claim("k", owner="c", lease_s=600)
    assert isinstance(found, StoredValue)
    assert found.value == b"new"


async def test_only_the_owner_extends_a_lease(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    assert not await subject.store.extend("k", owner="b", lease_s=6_000)
    assert await subject.store.extend("k", owner="a", lease_s=1_200)
    busy = await subject.store.claim("k", owner="b", lease_s=9_000)
    assert isinstance(busy, LeaseHeld)
    assert 1_100 < busy.lease_left_s <= 1_200


async def test_skipped_version_counts_as_absent(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    await subject.store.publish("k", owner="a", value=b"one", ttl_s=6_000, until=FAR)
    found = await subject.store.claim("k", owner="b", lease_s=600)
    assert isinstance(found, StoredValue)
    assert isinstance(
        await subject.store.claim("k", owner="b", lease_s=600, skip=found.version), LeaseAcquired
    )
    await subject.store.publish("k", owner="b", value=b"two", ttl_s=6_000, until=FAR)
    again = await subject.store.claim("k", owner="c", lease_s=600, skip=found.version)
    assert isinstance(again, StoredValue)
    assert again.value == b"two"


async def test_any_version_can_be_skipped(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    await subject.store.publish("k", owner="a", value=b"one", ttl_s=6_000, until=FAR)
    assert isinstance(
        await subject.store.claim("k", owner="b", lease_s=600, skip=ANY_VERSION), LeaseAcquired
    )


async def test_failure_is_returned_to_its_waiters_only(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    await subject.store.fail("k", owner="a", failure=b"no luck")
    assert await subject.store.claim("k", owner="b", lease_s=600, awaited="a") == HolderFailed(
        b"no luck"
    )
    assert isinstance(await subject.store.claim("k", owner="c", lease_s=600), LeaseAcquired)


async def test_abandoned_lease_is_free_at_once(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    await subject.store.abandon("k", owner="a")
    assert isinstance(
        await subject.store.claim("k", owner="b", lease_s=600, awaited="a"), LeaseAcquired
    )


@pytest.mark.parametrize("end", ["publish", "fail", "abandon"])
async def test_any_end_of_a_fetch_wakes_waiters(subject: Subject, end: str) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    with subject.store.watch("k") as changed, subject.store.watch("other") as unrelated:
        assert isinstance(await subject.store.claim("k", owner="b", lease_s=600), LeaseHeld)
        match end:
            case "publish":
                await subject.store.publish("k", owner="a", value=b"link", ttl_s=6_000, until=FAR)
            case "fail":
                await subject.store.fail("k", owner="a", failure=b"no")
            case _:
                await subject.store.abandon("k", owner="a")
        await asyncio.wait_for(changed.wait(), 60)
        assert not unrelated.is_set()


async def test_holder_receives_messages(subject: Subject) -> None:
    await subject.store.claim("k", owner="a", lease_s=600)
    mine: list[tuple[str, bytes]] = []
    other: list[tuple[str, bytes]] = []

    def receive(sender: str, text: bytes) -> None:
        mine.append((sender, text))

    with (
        subject.store.watch("k", receive) as changed,
        subject.store.watch("k"),
        subject.store.watch("other", lambda *reported: other.append(reported)),
    ):
        await subject.store.notify_holder("k", sender="b", text=b"two \xff words")
        await until(lambda: mine)
        assert not changed.is_set(), "it is no end of the fetch"
    await subject.store.notify_holder("k", sender="b", text=b"too late")
    await subject.elapse(0.05)
    assert (mine, other) == ([("b", b"two \xff words")], [])


async def test_messages_are_encrypted(
    shared_valkey: RealValkey,
) -> None:
    valkey = a_valkey(shared_valkey)
    key = a_seal_key()
    store, stranger = (ValkeySharedStore(valkey, Sealer([one])) for one in (key, a_seal_key()))
    assert await valkey.probe()
    messages: list[bytes] = []
    valkey.on_message(messages.append)
    listening = asyncio.create_task(valkey.run_subscription())
    await until_listening(valkey)
    on_message: list[bytes] = []
    with stranger.watch("link:server-canary", lambda _, text: on_message.append(text)):
        await store.notify_holder("link:server-canary", sender="b", text=b"olga")
        await until(lambda: messages)
        client = client_factory(
            StoreSettings(redis=RedisServer(url=shared_valkey.url), seal_keys=(key,))
        )()
        for made_up in (b"notify ", b"notify \xff \xff \xff", messages[0][:47] + b"\xff made up"):
            await client.publish(valkey.channel, made_up)
        await until(lambda: len(messages) == 4)
    assert b"olga" not in messages[0]
    assert b"canary" not in messages[0]
    assert on_message == [], "sealed with a key that it does not hold"
    assert not listening.done(), "a message cannot stop it"
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await client.aclose()
    await valkey.close()


async def test_server_stores_no_plaintext(shared_valkey: RealValkey) -> None:
    valkey = a_valkey(shared_valkey, namespace="canary")
    store = ValkeySharedStore(valkey, Sealer([a_seal_key()]))
    assert await valkey.probe()
    await store.claim("link:olga:server-canary", owner="a", lease_s=600)
    await store.publish(
        "link:olga:server-canary", owner="a", value=b"url-canary", ttl_s=6_000, until=FAR
    )
    await store.claim("link:olga:other", owner="a", lease_s=600)
    await store.fail("link:olga:other", owner="a", failure=b"failure-canary")
    client = client_factory(
        StoreSettings(redis=RedisServer(url=shared_valkey.url), seal_keys=(a_seal_key(),))
    )()
    stored = b""
    async for name in client.scan_iter("canary*"):
        stored += name
        if await client.type(name) == b"string":
            stored += await client.get(name) or b""
    assert stored
    for canary in (b"url-canary", b"failure-canary", b"olga", b"server-canary"):
        assert canary not in stored
    await client.aclose()
    await valkey.close()


async def test_value_under_another_key_is_unreadable(shared_valkey: RealValkey) -> None:
    valkey = a_valkey(shared_valkey)
    sealer = Sealer([a_seal_key()])
    store = ValkeySharedStore(valkey, sealer)
    assert await valkey.probe()
    await store.claim("mine", owner="a", lease_s=600)
    await store.publish("mine", owner="a", value=b"link", ttl_s=6_000, until=FAR)
    client = client_factory(
        StoreSettings(redis=RedisServer(url=shared_valkey.url), seal_keys=(a_seal_key(),))
    )()
    (mine, *_), (yours, *_) = store._names("mine"), store._names("yours")
    await client.set(yours, await client.get(mine) or b"")
    assert isinstance(await store.claim("yours", owner="b", lease_s=600), LeaseAcquired)
    await client.aclose()
    await valkey.close()


async def test_hung_server_is_unavailable_within_timeout(own_valkey: RealValkey) -> None:
    valkey = a_valkey(own_valkey, timeout_s=0.2)
    store = ValkeySharedStore(valkey, Sealer([a_seal_key()]))
    while not await valkey.probe():
        pass
    own_valkey.hang()
    with pytest.raises(StoreUnavailable):
        async with asyncio.timeout(60):
            await store.claim("k", owner="a", lease_s=600)
    assert not valkey.available
    own_valkey.resume()
    claimed = None
    while claimed is None:  # on a busy machine, a call may take longer than the timeout
        await valkey.probe()
        with suppress(StoreUnavailable):
            claimed = await store.claim("k", owner="b", lease_s=600)
    await valkey.close()


async def test_full_server_recovers_with_free_memory(own_valkey: RealValkey) -> None:
    valkey = a_valkey(own_valkey)
    store = ValkeySharedStore(valkey, Sealer([a_seal_key()]))
    assert await valkey.probe()
    client = client_factory(
        StoreSettings(redis=RedisServer(url=own_valkey.url), seal_keys=(a_seal_key(),))
    )()
    await client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable):
        await store.claim("k", owner="a", lease_s=600)
    assert not await valkey.probe()
    await client.config_set("maxmemory", "0")
    assert await valkey.probe()
    assert isinstance(await store.claim("k", owner="a", lease_s=600), LeaseAcquired)
    await client.aclose()
    await valkey.close()


async def test_cancelled_command_does_not_answer_the_next(own_valkey: RealValkey) -> None:
    """CVE-2023-28858: the reply of a cancelled call must not reach another caller."""
    valkey = a_valkey(own_valkey)
    store = ValkeySharedStore(valkey, Sealer([a_seal_key()]))
    assert await valkey.probe()
    for name in ("ann", "bob"):
        await store.claim(name, owner=name, lease_s=600)
        await store.publish(name, owner=name, value=name.encode(), ttl_s=6_000, until=FAR)
    for steps in range(60):
        requesting = asyncio.create_task(store.claim("ann", owner="x", lease_s=600))
        for _ in range(steps % 12):
            await asyncio.sleep(0)
        requesting.cancel()
        found = await store.claim("bob", owner="y", lease_s=600)
        assert isinstance(found, StoredValue)
        assert found.value == b"bob"
        await asyncio.gather(requesting, return_exceptions=True)
    await valkey.close()
