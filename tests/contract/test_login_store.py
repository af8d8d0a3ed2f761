"""Logins and sessions of browsers in a real Valkey."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import pytest

from gateway.domain.login.model import BrowserSession, LoginAttempt
from gateway.domain.model import Principal
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.login_store import ValkeyLoginStore
from gateway.flow.login.login_store import (
    PAGE_MAX,
    SESSIONS_PER_PERSON_MAX,
    LapsedLogin,
    LapsedLogins,
    SessionIndex,
)
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.login_sessions import browser_sessions
from tests.support.valkey import RealValkey

ATTEMPT = LoginAttempt("corp", "a-nonce", "a-verifier", "/console", "", needs_fresh=False)
BY_SUBJECT = SessionIndex("corp", "", "sub-olga")


def a_session(name: str = "s", *, sid: str = "sid-1", subject: str = "olga") -> BrowserSession:
    session_id = sha256(name.encode()).hexdigest()
    return BrowserSession(
        id=session_id,
        person=Principal("corp", subject, frozenset({"operators"}), 1.0, 2.0, None),
        provider_subject=f"sub-{subject}",
        provider_session=sid,
        csrf_token="a-csrf-token",
        started_at=1.0,
        authenticated_at=1.0,
        lineage=session_id,
        id_token="an-id-token",
        refresh_token="a-refresh-token",
    )


@dataclass
class Redis:
    valkey: Valkey
    store: ValkeyLoginStore
    namespace: str

    async def add(
        self, session: BrowserSession, *, lifetime_s: float = 60.0, idle_s: float = 60.0
    ) -> tuple[BrowserSession, ...]:
        return await self.store.add_session(session, lifetime_s=lifetime_s, idle_s=idle_s)

    async def content(self) -> bytes:
        client: Any = self.valkey._client
        found = b""
        async for key in client.scan_iter(f"{self.namespace}:*"):
            kind = await client.type(key)
            if kind == b"string":
                found += key + await client.get(key)
            elif kind == b"hash":
                found += key + repr(await client.hgetall(key)).encode()
            else:
                found += key + repr(await client.zrange(key, 0, -1)).encode()
        return found


@pytest.fixture
async def redis(shared_valkey: RealValkey) -> AsyncIterator[Redis]:
    namespace = f"l-{secrets.token_hex(4)}"
    valkey = a_valkey(shared_valkey, namespace=namespace)
    assert await valkey.probe()
    yield Redis(valkey, ValkeyLoginStore(valkey, Sealer([a_seal_key()])), namespace)
    await valkey.close()


async def test_attempt_is_taken_once(redis: Redis) -> None:
    await redis.store.add_attempt(b"key", ATTEMPT, lifetime_s=60)
    assert await redis.store.take_attempt(b"other") is None
    taken = await asyncio.gather(*(redis.store.take_attempt(b"key") for _ in range(5)))
    assert [one for one in taken if one is not None] == [ATTEMPT]


async def test_attempt_and_session_expire(redis: Redis) -> None:
    await redis.store.add_attempt(b"key", ATTEMPT, lifetime_s=0.01)
    await redis.add(a_session(), lifetime_s=0.01)
    await asyncio.sleep(0.05)
    assert await redis.store.take_attempt(b"key") is None
    assert await redis.store.find_session(a_session().id, is_activity=True) is None
    assert await redis.store.sessions(BY_SUBJECT) == ()


async def test_idle_session_ends_unless_the_person_is_active(redis: Redis) -> None:
    """Requests that the page sends by itself do not prolong a session."""

    async def find(*, is_activity: bool) -> BrowserSession | None:
        await asyncio.sleep(0.05)
        return await redis.store.find_session(a_session().id, is_activity=is_activity)

    async def idle_ends_at() -> float:
        (found,) = (await redis.store.page(None, before="", limit=100)).logins
        return found.idle_ends_at

    await redis.add(a_session(), idle_s=600.0)
    first = await idle_ends_at()
    assert await find(is_activity=False) == a_session()
    assert await idle_ends_at() == first
    assert await find(is_activity=True) == a_session()
    assert await idle_ends_at() > first
    assert await redis.store.end_session(a_session().id) == a_session()
    await redis.add(a_session(), idle_s=0.3)
    async with asyncio.timeout(60):
        while await find(is_activity=False) is not None:
            pass
    assert not await redis.store.replace_session(a_session())
    assert await redis.store.end_session(a_session().id) is None


async def test_session_that_ends_by_a_limit_is_returned_once(redis: Redis) -> None:
    """To one of all replicas; before that no cookie finds it. Nothing of it remains."""
    idle, over, here = a_session("idle"), a_session("over"), a_session("here")
    await redis.add(idle, idle_s=0.01)
    await redis.add(over, lifetime_s=0.01)
    await redis.add(here)
    found = list[LapsedLogin]()
    async with asyncio.timeout(60):
        while len(found) < 2:
            batches = [redis.store.end_lapsed(limit=1) for _ in range(5)]
            found += [one for batch in await asyncio.gather(*batches) for one in batch.logins]
    assert {one.limit: one.session for one in found} == {"idle": idle, "absolute": over}
    assert all(one.ended_at > 1_700_000_000 for one in found)
    assert await redis.store.end_lapsed(limit=10) == LapsedLogins((), is_last=True)
    assert await redis.store.sessions(BY_SUBJECT) == (here,)
    content = await redis.content()
    assert here.id.encode() in content
    assert idle.id.encode() not in content
    assert over.id.encode() not in content


async def test_session_that_waits_for_its_record_has_ended(redis: Redis) -> None:
    await redis.add(a_session(), lifetime_s=0.01)
    async with asyncio.timeout(60):
        while await redis.store.find_session(a_session().id, is_activity=True) is not None:
            pass
    assert not await redis.store.replace_session(a_session())
    assert await redis.store.end_session(a_session().id) is None
    assert (await redis.store.page(None, before="", limit=10)).logins == ()
    (lapsed,) = (await redis.store.end_lapsed(limit=10)).logins
    assert lapsed.session == a_session()


async def test_active_session_is_due_again_at_its_new_end(redis: Redis) -> None:
    client: Any = redis.valkey._client
    await redis.add(a_session(), lifetime_s=6000.0, idle_s=600.0)
    (due,) = [one async for one in client.scan_iter(f"{redis.namespace}:*:due")]
    first = await client.zscore(due, a_session().id)
    await client.zadd(due, {a_session().id: 1.0})  # the time comes, and the person was active
    assert await redis.store.end_lapsed(limit=1) == LapsedLogins((), is_last=False)
    assert await redis.store.end_lapsed(limit=1) == LapsedLogins((), is_last=True)
    assert await client.zscore(due, a_session().id) == first
    assert await redis.store.end_session(a_session().id) == a_session()
    assert await client.zcard(due) == 0


async def test_indexes_forget_sessions_that_have_expired(redis: Redis) -> None:
    """Those of a person that logs in again and again, and of a session at the provider."""
    client: Any = redis.valkey._client
    for i in range(20):
        await redis.add(a_session(f"old-{i}"), lifetime_s=0.01)
        await asyncio.sleep(0.02)
        await redis.add(a_session("new"))
    indexes = [key async for key in client.scan_iter(f"{redis.namespace}:*:of:*")]
    assert len(indexes) == 4
    for key in (*indexes, *[key async for key in client.scan_iter(f"{redis.namespace}:*:all")]):
        assert await client.zcard(key) <= 2


async def test_logins_of_a_person_with_several_subjects_are_all_found(redis: Redis) -> None:
    """The policy may know several subjects of the provider as one person."""
    count = PAGE_MAX + 1
    for i in range(count):
        session = replace(a_session(f"s-{i}"), provider_subject=f"sub-{i % 9}")
        await redis.add(session)
    found = {
        one.session.id
        for one in await browser_sessions(None, store=redis.store).of_person("olga", "corp")
    }
    assert found == {a_session(f"s-{i}").id for i in range(count)}


async def test_login_is_open_until_its_last_session_has_ended(redis: Redis) -> None:
    """A new login of the same person in the same browser replaces the session."""
    first = a_session("a")
    second = replace(a_session("b"), lineage=first.lineage)
    for one in (first, second):
        await redis.add(one)
    sessions = browser_sessions(None, store=redis.store)
    assert not await sessions.is_open("other", first.lineage)
    assert not await sessions.is_open("corp", second.id)
    await redis.store.end_session(first.id)
    assert await sessions.is_open("corp", first.lineage)
    await redis.store.end_session(second.id)
    assert not await sessions.is_open("corp", first.lineage)


async def test_session_ends_for_one_caller(redis: Redis) -> None:
    await redis.add(a_session())
    ended = await asyncio.gather(*(redis.store.end_session(a_session().id) for _ in range(5)))
    assert [one for one in ended if one is not None] == [a_session()]
    assert await redis.store.sessions(BY_SUBJECT) == ()


async def test_sessions_are_found_by_provider_session_and_by_subject(redis: Redis) -> None:
    first, second = a_session("a", sid="sid-1"), a_session("b", sid="sid-2")
    for one in (first, second, a_session("c", sid="sid-3", subject="victor")):
        await redis.add(one)
        await asyncio.sleep(0.01)
    assert await redis.store.sessions(SessionIndex("corp", "sid-2", "sub-olga")) == (second,)
    assert await redis.store.sessions(BY_SUBJECT) == (first, second)
    assert await redis.store.sessions(SessionIndex("other", "sid-1", "")) == ()
    assert await redis.store.sessions(SessionIndex("corp", "", "sid-1")) == ()


async def test_pages_have_every_session_once_and_the_newest_first(redis: Redis) -> None:
    """Also those that begin in one millisecond; a session that ends meanwhile moves no other."""
    names = [f"s{i}" for i in range(12)]
    for name in names:
        await redis.add(a_session(name, sid="", subject=name))
    seen, before = list[str](), ""
    for _ in range(3):
        page = await redis.store.page(None, before=before, limit=4)
        seen += [one.session.person.subject for one in page.logins]
        await redis.store.end_session(page.logins[0].session.id)
        before = page.next
    assert before == ""
    assert seen == names[::-1]
    rest = await redis.store.page(None, before="", limit=100)
    assert (len(rest.logins), rest.next) == (9, "")


async def test_page_has_times_and_only_sessions_that_go_on(redis: Redis) -> None:
    await redis.add(a_session("idle", subject="ida"), idle_s=0.01)
    await redis.add(a_session("over", subject="otto"), lifetime_s=0.01)
    await redis.add(a_session("here"), idle_s=30.0)
    await asyncio.sleep(0.05)
    (found,) = (await redis.store.page(None, before="", limit=100)).logins
    await asyncio.sleep(0.01)
    assert found.session == a_session("here")
    assert found.idle_ends_at == found.used_at + 30.0
    await redis.store.find_session(found.session.id, is_activity=True)
    (later,) = (await redis.store.page(None, before="", limit=100)).logins
    assert later.used_at > found.used_at


async def test_page_of_a_person_has_no_other(redis: Redis) -> None:
    """By the subject of the policy, which may be another claim than the provider's subject."""
    session = replace(a_session("a"), provider_subject="4711")
    for one in (session, a_session("b", subject="victor")):
        await redis.add(one)
    page = await redis.store.page(SessionIndex("corp", subject="olga"), before="", limit=100)
    assert [one.session for one in page.logins] == [session]
    for other in (SessionIndex("corp", subject="4711"), SessionIndex("other", subject="olga")):
        assert (await redis.store.page(other, before="", limit=100)).logins == ()


