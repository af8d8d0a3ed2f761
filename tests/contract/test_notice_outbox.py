"""The port NoticeOutbox: one suite for the fake and for Valkey; and the sender over HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network

import pytest
from aiohttp import web
from redis.asyncio import Redis

from gateway.config.egress import EgressSettings
from gateway.domain.model import Secret
from gateway.domain.requests.notices import Notice
from gateway.drivers.crypto.sealed_requests import SealedRequests
from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.valkey import notice_outbox
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.notice_outbox import ValkeyNoticeOutbox
from gateway.drivers.valkey.request_store import ValkeyRequestStore
from gateway.drivers.webhooks.http_webhooks import open_webhooks
from gateway.flow.requests.webhooks import NoticeOutbox
from tests.contract.test_shared_store import a_seal_key
from tests.support.access_requests import an_access_request, changed
from tests.support.notice_outbox import FakeNoticeOutbox
from tests.support.valkey import RealValkey

REQUEST = an_access_request()
LOOPBACK = [ip_network("127.0.0.0/8")]


def a_notice(name: str, at: float = 1_000.0, *, webhook: str = "") -> Notice:
    """Return a notice in a lane of its own, or in that of a webhook."""
    return Notice(
        id=f"msg_{name}", webhook=webhook or name, event="requested", request=REQUEST, at=at
    )


@dataclass
class Subject:
    outbox: NoticeOutbox
    add: Callable[[Sequence[Notice]], Awaitable[None]]


@pytest.fixture(params=["fake", "valkey"])
def subject(request: pytest.FixtureRequest, valkey: Valkey) -> Subject:
    if request.param == "fake":
        fake = FakeNoticeOutbox()

        async def add_to_fake(notices: Sequence[Notice]) -> None:
            fake.add(notices)

        return Subject(fake, add_to_fake)
    sealer = Sealer([a_seal_key()])
    outbox = ValkeyNoticeOutbox(valkey, sealer)
    store = ValkeyRequestStore(valkey, SealedRequests(sealer), outbox)

    async def add(notices: Sequence[Notice]) -> None:
        made = changed(REQUEST, id=notices[0].id.encode().hex()[:32].ljust(32, "0"))
        put = await store.put(made, replaces="", at_version="", stored_max=100, notices=notices)
        assert put.revision

    return Subject(outbox, add)


async def test_due_notices_are_claimed_once_until_the_lease_ends(subject: Subject) -> None:
    await subject.add([a_notice("a"), a_notice("b")])
    assert (await subject.outbox.claim(999.0, lease_s=60.0, limit=10)).notices == []
    claimed = await subject.outbox.claim(1_000.0, lease_s=60.0, limit=1)
    assert (len(claimed.notices), claimed.waiting) == (1, 2)
    other = await subject.outbox.claim(1_000.0, lease_s=60.0, limit=10)
    assert {one.id for one in (*claimed.notices, *other.notices)} == {"msg_a", "msg_b"}
    assert not (await subject.outbox.claim(1_059.0, lease_s=60.0, limit=10)).notices
    assert len((await subject.outbox.claim(1_060.0, lease_s=60.0, limit=10)).notices) == 2


async def test_settled_notice_is_removed_or_comes_later(subject: Subject) -> None:
    await subject.add([a_notice("a"), a_notice("b")])
    first, second = (await subject.outbox.claim(1_000.0, lease_s=60.0, limit=10)).notices
    await subject.outbox.remove(first)
    await subject.outbox.retry(changed(second, attempts=1), 2_000.0)
    assert not (await subject.outbox.claim(1_999.0, lease_s=60.0, limit=10)).notices
    later = await subject.outbox.claim(2_000.0, lease_s=60.0, limit=10)
    assert [(one.id, one.attempts) for one in later.notices] == [(second.id, 1)]
    assert later.waiting == 1


async def test_notice_waits_for_the_earlier_ones_of_its_lane(subject: Subject) -> None:
    first, second = a_notice("z", webhook="w"), a_notice("a", 1_001.0, webhook="w")
    await subject.add([first, a_notice("other")])
    await subject.add([second])
    claim = partial(subject.outbox.claim, lease_s=60.0, limit=10)
    claimed = await claim(1_002.0)
    assert {one.id for one in claimed.notices} == {"msg_z", "msg_other"}
    await subject.outbox.retry(changed(first, attempts=1), 2_000.0)
    assert {one.id for one in (await claim(1_999.0)).notices} == {"msg_other"}
    (again,) = (await claim(2_000.0)).notices
    assert again.id == "msg_z"
    assert not (await claim(2_001.0)).notices  # the lease holds its lane, too
    await subject.outbox.remove(again)
    assert [one.id for one in (await claim(2_002.0)).notices] == ["msg_a"]


async def test_settled_notice_does_not_come_back(subject: Subject) -> None:
    """The lease of a slow attempt ended, and another replica delivered the notice."""
    notice = a_notice("a")
    await subject.add([notice])
    await subject.outbox.remove(notice)
    await subject.outbox.retry(changed(notice, attempts=1), 1_005.0)
    assert not (await subject.outbox.claim(2_000.0, lease_s=60.0, limit=10)).notices


async def test_scheduled_notice_waits_for_its_time_and_holds_no_lane(subject: Subject) -> None:
    now, later = a_notice("now", webhook="w"), a_notice("later", 5_000.0, webhook="w")
    await subject.add([now, later])
    claim = partial(subject.outbox.claim, lease_s=60.0, limit=10)
    claimed = await claim(1_000.0)
    assert ([one.id for one in claimed.notices], claimed.waiting) == (["msg_now"], 1)
    await subject.outbox.remove(now)
    assert not (await claim(4_999.0)).notices
    due = await claim(5_000.0)
    assert ([one.id for one in due.notices], due.waiting) == (["msg_later"], 1)
    assert not (await claim(5_001.0)).notices


async def test_dead_notice_is_listed_and_replayed_once(subject: Subject) -> None:
    notice, after = a_notice("a", webhook="w"), a_notice("b", 1_001.0, webhook="w")
    await subject.add([notice])
    await subject.add([after])
    claim = partial(subject.outbox.claim, lease_s=60.0, limit=10)
    await claim(1_002.0)
    await subject.outbox.give_up(changed(notice, attempts=11, error="HTTP 500"), 2_000.0)
    ((dead, given_up_at),) = await subject.outbox.dead()
    assert (dead.id, dead.attempts, dead.error, given_up_at) == ("msg_a", 11, "HTTP 500", 2_000.0)
    (next_one,) = (await claim(2_001.0)).notices
    assert next_one.id == "msg_b"
    await subject.outbox.remove(next_one)
    assert await subject.outbox.replay(dead)
    assert not await subject.outbox.replay(dead)
    assert list(await subject.outbox.dead()) == []
    (again,) = (await claim(3_000.0)).notices
    assert (again.id, again.attempts) == ("msg_a", 0)


async def test_oldest_dead_notices_are_removed(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice_outbox, "_DEAD_MAX", 2)
    sealer = Sealer([a_seal_key()])
    outbox = ValkeyNoticeOutbox(valkey, sealer)
    store = ValkeyRequestStore(valkey, SealedRequests(sealer), outbox)
    notices = [a_notice(name) for name in "abc"]
    await store.put(REQUEST, replaces="", at_version="", stored_max=9, notices=notices)
    for at, one in enumerate(notices):
        await outbox.give_up(one, float(at))
    assert [one.notice.id for one in await outbox.dead()] == ["msg_b", "msg_c"]


async def test_forged_notice_is_removed(valkey: Valkey, shared_valkey: RealValkey) -> None:
    outbox = ValkeyNoticeOutbox(valkey, Sealer([a_seal_key()]))
    notices, due, *_ = outbox.keys
    async with Redis.from_url(shared_valkey.url) as redis:
        await redis.hset(notices, "lane:1.000:msg_x", b"forged")
        await redis.zadd(due, {"lane:1.000:msg_x": 1.0})
    claimed = await outbox.claim(2.0, lease_s=60.0, limit=10)
    assert (list(claimed.notices), claimed.waiting) == ([], 1)
    assert (await outbox.claim(100.0, lease_s=60.0, limit=10)).waiting == 0


@pytest.fixture
async def receiver() -> AsyncIterator[tuple[str, list[web.Request]]]:
    received: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        received.append(request)
        if request.path == "/moved":
            raise web.HTTPFound("/ok")
        return web.Response(status=503, headers={"Retry-After": "120"})

    app = web.Application()
    app.router.add_route("*", "/{path}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}", received
    await runner.cleanup()


async def test_sender_follows_no_redirect(receiver: tuple[str, list[web.Request]]) -> None:
    base, received = receiver
    async with open_webhooks(EgressSettings(), LOOPBACK) as sender:
        moved = await sender.send(Secret(f"{base}/moved"), (("webhook-id", "msg_1"),), b"{}")
        busy = await sender.send(Secret(f"{base}/busy"), (), b"{}")
    assert (moved.status, busy.status, busy.retry_after_s) == (302, 503, 120.0)
    assert [one.path for one in received] == ["/moved", "/busy"]
    assert received[0].headers["webhook-id"] == "msg_1"


async def test_sender_refuses_private_addresses_that_are_not_named(
    receiver: tuple[str, list[web.Request]],
) -> None:
    base, received = receiver
    async with open_webhooks(EgressSettings(), []) as sender:
        for url in (base, base.replace("127.0.0.1", "localhost")):
            refused = await sender.send(Secret(f"{url}/secret-path"), (), b"{}")
            assert refused.status == 0
            assert "secret-path" not in refused.error
    assert received == []
