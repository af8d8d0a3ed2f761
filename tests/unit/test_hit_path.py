"""The hit path beside aiohttp's: the same requests and changes give the same results on both.

A step is applied to two worlds, one with the hit path and one without. After each step, everything
that leaves a gateway must be equal: bytes on each connection, records, log lines and metrics.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.domain.overrides import (
    DroppedLinks,
    Effect,
    Lock,
    RevokedBefore,
    RevokedSubject,
    RevokedToken,
)
from gateway.edge.listener.client_address import TrustedProxies
from tests.support.clock import settle
from tests.support.hit_world import (
    ISSUER,
    PROJECT,
    SERVERS,
    TOKEN_LIFE_S,
    HitWorld,
    denial,
    grant,
    request_bytes,
)

Step = Callable[[HitWorld], Awaitable[None]]
_CONNECTIONS = 3
_TOKENS = ("ann.ops.1", "ann.ops.2", "bob.dev.1", "eve..1", "bad.ops.1")
GRANT_END = 1_800_000_050.0
_POLICIES = (
    (),
    (grant(groups=["ops"]),),
    (grant(groups=["ops", "dev"]), grant(users=["eve"], line=2)),
    (grant(groups=["ops"]), denial(groups=["dev"])),
    (grant(users=["ann"], until=GRANT_END), grant(users=["bob"], since=GRANT_END)),
)
_EFFECTS: tuple[Effect, ...] = (
    RevokedToken(ISSUER, "ann-1"),
    RevokedSubject(ISSUER, "bob", 1_800_000_060.0),
    RevokedBefore(ISSUER, 1_800_000_010.0),
    Lock(ISSUER, subject="ann"),
    Lock(group="ops"),
    Lock(server=SERVERS[0]),
    Lock(project=PROJECT),
    DroppedLinks(server=SERVERS[0]),
)


async def world(*, has_hit_path: bool = True, **options: object) -> HitWorld:
    made = HitWorld(has_hit_path=has_hit_path, **options)  # type: ignore[arg-type]
    made.set_policy(*_POLICIES[1], version="v1")
    return await made.start()


async def warm(made: HitWorld, data: bytes) -> int:
    """Open a connection on which the next request of these bytes takes the hit path."""
    number = await made.connect()
    for _ in range(3):
        await made.send(number, data)
        assert made.received(number).startswith(b"HTTP/1.1 200 ")
    return number


def sends(connection: int, data: bytes, times: int = 1) -> Step:
    """Send on a connection; while records are held, only once.

    With two requests in line on two connections, the event loop alone decides which is next.
    """

    async def send(made: HitWorld) -> None:
        for _ in range(times):
            if not made.has_sent_during_pause(connection):
                await made.send(connection, data)

    return send


def hangs_up(connection: int) -> Step:
    async def hang_up(made: HitWorld) -> None:
        await made.hang_up(connection)
        made.connections[connection] = made.connections[await made.connect()]
        made.connections.pop()

    return hang_up


def passes(seconds: float) -> Step:
    return lambda made: made.clock.advance(seconds)


def step(change: Callable[[HitWorld], object]) -> Step:
    async def apply(made: HitWorld) -> None:
        change(made)
        await settle()

    return apply


def _holds_records(made: HitWorld) -> None:
    made.store.may_commit.clear()


def _writes_records(made: HitWorld) -> None:
    made.store.fails = False
    made.store.may_commit.set()


def _fails_records(made: HitWorld) -> None:
    made.store.fails = True
    made.store.may_commit.set()


_ORDINARY = st.builds(request_bytes, st.sampled_from(_TOKENS), st.sampled_from(SERVERS))
_WARM = [request_bytes(_TOKENS[0]), request_bytes(_TOKENS[1], SERVERS[1])]
_SLOW = [HealthCheck.too_slow]
_UNUSUAL = st.one_of(
    st.builds(
        request_bytes,
        st.just(_TOKENS[0]),
        headers=st.sampled_from(
            (
                "Cache-Control: no-cache\r\n",
                "Prefer: wait=3\r\n",
                "X-Request-Id: chosen-by-caller\r\n",
                "Connection: close\r\n",
                "Content-Length: 0\r\n",
                "Content-Length: 2\r\n",
                "X-Auth-Token: ann.ops.2\r\n",
                "traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n",
            )
        ),
    ),
    _ORDINARY.map(lambda data: data * 2),
    st.tuples(_ORDINARY, st.integers(1, 160)).map(lambda cut: cut[0][: cut[1]]),
    st.tuples(_ORDINARY, st.integers(1, 160)).map(lambda cut: cut[0][cut[1] :]),
    st.sampled_from((b"{}", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
)
_REQUESTS = st.builds(
    sends,
    st.integers(0, _CONNECTIONS - 1),
    st.one_of(st.sampled_from(_WARM), _ORDINARY),
    st.integers(1, 4),
)
_CHANGES = st.one_of(
    st.builds(sends, st.integers(0, _CONNECTIONS - 1), _UNUSUAL),
    st.builds(hangs_up, st.integers(0, _CONNECTIONS - 1)),
    st.sampled_from((0.001, 1.0, 12.0, 55.0, 65.0, 150.0)).map(passes),
    st.integers(0, len(_POLICIES) - 1).map(
        lambda chosen: step(lambda made: made.set_policy(*_POLICIES[chosen], version=f"v{chosen}"))
    ),
    st.sampled_from(_EFFECTS).map(
        lambda effect: step(lambda made: made.override(effect, life_s=100.0))
    ),
    st.just(step(HitWorld.end_overrides)),
    st.sampled_from((_holds_records, _writes_records, _fails_records)).map(step),
    st.just(step(lambda made: made.server.begin_drain())),
)


def left(made: HitWorld, *, at_once: bool) -> dict[str, object]:
    """Return everything that has left a world since the last call.

    `at_once`: requests of several connections ended together. How many of the person's others are
    counted then depends on the order in which the event loop resumes them.
    """
    # aiohttp reads the date of its own responses from the system.
    ignored = rb"(?:Date|RateLimit): [^\r]+" if at_once else rb"Date: [^\r]+"
    responses = [re.sub(ignored, b"", made.received(number)) for number in range(_CONNECTIONS)]
    found = {
        "responses": responses,
        "closed": [transport.is_closed for _, transport in made.connections],
        "records": sorted(map(repr, made.store.records)),
        "lines": sorted(map(repr, made.lines)),
        # Which records share a commit depends on the same order.
        "metrics": [one for one in made.exposition() if "audit_commit_duration" not in one],
        "renewals": dict(made.renewals),
        "fetches": dict(made.fetches),
    }
    made.store.records.clear()
    made.lines.clear()
    return found


def test_hit_path_changes_nothing() -> None:
    hits: list[int] = []

    async def compare(steps: list[Step], options: dict[str, float]) -> None:
        with_path, without = worlds = [
            await world(has_hit_path=has_it, **options) for has_it in (True, False)
        ]
        for made in worlds:
            for number in range(_CONNECTIONS):
                await made.connect()
                for data in _WARM:
                    await sends(number, data, 3)(made)
        for number, one in enumerate((*steps, step(_writes_records))):
            paused = not with_path.store.may_commit.is_set()
            for made in worlds:
                await one(made)
            at_once = paused and with_path.store.may_commit.is_set()
            for _ in range(100 if at_once else 2):  # many requests may have waited on a connection
                await settle()
            assert left(with_path, at_once=at_once) == left(without, at_once=at_once), number
        for made in worlds:
            await made.close()
        hits.append(with_path.hits)

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=_SLOW)
    @given(
        st.lists(st.one_of(_REQUESTS, _REQUESTS, _CHANGES), min_size=5, max_size=25),
        st.fixed_dictionaries(
            {"burst": st.sampled_from((24, 1_000)), "hit_sample_ratio": st.sampled_from((1.0, 0.3))}
        ),
    )
    def examples(steps: list[Step], options: dict[str, float]) -> None:
        asyncio.run(compare(steps, options))

    examples()
    assert sum(hits) > 1_000  # or the comparison is worth nothing


DATA = request_bytes(_TOKENS[0])


async def test_memory_holds_no_decision() -> None:
    """A remembered request is decided like a new one: by policy, revocations, locks and time."""
    for change, status in (
        (lambda made: made.set_policy(version="v2"), 403),
        (lambda made: made.override(RevokedToken(ISSUER, "ann-1")), 401),
        (lambda made: made.override(Lock(ISSUER, subject="ann")), 403),
        (lambda made: made.override(Lock(server=SERVERS[0])), 403),
        (lambda made: made.clock.step_wall(TOKEN_LIFE_S), 401),
    ):
        made = await world()
        number = await warm(made, DATA)
        await made.send(number, DATA)
        assert (status_of(made.received(number)), made.hits) == (200, 1)
        change(made)  # type: ignore[no-untyped-call]
        await made.send(number, DATA)
        assert (status_of(made.received(number)), made.hits) == (status, 1)


@pytest.mark.parametrize(
    ("change", "status", "events"),
    [
        (lambda made: made.set_policy(version="v2"), 403, ["console_link_issued", "refused"]),
        (
            lambda made: made.override(RevokedToken(ISSUER, "ann-1")),
            401,
            ["console_link_issued", "refused"],
        ),
        (
            lambda made: made.clock.step_wall(TOKEN_LIFE_S),
            401,
            ["console_link_issued", "refused"],
        ),
        (
            lambda made: made.clock.step_wall(GRANT_END - made.clock.now()),
            403,
            ["console_link_issued", "refused"],
        ),
        (lambda made: setattr(made.store, "fails", True), 503, []),
    ],
    ids=["policy", "revocation", "token's end", "grant's end", "disk"],
)
async def test_permission_lost_during_record_issues_no_link(
    change: Callable[[HitWorld], object], status: int, events: list[str]
) -> None:
    made = await world()
    made.set_policy(grant(users=["ann"], until=GRANT_END), version="v1")
    number = await warm(made, DATA)
    made.store.records.clear()
    made.store.may_commit.clear()
    await made.send(number, DATA)
    assert (made.received(number), made.hits) == (b"", 1)
    change(made)
    made.store.may_commit.set()
    await settle()
    await settle()
    assert status_of(made.received(number)) == status
    assert [one["event"] for one in made.store.records] == events
    assert made.lines[-1]["status"] == status


async def test_link_that_aged_during_record_is_replaced() -> None:
    made = await world()
    number = await warm(made, DATA)
    await made.clock.advance(59.0)
    made.store.records.clear()
    made.store.may_commit.clear()
    await made.send(number, DATA)
    await made.clock.advance(12.0)
    made.store.may_commit.set()
    await settle()
    await settle()
    assert status_of(made.received(number)) == 200
    assert made.hits == 1
    assert [one["source"] for one in made.store.records] == ["local", "upstream"]


async def test_hang_up_during_record_ends_the_request() -> None:
    made = await world()
    number = await warm(made, DATA)
    made.store.may_commit.clear()
    await made.send(number, DATA)
    await made.hang_up(number)
    assert (made.lines[-1]["status"], made.hits) == (499, 1)
    made.store.may_commit.set()
    await settle()
    assert made.received(number) == b""
    assert made.lines[-1]["status"] == 499


async def test_bytes_behind_a_hit_wait_unread() -> None:
    made = await world()
    number = await warm(made, DATA)
    _, transport = made.connections[number]
    made.store.may_commit.clear()
    await made.send(number, DATA)
    assert not transport.is_paused
    await made.send(number, b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n" + DATA)
    assert transport.is_paused
    assert made.received(number) == b""
    made.store.may_commit.set()
    await settle()
    await settle()
    assert not transport.is_paused
    statuses = [int(one[:3]) for one in made.received(number).split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 401, 200]


async def test_drain_closes_after_a_pending_hit() -> None:
    made = await world()
    number = await warm(made, DATA)
    made.store.may_commit.clear()
    await made.send(number, DATA)
    made.server.begin_drain()
    await settle()
    made.store.may_commit.set()
    await settle()
    response = made.received(number)
    assert (status_of(response), made.hits) == (200, 1)
    assert b"\r\nConnection: close\r\n" in response
    assert made.connections[number][1].is_closed


async def test_idle_timeout_spares_a_pending_hit() -> None:
    made = await world()
    number = await warm(made, DATA)
    connection, transport = made.connections[number]
    made.store.may_commit.clear()
    await made.send(number, DATA)
    connection._next_keepalive_close_time = 0.0
    connection._process_keepalive()
    connection.close_if_idle()
    assert not transport.is_closed
    made.store.may_commit.set()
    await settle()
    assert status_of(made.received(number)) == 200
    connection._next_keepalive_close_time = 0.0
    connection._process_keepalive()
    assert transport.is_closed


@pytest.mark.parametrize(
    "before",
    [
        b"GET /none HTTP/1.1\r\nHost: x\r\nX-Rest: ",
        b"G",
        b"PUT /v1/p/none HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
        b"PUT /v1/p/none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n",
    ],
    ids=["header", "method", "body", "chunk"],
)
async def test_bytes_inside_another_message_are_no_request(before: bytes) -> None:
    made = await world()
    number = await warm(made, DATA)
    await made.send(number, before)
    await made.send(number, DATA)
    assert (made.hits, made.received(number).count(b'{"url"')) == (0, 0)


async def test_connection_has_no_hits_after_a_body() -> None:
    made = await world()
    number = await warm(made, DATA)
    await made.send(
        number, b"PUT /v1/p/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" + DATA
    )
    made.received(number)
    await made.send(number, DATA)
    assert (status_of(made.received(number)), made.hits) == (200, 0)


async def test_request_is_remembered_at_its_second_hit() -> None:
    made = await world()
    assert made.handler.hit_path is not None
    remembered = made.handler.hit_path.memory
    number = await made.connect()
    counts = []
    for _ in range(4):
        await made.send(number, DATA)
        counts.append((len(remembered), made.hits))
    assert counts == [(0, 0), (0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    "headers",
    [
        "Cache-Control: max-age=0\r\n",
        "Connection: keep-alive\r\n",
        "Content-Length: 0\r\n",
        "Cookie: a=b\r\n",
        "DPoP: proof\r\n",
        "Expect: nothing\r\n",
        "Origin: https://a.example\r\n",
        "Prefer: wait=3\r\n",
        "Upgrade: h2c\r\n",
        "X-Auth-Token: ann.ops.1\r\n",
        "X-Request-Id: chosen-by-caller\r\n",
        "X-Sdk-Date: 20270115T080000Z\r\n",
        "traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01\r\n",
    ],
)
async def test_request_with_another_header_is_left_to_aiohttp(headers: str) -> None:
    made = await world()
    number = await made.connect()
    for _ in range(5):
        await made.send(number, request_bytes(_TOKENS[0], headers=headers))
        assert status_of(made.received(number)) == 200
    assert made.hits == 0


async def test_hit_path_is_per_peer_of_a_trusted_proxy() -> None:
    """X-Forwarded-For counts from a proxy; the same bytes of a client say nothing."""
    proxies = TrustedProxies((ip_network("192.0.2.0/24"),))
    made = await world(trusted_proxies=proxies)
    data = request_bytes(_TOKENS[0], headers="X-Forwarded-For: 203.0.113.9\r\n")
    for peer, client in (("192.0.2.1", "203.0.113.9"), ("198.51.100.1", "198.51.100.1")):
        number = await made.connect(peer)
        hits = made.hits
        for _ in range(5):
            await made.send(number, data)
        assert made.hits > hits
        assert made.lines[-1]["client"] == client
        assert made.store.records[-1]["client_address"] == client


def status_of(response: bytes) -> int:
    assert response.startswith(b"HTTP/1.1 ")
    return int(response[9:12])