async def test_index_of_all_forgets_sessions_that_have_ended(redis: Redis) -> None:
    """It does not grow with the logins of a day, also without a list."""
    for i in range(20):
        await redis.add(a_session(f"short{i}", sid="", subject=f"p{i}"), lifetime_s=0.01)
    await asyncio.sleep(0.05)
    for i in range(8):
        await redis.add(a_session(f"new{i}", sid="", subject=f"q{i}"))
    client: Any = redis.valkey._client
    (name,) = [one async for one in client.scan_iter(f"{redis.namespace}:*:all")]
    assert await client.zcard(name) == 8


async def test_too_many_sessions_end_the_oldest(redis: Redis) -> None:
    for i in range(SESSIONS_PER_PERSON_MAX):
        assert await redis.add(a_session(f"s{i}", sid="")) == ()
        if i == 0:
            await asyncio.sleep(0.01)
    assert await redis.add(a_session("new", sid="")) == (a_session("s0", sid=""),)


async def test_replacement_keeps_the_time_limits(redis: Redis) -> None:
    client: Any = redis.valkey._client

    async def left_ms() -> int:
        keys = [key async for key in client.scan_iter(f"{redis.namespace}:*")]
        (session,) = [key for key in keys if await client.type(key) == b"hash"]
        return int(await client.pttl(session))

    await redis.add(a_session(), lifetime_s=600.0)
    await asyncio.sleep(0.01)
    before, changed = await left_ms(), replace(a_session(), refresh_token="another")
    assert await redis.store.replace_session(changed)
    assert await redis.store.find_session(changed.id, is_activity=False) == changed
    assert 0 < await left_ms() <= before


