"""A list is read once for concurrent requests, within its limits."""

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.domain.catalogue.listing import ListPage
from gateway.domain.errors import DeadlineExceeded, UpstreamBroken, UpstreamUnreachable
from gateway.domain.model import (
    Listing,
    Operation,
    Paging,
    ProjectId,
    QueueRequest,
    ResolvedCall,
    UpstreamRequest,
)
from gateway.flow.listings import ListBounds, Listings
from tests.support.clock import FakeClock, settle
from tests.support.exchange import FakeExchange, as_exchange

QUEUE_REQUEST = QueueRequest("corp:olga")
COUNT = 2_500


def a_call(paging: Paging = Paging.MARKER, **query: str) -> ResolvedCall:
    listing = Listing("servers", "id", paging)
    operation = Operation(f"List{paging}", "GET", "/servers", "server:read", listing=listing)
    return ResolvedCall(operation, ProjectId("p"), (), "/v1/p/servers", tuple(query.items()))


def cloud(request: UpstreamRequest) -> bytes:
    """Serve the servers s0000 to s2499, by marker or by offset."""
    requested = {name: values[0] for name, values in parse_qs(urlsplit(request.path).query).items()}
    start = (
        int(requested["marker"][1:]) + 1
        if "marker" in requested
        else int(requested.get("offset", "0"))
    )
    ids = [f"s{i:04}" for i in range(start, min(COUNT, start + int(requested["limit"])))]
    more = ids[-1] if start + len(ids) < COUNT else None
    info = {"page_info": {"next_marker": more}}
    return json.dumps({"servers": [{"id": one} for one in ids], "count": COUNT, **info}).encode()


def listings(exchange: FakeExchange, clock: FakeClock, **bounds: float) -> Listings:
    chosen = {"reuse_s": 5.0, "pages_max": 10, "bytes_max": 1_000_000} | bounds
    return Listings({"p": as_exchange(exchange)}, ListBounds(**chosen), clock)  # type: ignore[arg-type]


async def read(
    some: Listings,
    call: ResolvedCall,
    clock: FakeClock,
    *,
    fresh: bool = False,
    within_s: float = 5.0,
) -> tuple[ListPage, ...]:
    deadline = clock.monotonic() + within_s
    return await some.read(call, QUEUE_REQUEST, deadline=deadline, fresh=fresh, headers=())


