"""What a connection may do before it has asked anything."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from aiohttp import web

from gateway.drivers.clock import SystemClock
from gateway.edge import public
from gateway.edge.passed_on import TracesPassedOn
from gateway.edge.public import PublicHandler, PublicServer
from gateway.errors import NotPermitted
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.gateway import Answered, Asked
from gateway.rules.pacing import Pace


class NoUsage:
    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        return {}


class RefusingGateway:
    async def answer(self, asked: Asked) -> Answered:
        raise NotPermitted("nobody may")


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(public, "FIRST_REQUEST_WITHIN_S", 0.3)
    handler = PublicHandler(
        RefusingGateway(),  # type: ignore[arg-type]
        SystemClock(),
        deadline_s=5.0,
        request_done=lambda *_: None,
        tracing=TracesPassedOn(),
        hit_lines=None,
        line_left_out=lambda: None,
        write_line=lambda _: None,
        limits=CallerLimits(Pace(10, 1, 10), NoUsage(), SystemClock()),
        trusted_proxies=(),
        federation=None,  # type: ignore[arg-type]
        pages={},
    )
    runner = web.ServerRunner(PublicServer(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_that_never_asks_is_closed(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_a_connection_that_asked_is_kept(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\r\n")
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403 ")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        await asyncio.sleep(0.4)
    writer.close()
