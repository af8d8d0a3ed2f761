"""Connections of the public listener: first-request timeout, keep-alive, draining."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import web

from gateway.domain.errors import NotPermitted
from gateway.domain.queue.pacing import Pace
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.telemetry.trace_propagation import PropagatedTracing
from gateway.edge.listener import server as listener_server
from gateway.edge.listener.client_address import TrustedProxies
from gateway.edge.listener.server import ListenerServer
from gateway.edge.public.handler import PublicHandler
from gateway.edge.public.request_log import RequestLog
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console_links import IssuedLink
from gateway.flow.request import ApiRequest
from tests.support.request_lines import RecordedLines


class NoUsage:
    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        return {}


class RefusingGateway:
    def __init__(self) -> None:
        self.received = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.body = b""

    async def handle(self, received: ApiRequest) -> IssuedLink:
        self.received.set()
        await self.may_answer.wait()
        if received.has_body:
            self.body = await received.read_body(1_000)
        raise NotPermitted("no grant applies")


@pytest.fixture
async def gateway() -> RefusingGateway:
    return RefusingGateway()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch, gateway: RefusingGateway) -> ListenerServer:
    monkeypatch.setattr(listener_server, "HEAD_TIMEOUT_S", 0.3)
    handler = PublicHandler(
        gateway,  # type: ignore[arg-type]
        SystemClock(),
        deadline_s=5.0,
        tracing=PropagatedTracing(),
        cors=None,
        compresses_lists=True,
        request_log=RequestLog(
            SystemClock(),
            count_request=lambda *_: None,
            lines=RecordedLines(),
            hit_log_share=None,
            count_unlogged=lambda: None,
        ),
        limits=CallerLimits(Pace(10, 1, 10), NoUsage(), SystemClock()),
        trusted_proxies=TrustedProxies(),
        federation=None,  # type: ignore[arg-type]
        pages={},
    )
    return ListenerServer(handler, idle_timeout_s=75.0, cancels_on_disconnect=True)


@pytest.fixture
async def port(server: ListenerServer) -> AsyncIterator[int]:
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_connection_without_request_is_closed(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


async def test_slow_head_after_a_request_is_cut_off(port: int) -> None:
    """The parts of a head stay in memory, so an idle connection may not keep half of one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    await read_response(reader)
    writer.write(REQUEST[:20])
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\r\n"


async def read_response(reader: asyncio.StreamReader) -> bytes:
    """Read one complete response and return its head in lower case."""
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        await reader.readexactly(length)
    return head.lower()


async def test_connection_after_request_stays_open(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(REQUEST)
        assert b"connection:" not in await read_response(reader)
        await asyncio.sleep(0.4)
    writer.close()


async def test_drain_serves_one_more_request_when_idle(port: int, server: ListenerServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    await read_response(reader)
    server.begin_drain()
    drained = asyncio.create_task(server.drain(SystemClock(), within_s=5))
    await asyncio.sleep(0.2)
    assert not drained.done()
    writer.write(REQUEST)
    assert b"\r\nconnection: close\r\n" in await read_response(reader)
    assert await reader.read() == b""
    writer.close()
    async with asyncio.timeout(60):
        await drained


async def test_drain_closes_connection_after_pending_response(
    port: int, server: ListenerServer, gateway: RefusingGateway
) -> None:
    gateway.may_answer.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    await gateway.received.wait()
    server.begin_drain()
    gateway.may_answer.set()
    assert b"\r\nconnection: close\r\n" in await read_response(reader)
    assert await reader.read() == b""
    writer.close()


async def test_drain_reads_a_body_in_transit(
    port: int, server: ListenerServer, gateway: RefusingGateway
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        REQUEST.replace(b"GET", b"PUT").replace(b"Host", b"Content-Length: 6\r\nHost") + b"abc"
    )
    await gateway.received.wait()
    server.begin_drain()
    drained = asyncio.create_task(server.drain(SystemClock(), within_s=5))
    await asyncio.sleep(0.1)
    writer.write(b"def")
    await read_response(reader)
    await drained
    writer.close()
    assert gateway.body == b"abcdef"


async def test_drain_closes_idle_connections_after_grace(
    port: int, server: ListenerServer, gateway: RefusingGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_server, "_IDLE_GRACE_S", 0.2)
    gateway.may_answer.clear()
    busy, idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    busy[1].write(REQUEST)
    await gateway.received.wait()
    server.begin_drain()
    drained = asyncio.create_task(server.drain(SystemClock(), within_s=5))
    assert await idle[0].read() == b""
    assert not drained.done()
    gateway.may_answer.set()
    await read_response(busy[0])
    await drained
    for _, writer in (busy, idle):
        writer.close()
