"""Live consoles of stopped, killed and replaced processes, with real processes and Redis."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.support.console_client import ConsoleClient, deliver_proxied, issue_ticket
from tests.support.stack import CloudProcess, RunningGateway, Stack, eventually

SESSIONS = 20
BACK_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(CloudProcess(servers=SESSIONS + 2), start=False)
    yield running
    running.close()


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        yield session


def start_two(stack: Stack, **options: float) -> tuple[RunningGateway, RunningGateway]:
    """Start two replicas with one public address, that of the first."""
    first, second = stack.replica(start=False), stack.replica(start=False)
    for gateway in (first, second):
        deliver_proxied(gateway, first.url, sessions_person_max=100, **options)
        gateway.start()
    return first, second


async def open_live(
    stack: Stack, http: ClientSession, gateway: RunningGateway, count: int
) -> list[ConsoleClient]:
    token, pages = stack.cloud.token(), []
    for server in stack.cloud.servers[:count]:
        ticket = await asyncio.to_thread(issue_ticket, gateway, token, server)
        page = await ConsoleClient(http, gateway.config["listen"]["public_url"]).redeem(
            gateway, ticket
        )
        await page.connect(gateway)
        pages.append(page)
    await asyncio.gather(*(page.until_live() for page in pages))
    return pages


async def test_sessions_move_on_sigterm_and_come_back(stack: Stack, http: ClientSession) -> None:
    first, second = start_two(stack, links_per_s=10.0, drain_s=60.0)
    pages = await open_live(stack, http, first, SESSIONS)
    first.signal(signal.SIGTERM)
    until = time.monotonic() + 60
    took = await asyncio.gather(*(page.resume_when_moved(second, until=until) for page in pages))
    assert max(took) <= BACK_WITHIN_S, took
    assert await asyncio.to_thread(first.stop) == 0
    assert first.audit("console_session_ended") == []
    for page in pages:
        await page.send(type="end")
        assert await page.until_closed() == 4000
    ids = sorted(page.id for page in pages)

    def ended() -> list[str]:
        return sorted(one["session"] for one in second.audit("console_session_ended"))

    await asyncio.to_thread(eventually, lambda: ended() == ids)
    second.stop()


async def test_killed_process_leaves_its_sessions_to_another(
    stack: Stack, http: ClientSession
) -> None:
    first, second = start_two(stack)
    pages = await open_live(stack, http, first, 2)
    first.signal(signal.SIGSTOP)  # the supervisor must not start another worker
    for worker in first.workers():
        os.kill(worker, signal.SIGKILL)
    assert await pages[0].until_closed() == 1006
    await pages[0].connect(second)
    await pages[0].until_live()
    first.signal(signal.SIGKILL)
    # The other page never comes back: its lease ends, and one record says so.
    await asyncio.to_thread(eventually_within, lambda: second.audit("console_session_ended"), 90.0)
    (ended,) = second.audit("console_session_ended")
    assert (ended["session"], ended["end"]) == (pages[1].id, "owner_lost")
    second.stop()


async def test_reload_moves_no_session_and_ends_those_of_removed_accounts(
    stack: Stack, http: ClientSession
) -> None:
    gateway = stack.replica(start=False)
    deliver_proxied(gateway, gateway.url, reload_drain_s=60.0)
    await asyncio.to_thread(gateway.start)
    (page,) = await open_live(stack, http, gateway, 1)
    gateway.config["request"]["deadline_s"] = 9
    gateway.write_config()
    await asyncio.to_thread(eventually, lambda: gateway.metric("gateway_workers_retired") == 1)
    await page.send(type="token", token="")
    gateway.config["accounts"][0] |= {"name": "renamed"}
    gateway.write_config()
    assert await page.until_closed() == 4002
    assert page.texts[-1]["reason"] == "right_ended"
    await asyncio.to_thread(eventually, lambda: gateway.metric("gateway_workers_retired") == 0)
    gateway.stop()


def eventually_within(condition: Callable[[], object], within_s: float) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)
