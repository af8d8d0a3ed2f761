"""The content of Redis for tickets and sessions, and the limits of forged entries."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.console_store import ValkeyConsoleStore
from gateway.flow.consoles.console_store import (
    Attached,
    CommandKind,
    Redeemed,
    SessionCommand,
    SessionGone,
    StaleKey,
    TakeOver,
    TicketGone,
)
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.clock import FakeClock
from tests.support.consoles import LIMITS, SERVER, a_session, a_ticket, hash_of
from tests.support.valkey import RealValkey

SESSION = a_session("s", "a-subject")
TICKET = a_ticket("a-subject")


@dataclass
class Redis:
    valkey: Valkey
    store: ValkeyConsoleStore
    clock: FakeClock
    namespace: str

    async def values(self) -> dict[bytes, bytes]:
        """Return every key with its value as bytes."""
        client, found = self.valkey._client, {}
        async for key in client.scan_iter(f"{self.namespace}:*"):
            kind = await client.type(key)
            if kind == b"string":
                found[key] = await client.get(key)
            elif kind == b"hash":
                found[key] = b" ".join(b"=".join(it) for it in (await client.hgetall(key)).items())
            else:
                found[key] = b" ".join(await client.zrange(key, 0, -1))
        return found

    async def key(self, part: str) -> bytes:
        (key,) = [one for one in await self.values() if part.encode() in one]
        return key


@pytest.fixture
async def redis(shared_valkey: RealValkey, clock: FakeClock) -> AsyncIterator[Redis]:
    namespace = f"c-{secrets.token_hex(4)}"
    valkey = a_valkey(shared_valkey, namespace=namespace)
    assert await valkey.probe()
    store = ValkeyConsoleStore(valkey, Sealer([a_seal_key()]), clock)
    yield Redis(valkey, store, clock, namespace)
    await valkey.close()


async def issue(redis: Redis) -> None:
    await redis.store.add_ticket(hash_of("t"), TICKET, per_person_max=10, lifetime_s=60)


async def redeem(redis: Redis) -> object:
    return await redis.store.redeem(
        hash_of("t"), SESSION, hash_of("key"), LIMITS, take_over=TakeOver.NONE
    )


async def open_session(redis: Redis) -> None:
    await issue(redis)
    found = await redis.store.redeem(
        hash_of("t"), SESSION, hash_of("key"), LIMITS, take_over=TakeOver.NONE
    )
    assert found == Redeemed()


async def attach(redis: Redis, cookie: bytes = SESSION.cookie_hash) -> object:
    return await redis.store.attach(
        SESSION.id, cookie, hash_of("key"), hash_of("next"), owner="p1", lease_s=600
    )


async def test_redis_sees_neither_person_nor_server(redis: Redis) -> None:
    await open_session(redis)
    await issue(redis)
    assert isinstance(await attach(redis), Attached)
    await redis.store.command(SessionCommand(SESSION.id, CommandKind.WATCHERS))
    entries = await redis.values()
    assert len(entries) >= 8
    text = b"\n".join((*entries.keys(), *entries.values()))
    for clear in ("a-subject", SERVER, SESSION.person.issuer, "watchers", "192.0.2"):
        assert clear.encode() not in text, clear
    assert SESSION.id.encode() in text


async def test_ticket_of_another_name_does_not_open(redis: Redis) -> None:
    await issue(redis)
    client, key = redis.valkey._client, await redis.key(":ticket:")
    await client.set(
        key.replace(hash_of("t").hex().encode(), hash_of("x").hex().encode()), await client.get(key)
    )
    assert await redis.store.find_ticket(hash_of("x")) is None
    assert await redis.store.find_ticket(hash_of("t")) is not None


async def test_cookie_that_was_put_into_redis_opens_nothing(redis: Redis) -> None:
    await open_session(redis)
    key = await redis.key(f":session:{SESSION.id}")
    await redis.valkey._client.hset(key, "cookie", hash_of("forged").hex())
    assert await attach(redis, hash_of("forged")) == StaleKey()


async def test_record_of_another_session_opens_nothing(redis: Redis) -> None:
    await open_session(redis)
    other = replace(a_session("other", "somebody"), id=secrets.token_hex(16))
    key = await redis.key(f":session:{SESSION.id}")
    forged = redis.store._seal("session", other.id, other)
    await redis.valkey._client.hset(key, "record", forged)
    assert await attach(redis) == SessionGone()


async def test_command_for_another_session_ends_nothing(redis: Redis) -> None:
    """A writer to Redis cannot send one session's command to the owner of another."""
    await open_session(redis)
    await attach(redis)
    end = SessionCommand(SESSION.id, CommandKind.END, "operator")
    await redis.store.command(end)
    client, key = redis.valkey._client, await redis.key(":commands:p1")
    (sent,) = await client.zrange(key, 0, -1)
    other = secrets.token_hex(16).encode()
    await client.zadd(key, {sent.replace(SESSION.id.encode(), other): 1})
    assert await redis.store.take_commands("p1") == (end,)


async def test_ticket_from_before_a_clock_that_was_set_back_is_gone(redis: Redis) -> None:
    await issue(redis)
    client, key = redis.valkey._client, await redis.key(":ticket:")
    value = await client.get(key)
    await client.set(key, b"%013d" % (int(value[:13]) + 3_600_000) + value[13:], keepttl=True)
    assert await redis.store.find_ticket(hash_of("t")) is None
    found = await redis.store.redeem(
        hash_of("t"), SESSION, hash_of("key"), LIMITS, take_over=TakeOver.NONE
    )
    assert found == TicketGone()


async def test_session_must_seem_dead_for_a_while_before_it_is_claimed(redis: Redis) -> None:
    """A clock of Redis that jumps ahead must not end sessions whose owner is alive."""
    await open_session(redis)
    await attach(redis)
    await redis.valkey._client.zadd(await redis.key(":until"), {SESSION.id: 1})
    assert await redis.store.claim_dead() == ()
    await redis.clock.advance(5)
    renewed = await redis.store.renew("p1", frozenset({SESSION.id}), lease_s=600)
    assert not renewed.lost | renewed.missing
    await redis.clock.advance(60)
    assert await redis.store.claim_dead() == ()
    await redis.valkey._client.zadd(await redis.key(":until"), {SESSION.id: 1})
    assert await redis.store.claim_dead() == ()
    await redis.clock.advance(10)
    (dead,) = await redis.store.claim_dead()
    assert (dead.session, dead.end) == (SESSION, "owner_lost")


async def test_one_of_two_replicas_claims_a_dead_session(redis: Redis) -> None:
    redis.store._resume_within_s = 0.2
    await open_session(redis)
    others = [
        ValkeyConsoleStore(
            redis.valkey, redis.store._sealer, SystemClock(), resume_within_s=0.2, dead_for_s=0
        )
        for _ in range(4)
    ]
    await asyncio.sleep(0.3)
    claims = await asyncio.gather(*(one.claim_dead() for one in others))
    assert sorted(len(one) for one in claims) == [0, 0, 0, 1]
    assert await redis.store.sessions() == ()


async def test_two_thousand_leases_are_renewed(redis: Redis) -> None:
    ids = frozenset(secrets.token_hex(16) for _ in range(1_999)) | {SESSION.id}
    await open_session(redis)
    await attach(redis)
    renewed = await redis.store.renew("p1", ids, lease_s=600)
    assert renewed.missing == ids - {SESSION.id}
