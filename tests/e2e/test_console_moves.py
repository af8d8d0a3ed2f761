"""Many live consoles of a process that is stopped, or replaced by a reload."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from aiohttp import ClientSession, DummyCookieJar, TCPConnector

from tests.support.live_page import LivePage
from tests.support.round_trips import RoundTrips
from tests.support.stack import TIMEOUT_S, CloudProcess, RunningGateway, Stack, eventually

SESSIONS = 20
BACK_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(CloudProcess(servers=SESSIONS + 2), start=False)
    running.cloud.settings(live_projects=[running.cloud.project])
    yield running
    running.close()


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
        yield session


def start(stack: Stack, public_url: str = "", **console: float) -> RunningGateway:
    """Start a replica with 10 links a second."""
    gateway = stack.replica(start=False)
    (gateway.directory / "authority.pem").write_text(gateway.cloud.console_authority())
    gateway.config["listen"]["public_url"] = public_url or gateway.url
    gateway.config["console"] = {
        "private_networks": ["127.0.0.0/8"],
        "sessions_person_max": 100,
        **console,
    }
    account = gateway.config["accounts"][0]
    account["budget"] |= {
        "console": {"requests": 10, "per_s": 1, "burst": 10},
        "wait_max_s": 20,
    }
    account |= {
        "ca_file": "authority.pem",
        "console": {"delivery": "proxied", "websocket": "directory", "subprotocol": "none"},
        "links": {"console_hosts": ["127.0.0.1"]},
    }
    gateway.write_config()
    return gateway.start()


async def open_live(
    stack: Stack, http: ClientSession, gateway: RunningGateway, count: int
) -> list[LivePage]:
    token, pages = stack.cloud.token(), []
    for server in stack.cloud.servers[:count]:
        response = await asyncio.to_thread(gateway.console, token, server)
        page = LivePage(http, gateway.url, origin=gateway.config["listen"]["public_url"])
        status, data = await page.redeem(response.json["url"].partition("#")[2])
        assert status == 200, data
        await page.connect()
        pages.append(page)
    await asyncio.gather(*(page.until_live() for page in pages))
    return pages


async def resume_when_moved(page: LivePage, gateway: RunningGateway) -> float:
    """Wait for the move, then return how long it took to be live again."""
    assert await page.until_closed() == 4007
    began = time.monotonic()
    await page.connect(gateway.url)
    await page.until_live()
    return time.monotonic() - began


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(eventually, condition)


async def test_sessions_move_on_sigterm_and_come_back(stack: Stack, http: ClientSession) -> None:
    first = await asyncio.to_thread(start, stack, drain_s=60.0)
    second = await asyncio.to_thread(start, stack, first.url)
    pages = await open_live(stack, http, first, SESSIONS)
    first.signal(signal.SIGTERM)
    with RoundTrips(second, valkey=stack.valkey) as trips:
        took = await asyncio.gather(*(resume_when_moved(page, second) for page in pages))
    assert max(took) <= trips.limit_s(BACK_WITHIN_S), took
    assert first._process is not None
    assert await asyncio.to_thread(first._process.wait, TIMEOUT_S) == 0
    assert first.audit("console_session_ended") == []
    ids = sorted(page.session_id for page in pages)
    for page in pages:
        await page.send({"type": "end"})
        assert await page.until_closed() == 4000
    await until(
        lambda: sorted(one["session"] for one in second.audit("console_session_ended")) == ids
    )
    await asyncio.to_thread(second.stop)


async def test_replaced_worker_counts_its_sessions_and_ends_those_of_a_removed_account(
    stack: Stack, http: ClientSession
) -> None:
    gateway = await asyncio.to_thread(start, stack, reload_drain_s=60.0)
    pages = await open_live(stack, http, gateway, SESSIONS)
    connections = 'gateway_console_connections{account="prod"}'
    gateway.config["request"]["deadline_s"] += 1
    gateway.write_config()
    await until(lambda: gateway.metric("gateway_workers_retired") == 1)
    await until(lambda: gateway.metric(connections) == SESSIONS)
    # The old worker still serves each of them.
    ended, *pages = pages
    await ended.send({"type": "end"})
    assert await ended.until_closed() == 4000
    await until(lambda: gateway.metric(connections) == SESSIONS - 1)
    assert {page.close_code for page in pages} == {None}
    gateway.config["accounts"][0]["name"] = "renamed"
    gateway.write_config()
    for page in pages:
        assert await page.until_closed() == 4002
        assert page.messages[-1]["reason"] == "right_ended"
    await until(lambda: gateway.metric("gateway_workers_retired") == 0)
    records = gateway.audit("console_session_ended")
    assert sorted(one["session"] for one in records) == sorted(
        one.session_id for one in [ended, *pages]
    )
    await asyncio.to_thread(gateway.stop)


async def test_replaced_worker_moves_its_sessions_when_its_time_is_over(
    stack: Stack, http: ClientSession
) -> None:
    gateway = await asyncio.to_thread(start, stack, reload_drain_s=2.0)
    pages = await open_live(stack, http, gateway, 4)
    moves = [asyncio.create_task(resume_when_moved(page, gateway)) for page in pages]
    began = time.monotonic()
    gateway.config["request"]["deadline_s"] += 1
    gateway.write_config()
    await asyncio.wait(moves, return_when=asyncio.FIRST_COMPLETED)
    assert time.monotonic() - began >= 2.0
    await asyncio.gather(*moves)
    await until(lambda: gateway.metric("gateway_workers_retired") == 0)
    await until(lambda: gateway.metric('gateway_console_connections{account="prod"}') == 4)
    assert gateway.audit("console_session_ended") == []
    for page in pages:
        await page.send({"type": "end"})
        assert await page.until_closed() == 4000
    await asyncio.to_thread(gateway.stop)
