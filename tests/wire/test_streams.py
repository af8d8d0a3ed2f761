"""Streamed responses: how they end, and how that is counted and logged."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from gateway.domain.errors import GatewayError, UpstreamBroken, UpstreamSlow, UpstreamUnreachable
from gateway.domain.queue.pacing import Pace
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.telemetry.trace_propagation import PropagatedTracing
from gateway.edge.listener.client_address import TrustedProxies
from gateway.edge.listener.server import ListenerServer
from gateway.edge.public import forwarded_response
from gateway.edge.public.handler import PublicHandler
from gateway.edge.public.request_log import RequestLog
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.request import ApiRequest
from tests.support.request_lines import RecordedLines

CHUNK = bytes(65_536)


class Body:
    """A body of `chunks` chunks that ends with the exception `then`, if any."""

    def __init__(self, chunks: int, then: Exception | None = None) -> None:
        self.chunks, self.then = chunks, then
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.chunks):
            await asyncio.sleep(0.001)
            yield CHUNK
        if self.then is not None:
            raise self.then

    async def close(self) -> None:
        self.closed.set()


class Edge:
    """A fake pipeline that stores counts and log lines."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.port = 0
        self.counted: list[tuple[int, str]] = []
        self.recorded = RecordedLines()
        self.lines = self.recorded.found
        self.done = asyncio.Event()

    async def handle(self, _: ApiRequest) -> ForwardedResponse:
        return ForwardedResponse(200, (), b"", self.body)

    def count_request(
        self, _answer: str, _operation: str, status: int, error_code: str, *_: Any
    ) -> None:
        self.counted.append((status, error_code))
        self.done.set()

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        return {}

    async def read(self) -> bytes:
        """Return all bytes, head included, until the connection ends."""
        reader, writer = await self.send_request()
        received = b""
        try:
            async with asyncio.timeout(20):
                while chunk := await reader.read(65_536):
                    received += chunk
        except ConnectionError:
            pass
        finally:
            writer.close()
        return received

    async def send_request(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return reader, writer


@asynccontextmanager
async def running_edge(body: Body) -> AsyncIterator[Edge]:
    edge = Edge(body)
    handler = PublicHandler(
        edge,  # type: ignore[arg-type]
        SystemClock(),
        deadline_s=5.0,
        tracing=PropagatedTracing(),
        cors=None,
        compresses_lists=True,
        request_log=RequestLog(
            SystemClock(),
            count_request=edge.count_request,
            lines=edge.recorded,
            hit_log_share=None,
            count_unlogged=lambda: None,
        ),
        limits=CallerLimits(Pace(10, 1, 10), edge, SystemClock()),
        trusted_proxies=TrustedProxies(),
        federation=None,  # type: ignore[arg-type]
        pages={},
    )
    server = ListenerServer(handler, idle_timeout_s=75.0, cancels_on_disconnect=True)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    edge.port = runner.addresses[0][1]
    try:
        yield edge
    finally:
        await runner.cleanup()


async def test_complete_stream_is_counted_as_success() -> None:
    async with running_edge(Body(3)) as edge:
        received = await edge.read()
        assert received.endswith(b"\r\n0\r\n\r\n")
        assert edge.counted == [(200, "")]
        assert edge.body.closed.is_set()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UpstreamBroken("cut"), 502, "CGW.5020"),
        (UpstreamSlow("silent"), 504, "CGW.5040"),
        (UpstreamUnreachable("reset", retry_after_s=2.0), 503, "CGW.5032"),
    ],
)
async def test_broken_stream_is_counted_by_its_error(
    error: GatewayError, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_edge(Body(3, error)) as edge:
        received = await edge.read()
        assert not received.endswith(b"0\r\n\r\n"), "a partial body must not look complete"
        assert received.count(b"HTTP/1.1") == 1
        assert edge.counted == [(status, code)]
        (line,) = edge.lines
        assert (line["status"], line["error_code"]) == (status, code)
        assert line["error"] == type(error).__name__
        assert edge.body.closed.is_set()
    assert not caplog.records


async def test_internal_error_sends_no_second_response() -> None:
    async with running_edge(Body(3, RuntimeError("ours"))) as edge:
        received = await edge.read()
        assert received.count(b"HTTP/1.1") <= 1
        assert b"CGW." not in received
        assert edge.counted == [(500, "CGW.5000")]
        assert edge.body.closed.is_set()


async def test_download_ends_at_total_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarded_response, "_DOWNLOAD_TIMEOUT_S", 0.3)
    async with running_edge(Body(1_000_000)) as edge:
        await edge.read()
        assert edge.counted == [(504, "CGW.5041")]
        assert edge.body.closed.is_set(), "the connection to the cloud must be released"


async def test_stalled_reader_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarded_response, "_WRITE_TIMEOUT_S", 0.2)
    async with running_edge(Body(1_000_000)) as edge:
        _, writer = await edge.send_request()
        async with asyncio.timeout(20):
            await edge.done.wait()
        assert edge.counted == [(504, "CGW.5041")]
        assert edge.body.closed.is_set()
        writer.close()


async def test_client_disconnect_is_counted_as_499(caplog: pytest.LogCaptureFixture) -> None:
    async with running_edge(Body(1_000_000)) as edge:
        reader, writer = await edge.send_request()
        await reader.readexactly(100_000)
        writer.transport.abort()
        async with asyncio.timeout(20):
            await edge.done.wait()
        assert edge.counted == [(499, "client_closed")]
        assert edge.body.closed.is_set()
    assert not caplog.records