@pytest.mark.parametrize("paging", list(Paging))
async def test_list_is_read_in_large_pages(paging: Paging, clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    pages = await read(listings(exchange, clock), a_call(paging), clock)
    ids = [own for page in pages for own in page.ids]
    assert ids == [f"s{i:04}" for i in range(COUNT)]
    assert len(exchange.requested) == 3
    assert exchange.queue_requests == [QUEUE_REQUEST] * 3


async def test_reading_serves_other_pages_for_a_time(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    some = listings(exchange, clock)
    first = await read(some, a_call(), clock)
    await clock.advance(4.9)
    assert await read(some, a_call(marker="s0009", limit="20"), clock) is first
    assert len(exchange.requested) == 3
    await clock.advance(0.2)
    assert await read(some, a_call(), clock) is not first
    assert len(exchange.requested) == 6


async def test_fresh_request_reads_the_list_again(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    some = listings(exchange, clock)
    await read(some, a_call(), clock)
    await clock.advance(0.1)
    await read(some, a_call(), clock, fresh=True)
    assert len(exchange.requested) == 6


async def test_another_filter_is_another_list(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    some = listings(exchange, clock)
    await read(some, a_call(), clock)
    await read(some, a_call(manage_state="ready"), clock)
    assert len(exchange.requested) == 6


async def test_concurrent_requests_share_a_reading(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    exchange.gate = asyncio.Event()
    some = listings(exchange, clock)
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read(some, a_call(), clock)) for _ in range(5)]
        await asyncio.sleep(0)
        exchange.gate.set()
    assert len({id(reader.result()) for reader in readers}) == 1
    assert len(exchange.requested) == 3


async def test_reading_inherits_priority_of_its_waiters(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    exchange.gate = asyncio.Event()
    some = listings(exchange, clock)

    def start_reader(caller: str) -> "asyncio.Task[tuple[ListPage, ...]]":
        deadline = clock.monotonic() + 5.0
        queue_request = QueueRequest(caller)
        return asyncio.create_task(
            some.read(a_call(), queue_request, deadline=deadline, fresh=False, headers=())
        )

    readers = [
        start_reader("greedy"),
        start_reader("ann"),
        start_reader("ann"),
        start_reader("hasty"),
    ]
    await settle()
    (waiters,) = exchange.waiters
    assert waiters is not None
    readers[-1].cancel()
    await settle()
    assert waiters.all == (QueueRequest("greedy"), QueueRequest("ann"))
    exchange.gate.set()
    await asyncio.gather(*readers, return_exceptions=True)
    assert exchange.queue_requests == [QueueRequest("greedy")] * 3
    assert exchange.waiters == [waiters] * 3
    assert waiters.all == ()


async def test_disconnect_passes_the_reading_on(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    exchange.gate = asyncio.Event()
    some = listings(exchange, clock)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(read(some, a_call(), clock))
        await asyncio.sleep(0)
        second = tasks.create_task(read(some, a_call(), clock))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        exchange.gate.set()
    assert len(second.result()) == 3
    assert not some._in_progress


async def test_waiting_request_keeps_its_own_deadline(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    exchange.gate = asyncio.Event()
    some = listings(exchange, clock)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(read(some, a_call(), clock))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await read(some, a_call(), clock, within_s=0.02)
        exchange.gate.set()
    assert len(first.result()) == 3


async def test_failure_is_not_cached(clock: FakeClock) -> None:
    failing = [True]

    def flaky(request: UpstreamRequest) -> bytes:
        if failing:
            failing.pop()
            raise UpstreamUnreachable("gone", retry_after_s=1.0)
        return cloud(request)

    some = listings(FakeExchange(flaky), clock)
    with pytest.raises(UpstreamUnreachable):
        await read(some, a_call(), clock)
    assert len(await read(some, a_call(), clock)) == 3


async def test_requests_share_a_reading_after_failure(
    clock: FakeClock,
) -> None:
    gate = asyncio.Event()

    def failing_first(request: UpstreamRequest) -> bytes:
        if len(exchange.requested) == 1:
            gate.clear()
            raise UpstreamUnreachable("gone", retry_after_s=1.0)
        return cloud(request)

    exchange = FakeExchange(failing_first)
    exchange.gate = gate
    some = listings(exchange, clock)
    first, *others = (asyncio.create_task(read(some, a_call(), clock)) for _ in range(3))
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(UpstreamUnreachable):
        await first
    others.append(asyncio.create_task(read(some, a_call(), clock)))
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    assert len({id(pages) for pages in await asyncio.gather(*others)}) == 1
    assert len(exchange.requested) == 1 + 3
    assert not some._in_progress


@pytest.mark.parametrize("bound", [{"pages_max": 2}, {"bytes_max": 1_000}])
async def test_list_over_its_limits_is_rejected(bound: dict[str, float], clock: FakeClock) -> None:
    with pytest.raises(UpstreamBroken, match="lists"):
        await read(listings(FakeExchange(cloud), clock, **bound), a_call(), clock)


async def test_repeated_marker_ends_the_reading(clock: FakeClock) -> None:
    stuck = json.dumps({"servers": [{"id": "a"}], "page_info": {"next_marker": "a"}}).encode()
    exchange = FakeExchange(lambda _: stuck)
    assert len(await read(listings(exchange, clock), a_call(), clock)) == 2


async def test_oldest_reading_is_evicted(clock: FakeClock) -> None:
    exchange = FakeExchange(cloud)
    some = listings(exchange, clock, bytes_max=2_000_000)
    for i in range(6):
        await read(some, a_call(manage_state=f"x{i}"), clock)
    assert some._size <= 2_000_000
    assert len(some._readings) == 2, "300 bytes per entry, besides the text"
    calls = len(exchange.requested)
    await read(some, a_call(manage_state="x5"), clock)
    assert len(exchange.requested) == calls


async def test_outdated_reading_is_dropped(clock: FakeClock) -> None:
    some = listings(FakeExchange(cloud), clock, bytes_max=50_000_000)
    for i in range(4):
        await read(some, a_call(manage_state=f"x{i}"), clock)
    await clock.advance(5.1)
    await read(some, a_call(), clock)
    assert len(some._readings) == 1


async def test_short_page_does_not_end_the_reading(clock: FakeClock) -> None:
    def stingy(request: UpstreamRequest) -> bytes:
        query = parse_qs(urlsplit(request.path).query)
        start = int(query.get("offset", ["0"])[0])
        ids = [{"id": f"s{i}"} for i in range(start, min(45, start + 10))]
        return json.dumps({"servers": ids, "count": 45}).encode()

    pages = await read(listings(FakeExchange(stingy), clock), a_call(Paging.OFFSET), clock)
    assert sum(len(page.ids) for page in pages) == 45
