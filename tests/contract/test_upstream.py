"""AioUpstream against sockets that hang, reset, redirect, flood or send invalid data."""

import asyncio
import gzip
import os
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gateway.config.accounts import Timeouts
from gateway.config.egress import EgressProxy, EgressSettings
from gateway.domain.errors import GatewayError, UpstreamBroken, UpstreamSlow, UpstreamUnreachable
from gateway.domain.model import UpstreamRequest, UpstreamResponse
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.drivers.network.egress import EgressRoute
from tests.support.scripted_upstream import (
    CLOSE,
    HANG,
    PAUSE,
    RESET,
    Script,
    ok,
    scripted_upstream,
)
from tests.support.valkey import free_port

CANARY = "canary-service-token"
CREDENTIAL = (("X-Auth-Token", CANARY),)
GET = UpstreamRequest("GET", "/v1/p/physicalservers/a")
FLOOD = b"Content-Length: 50000000\r\n"


@asynccontextmanager
async def client(
    url: str, *, read_s: float = 10.0, response_bytes_max: int = 65_536, proxied: bool = False
) -> AsyncIterator[AioUpstream]:
    """With `proxied`, the cloud is its own proxy, so requests take aiohttp's session."""
    timeouts = Timeouts(connect_s=5.0, read_s=read_s, total_s=20.0)
    proxy = EgressProxy(url=url) if proxied else None
    route = EgressRoute(EgressSettings(), proxy=proxy, ca_file=None, certificate=None)
    async with open_session(timeouts) as session:
        yield AioUpstream(session, url, response_bytes_max=response_bytes_max, route=route)


async def send(
    upstream: AioUpstream, request: UpstreamRequest = GET, *, timeout_s: float = 20.0
) -> UpstreamResponse:
    return await upstream.send(request, credential=CREDENTIAL, timeout_s=timeout_s)


@pytest.mark.parametrize("proxied", [False, True])
async def test_response_of_any_status_is_returned_whole(*, proxied: bool) -> None:
    async with (
        scripted_upstream(ok(b"no", "X-Thing: 1", status="404 Not Found")) as cloud,
        client(cloud.url, proxied=proxied) as upstream,
    ):
        answer = await send(upstream)
    assert (answer.status, answer.body, answer.headers["x-thing"]) == (404, b"no", "1")


@pytest.mark.parametrize(
    "path",
    ["/v1/p/..%2F..%2Fa%3Fb?x=%7B%7d&y=a+b%20c", "/v1/p//a/./b/../c", "/v1/p/%E6%9C%BA/%zz"],
)
async def test_path_is_sent_byte_for_byte(path: str) -> None:
    async with scripted_upstream(ok()) as cloud, client(cloud.url) as upstream:
        await send(upstream, UpstreamRequest("GET", path))
    assert cloud.received[0].line == f"GET {path} HTTP/1.1"


@pytest.mark.parametrize("proxied", [False, True])
async def test_headers_body_and_credential_arrive_once(*, proxied: bool) -> None:
    request = UpstreamRequest(
        "PUT", "/x", (("Content-Type", "application/json"), ("X-Request-Id", "r")), b'{"a":1}'
    )
    async with scripted_upstream(ok()) as cloud, client(cloud.url, proxied=proxied) as upstream:
        await send(upstream, request)
    (received,) = cloud.received
    assert received.body == b'{"a":1}'
    assert received.header("X-Auth-Token") == [CANARY]
    assert received.header("Content-Type") == ["application/json"]
    assert received.header("X-Request-Id") == ["r"]
    assert received.header("Host") == [cloud.url.removeprefix("http://")]
    assert received.header("Cookie") == []
    assert received.header("Accept") == ["application/json"]
    assert received.header("Content-Length") == ["7"]


@pytest.mark.parametrize(("method", "length"), [("GET", []), ("POST", ["0"]), ("DELETE", ["0"])])
@pytest.mark.parametrize("proxied", [False, True])
async def test_request_without_body_has_the_length_of_its_method(
    method: str, length: list[str], *, proxied: bool
) -> None:
    async with scripted_upstream(ok()) as cloud, client(cloud.url, proxied=proxied) as upstream:
        await send(upstream, UpstreamRequest(method, "/x"))
    (received,) = cloud.received
    assert received.header("Content-Length") == length
    assert received.header("Content-Type") == []


async def test_interim_response_is_skipped() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with scripted_upstream([interim, *ok(b"whole")]) as cloud, client(cloud.url) as upstream:
        answer = await send(upstream)
    assert (answer.status, answer.body) == (200, b"whole")