async def test_one_caller_refreshes(redis: Redis) -> None:
    leases = [redis.store.lease_refresh(a_session().id, lease_s=600) for _ in range(5)]
    assert sorted(await asyncio.gather(*leases)) == [False, False, False, False, True]


async def test_redis_sees_no_person_and_no_token(redis: Redis) -> None:
    await redis.store.add_attempt(b"key", ATTEMPT, lifetime_s=60)
    await redis.add(a_session())
    content = await redis.content()
    assert len(content) > 500
    for text in (
        "olga", "operators", "sid-1", "corp", "a-nonce", "a-verifier", "/console",
        "a-csrf-token", "an-id-token", "a-refresh-token",
    ):  # fmt: skip
        assert text.encode() not in content, text


async def test_session_under_another_id_is_no_session(redis: Redis) -> None:
    """A record that a writer of Redis copies to another ID does not open."""
    await redis.add(a_session())
    client: Any = redis.valkey._client
    (key,) = [one async for one in client.scan_iter(f"{redis.namespace}:*session:*")]
    forged = sha256(b"cookie of the attacker").hexdigest()
    await client.copy(key, key.replace(a_session().id.encode(), forged.encode()))
    assert await redis.store.find_session(forged, is_activity=False) is None
    assert await redis.store.find_session(a_session().id, is_activity=False) is not None