async def test_response_to_head_has_no_body() -> None:
    head = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"]
    async with scripted_upstream(head, ok(b"next")) as cloud, client(cloud.url) as upstream:
        first = await send(upstream, UpstreamRequest("HEAD", "/x"))
        second = await send(upstream)
    assert (first.body, second.body) == (b"", b"next")
    assert cloud.connections == 1


async def test_connection_with_more_than_one_response_is_not_reused() -> None:
    both = ok(b"mine")[0] + ok(b"of another request")[0]
    async with scripted_upstream([both], ok(b"right")) as cloud, client(cloud.url) as upstream:
        first = await send(upstream)
        second = await send(upstream)
    assert (first.body, second.body) == (b"mine", b"right")
    assert cloud.connections == 2


@pytest.mark.parametrize("status", ["200 OK", "408 Request Timeout"])
@pytest.mark.parametrize("proxied", [False, True])
async def test_response_without_request_answers_no_request(status: str, *, proxied: bool) -> None:
    late = ok(b"of another request", status=status)
    async with (
        scripted_upstream([*ok(b"mine"), PAUSE, *late], ok(b"right")) as cloud,
        client(cloud.url, proxied=proxied) as upstream,
    ):
        first = await send(upstream)
        await eventually(lambda: cloud.sent == 2)
        await asyncio.sleep(0.01)  # the client has read it: the connection was idle
        second = await send(upstream)
    assert (first.body, second.body) == (b"mine", b"right")
    assert cloud.connections == 2


async def test_header_of_60_kb_is_accepted() -> None:
    token = "M" * 60_000
    async with (
        scripted_upstream(ok(b"{}", f"X-Subject-Token: {token}")) as cloud,
        client(cloud.url) as upstream,
    ):
        answer = await send(upstream)
    assert answer.headers["x-subject-token"] == token


async def test_redirect_is_not_followed() -> None:
    async with scripted_upstream(ok()) as other:
        redirect = ok(b"", f"Location: {other.url}/", status="307 Temporary Redirect")
        async with scripted_upstream(redirect) as cloud, client(cloud.url) as upstream:
            answer = await send(upstream)
    assert answer.status == 307
    assert other.received == []


async def test_cookies_are_not_stored() -> None:
    async with (
        scripted_upstream(ok(b"{}", "Set-Cookie: sid=1; Path=/")) as cloud,
        client(cloud.url) as upstream,
    ):
        await send(upstream)
        await send(upstream)
    assert [received.header("Cookie") for received in cloud.received] == [[], []]


async def test_connections_are_reused_within_one_account_only() -> None:
    async with (
        scripted_upstream(ok()) as cloud,
        client(cloud.url) as one,
        client(cloud.url) as two,
    ):
        for upstream in (one, two, one, two):
            await send(upstream)
    assert [received.connection for received in cloud.received] == [1, 2, 1, 2]


async def test_calls_do_not_wait_for_connections() -> None:
    # Waiting calls hold slots of the budget and would all be sent when the cloud recovers.
    async with scripted_upstream([HANG]) as cloud, client(cloud.url) as upstream:
        calls = [asyncio.create_task(send(upstream)) for _ in range(150)]
        await eventually(lambda: len(cloud.received) == len(calls))
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([RESET], UpstreamUnreachable),
        ([CLOSE], UpstreamUnreachable),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", CLOSE], UpstreamBroken),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", CLOSE],
            UpstreamBroken,
        ),
        ([b"SSH-2.0-OpenSSH_9\r\n", CLOSE], UpstreamBroken),
        ([CANARY.encode() + b" is no HTTP\r\n", CLOSE], UpstreamBroken),
        (ok(b"{}", "X-Long: " + "x" * 200_000), UpstreamBroken),
        (ok(b"not gzip", "Content-Encoding: gzip"), UpstreamBroken),
        ([b"HTTP/1.1 200 OK\r\n" + FLOOD + b"\r\n" + b"x" * 200_000, HANG], UpstreamBroken),
    ],
    ids=["reset", "closed", "cut", "chunks", "no-http", "quotes", "header", "no-gzip", "flood"],
)
async def test_invalid_response_raises_a_gateway_error(
    script: Script, error: type[GatewayError]
) -> None:
    async with scripted_upstream(script) as cloud, client(cloud.url) as upstream:
        with pytest.raises(error) as caught:
            await send(upstream)
    _shows_no_secret(caught.value)