async def test_stores_of_two_listeners_share_nothing(redis: Redis) -> None:
    """Neither finds the other's entries, also where they are copied to the key it looks at."""
    sealer = Sealer([a_seal_key()])
    public = ValkeyLoginStore(redis.valkey, sealer)
    admin = ValkeyLoginStore(redis.valkey, sealer, "admin-login")
    session = a_session()
    for here, there, names in (
        (public, admin, ("login", "admin-login")),
        (admin, public, ("admin-login", "login")),
    ):
        await here.add_session(session, lifetime_s=60, idle_s=60)
        await here.add_attempt(b"key", ATTEMPT, lifetime_s=60)
        assert await there.find_session(session.id, is_activity=True) is None
        assert await there.sessions(BY_SUBJECT) == ()
        assert await there.take_attempt(b"key") is None
        client: Any = redis.valkey._client
        own, other = (redis.valkey.key(name, tag=name) for name in names)
        for kind in (f"session:{session.id}", f"attempt:{b'key'.hex()}"):
            assert await client.copy(f"{own}:{kind}", f"{other}:{kind}")
        assert await there.find_session(session.id, is_activity=True) is None
        assert await there.take_attempt(b"key") is None
        assert await here.find_session(session.id, is_activity=True) == session
        await client.delete(f"{other}:session:{session.id}")
        assert await here.take_attempt(b"key") == ATTEMPT
        assert await here.end_session(session.id) == session