async def test_reset_during_body_raises_a_gateway_error() -> None:
    script = [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", RESET]
    async with scripted_upstream(script) as cloud, client(cloud.url) as upstream:
        with pytest.raises((UpstreamBroken, UpstreamUnreachable)) as caught:
            await send(upstream)
    _shows_no_secret(caught.value)


async def test_gzip_body_is_decompressed() -> None:
    body = gzip.compress(b'{"url": 1}')
    async with (
        scripted_upstream(ok(body, "Content-Encoding: gzip")) as cloud,
        client(cloud.url) as upstream,
    ):
        answer = await send(upstream)
    assert answer.body == b'{"url": 1}'


async def test_gzip_bomb_is_stopped_at_the_bound() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with (
        scripted_upstream(ok(bomb, "Content-Encoding: gzip")) as cloud,
        client(cloud.url) as upstream,
    ):
        with pytest.raises(UpstreamBroken):
            await send(upstream)


async def test_connection_of_rejected_body_is_not_reused() -> None:
    flood = [b"HTTP/1.1 200 OK\r\n" + FLOOD + b"\r\n" + b"x" * 200_000, HANG]
    async with scripted_upstream(flood, ok(b"mine")) as cloud, client(cloud.url) as upstream:
        with pytest.raises(UpstreamBroken):
            await send(upstream)
        answer = await send(upstream)
    assert answer.body == b"mine"
    assert cloud.connections == 2


async def test_silent_server_ends_with_call_timeout() -> None:
    async with scripted_upstream([HANG]) as cloud, client(cloud.url) as upstream:
        with pytest.raises(UpstreamSlow):
            await send(upstream, timeout_s=0.5)


async def test_silence_during_body_ends_with_read_timeout() -> None:
    script = [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", HANG]
    async with scripted_upstream(script) as cloud, client(cloud.url, read_s=0.5) as upstream:
        with pytest.raises(UpstreamSlow):
            await send(upstream)


async def test_closed_port_is_unreachable() -> None:
    async with client(f"http://127.0.0.1:{free_port()}") as upstream:
        with pytest.raises(UpstreamUnreachable) as caught:
            await send(upstream)
    assert not caught.value.was_connected, "the request was not sent"
    _shows_no_secret(caught.value)


@pytest.mark.parametrize("script", [[CLOSE], [RESET]])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("proxied", [False, True])
async def test_one_send_makes_one_request(method: str, script: Script, *, proxied: bool) -> None:
    # aiohttp repeats idempotent methods automatically, without a slot of the budget.
    async with (
        scripted_upstream(ok(), script) as cloud,
        client(cloud.url, proxied=proxied) as upstream,
    ):
        await send(upstream)
        with pytest.raises(UpstreamUnreachable) as caught:
            await send(upstream, UpstreamRequest(method, "/x", body=b"{}"))
    assert caught.value.was_connected, "the cloud may have executed the request"
    assert len(cloud.received) == 2


async def test_cancelled_call_leaves_no_response_behind() -> None:
    late = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", HANG]
    async with scripted_upstream(late, ok(b"other")) as cloud, client(cloud.url) as upstream:
        first = asyncio.ensure_future(send(upstream))
        await eventually(lambda: len(cloud.received) == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        answer = await send(upstream)
    assert answer.body == b"other"
    assert [received.connection for received in cloud.received] == [1, 2]


@pytest.mark.parametrize(
    "header",
    [("X-Auth-Token", f"{CANARY}\r\nX: y"), ("Content-Length", "7"), ("Transfer-Encoding", "x")],
    ids=lambda header: header[0],
)
async def test_header_that_would_split_a_request_is_not_sent(header: tuple[str, str]) -> None:
    async with scripted_upstream(ok()) as cloud, client(cloud.url) as upstream:
        with pytest.raises(UpstreamBroken) as caught:
            await upstream.send(GET, credential=(header,), timeout_s=5.0)
    assert cloud.received == []
    _shows_no_secret(caught.value)


async def test_environment_s_proxy_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_upstream(ok(b"proxy")) as proxy, scripted_upstream(ok(b"cloud")) as cloud:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        async with client(cloud.url) as upstream:
            answer = await send(upstream)
    assert answer.body == b"cloud"


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():  # noqa: ASYNC110 - the condition changes in a server
            await asyncio.sleep(0.001)


def _shows_no_secret(error: BaseException) -> None:
    assert CANARY not in "".join(traceback.format_exception(error))
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        seen.append(link)
        assert CANARY not in repr(link)
        assert CANARY not in str(link)
        assert not isinstance(link, aiohttp.ClientResponseError) or link is error
        link = link.__cause__


@pytest.mark.parametrize("status", ["200 OK", "206 Partial Content", "299 Later"])
async def test_body_of_a_success_is_a_stream(status: str) -> None:
    """An unregistered 2xx is 200's class, so its body may be larger than what is buffered."""
    body = b"x" * 200_000
    async with (
        scripted_upstream(ok(body, status=status)) as cloud,
        client(cloud.url, response_bytes_max=65_536) as upstream,
    ):
        response = await upstream.open(GET, credential=CREDENTIAL, timeout_s=20.0)
        assert response.stream is not None
        assert b"".join([chunk async for chunk in response.stream]) == body
        await response.stream.close()


async def test_body_of_another_success_is_buffered() -> None:
    async with (
        scripted_upstream(ok(b"later", status="202 Accepted")) as cloud,
        client(cloud.url) as upstream,
    ):
        response = await upstream.open(GET, credential=CREDENTIAL, timeout_s=20.0)
    assert (response.status, response.body, response.stream) == (202, b"later", None)


CODED = UpstreamRequest("GET", "/v1/p/physicalservers/a", encoded=True)
GZIP = "Content-Encoding: gzip"
QUOTING = b'{"a": "' + b"x" * 100_000 + CANARY.encode() + b'"}'


@pytest.mark.parametrize("coding", [GZIP, "content-encoding: X-GZIP"])
async def test_coded_body_that_quotes_the_credential_is_decoded(coding: str) -> None:
    """The exchange removes secrets from plain bodies."""
    halves = gzip.compress(QUOTING[:100_020]) + gzip.compress(QUOTING[100_020:])
    for body in (gzip.compress(QUOTING), halves):
        async with (
            scripted_upstream(ok(body, coding)) as cloud,
            client(cloud.url, response_bytes_max=200_000) as upstream,
        ):
            answer = await send(upstream, CODED)
        assert answer.body == QUOTING
        assert "content-encoding" not in answer.headers


async def test_harmless_coded_body_is_unchanged() -> None:
    for size in (10, 300_000):
        body = gzip.compress(os.urandom(size))
        async with (
            scripted_upstream(ok(body, GZIP)) as cloud,
            client(cloud.url, response_bytes_max=400_000) as upstream,
        ):
            answer = await send(upstream, CODED)
        assert (answer.body, answer.headers["content-encoding"]) == (body, "gzip")


@pytest.mark.parametrize(
    ("body", "header", "problem"),
    [
        (gzip.compress(b"\0" * 50_000_000), GZIP, "larger than response_bytes_max, 65536"),
        (gzip.compress(b"x")[:-5], GZIP, "ends within its gzip coding"),
        (gzip.compress(b"x") + b"junk", GZIP, "not valid gzip"),
        (b"junk", GZIP, "not valid gzip"),
        (b"junk", "Content-Encoding: br", "not requested"),
        (gzip.compress(gzip.compress(b"x")), "Content-Encoding: gzip, gzip", "not requested"),
        (gzip.compress(gzip.compress(b"x")), f"{GZIP}\r\n{GZIP}", "not requested"),
    ],
    ids=["bomb", "cut", "trailer", "junk", "brotli", "twice", "two headers"],
)
async def test_coded_body_that_cannot_be_searched_is_rejected(
    body: bytes, header: str, problem: str
) -> None:
    async with scripted_upstream(ok(body, header)) as cloud, client(cloud.url) as upstream:
        with pytest.raises(UpstreamBroken, match=problem):
            await send(upstream, CODED)


async def _download(*script: bytes) -> tuple[bytes, GatewayError | None]:
    """Return what a download yields, and its error."""
    received = b""
    async with scripted_upstream([*script]) as cloud, client(cloud.url) as upstream:
        response = await upstream.open(GET, credential=CREDENTIAL, timeout_s=20.0)
        assert response.stream is not None
        try:
            async for chunk in response.stream:
                received += chunk
        except GatewayError as error:
            return received, error
        finally:
            await response.stream.close()
    return received, None


@pytest.mark.parametrize("cut", [1, 7, 19])
async def test_download_that_quotes_the_credential_is_broken_off(cut: int) -> None:
    begin, end = b"log line\n" * 20_000 + CANARY[:cut].encode(), CANARY[cut:].encode() + b"\nmore"
    (head,) = ok(b"")
    head = head.replace(b"Content-Length: 0", b"Content-Length: %d" % len(begin + end))
    if cut == 1:
        head = head.replace(b"\r\n\r\n", b"\r\nContent-Encoding: identity\r\n\r\n")
    received, error = await _download(head, begin, end)
    assert isinstance(error, UpstreamBroken)
    assert CANARY not in str(error)
    assert begin.startswith(received)
    assert not received.endswith(CANARY[:cut].encode())


async def test_compressed_download_is_not_searched() -> None:
    """An archive that the cloud has stored: see decisions.md."""
    body = gzip.compress(CANARY.encode())
    assert await _download(*ok(body, GZIP)) == (body, None)
    assert await _download(*ok(body, "Content-Type: application/gzip")) == (body, None)
