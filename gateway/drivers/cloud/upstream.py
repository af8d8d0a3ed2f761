"""HTTP client for the cloud, with one connection pool per account (port `Upstream`)."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from gateway.config.accounts import Timeouts
from gateway.domain.errors import UpstreamBroken, UpstreamSlow, UpstreamUnreachable
from gateway.domain.model import Headers, UpstreamRequest, UpstreamResponse, is_ok
from gateway.domain.upstream.redaction import SecretSearch, redact_body, secrets_in
from gateway.drivers.cloud.clean_connector import CleanConnector
from gateway.drivers.cloud.request_sender import (
    DEFAULT_HEADERS,
    HEADER_BYTES_MAX,
    RequestSender,
    WholeResponse,
    codings,
    is_coded,
    read_body,
)
from gateway.drivers.network.connection_errors import describe_error
from gateway.drivers.network.egress import EgressRoute

_CHUNK_BYTES = 65_536
_GZIP = ("gzip", "x-gzip")
_INLINE_BYTES_MAX = 65_536
"""A larger body is decompressed in a thread: the event loop must not wait for it."""
_NO_ROUNDING_S = 86_400.0
"""Above this, aiohttp rounds timeouts up to whole seconds, which may exceed a deadline."""


@asynccontextmanager
async def open_session(timeouts: Timeouts) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client for one account; accounts do not share connections.

    The pool has no size limit. A call that waited for a free connection would already hold a slot
    of the budget, and all waiting calls would be sent at once when a slow cloud recovers. The
    budget and the timeouts limit the number of calls in flight.
    """
    session = aiohttp.ClientSession(
        connector=CleanConnector(
            limit=0,
            limit_per_host=0,
            keepalive_timeout=30.0,
            ttl_dns_cache=60,
            timeout_ceil_threshold=_NO_ROUNDING_S,
        ),
        timeout=aiohttp.ClientTimeout(
            total=timeouts.total_s,
            sock_connect=timeouts.connect_s,
            sock_read=timeouts.read_s,
            ceil_threshold=_NO_ROUNDING_S,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),  # one caller's cookie must not be sent for another
        headers=DEFAULT_HEADERS,
        skip_auto_headers={"Content-Type"},
        trust_env=False,
        auto_decompress=True,
        raise_for_status=False,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
        requote_redirect_url=False,
        middlewares=(_send_once,),
    )
    async with session:
        yield session


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Prevent aiohttp's automatic retry: the second call would have no slot of the budget."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent; aiohttp does not retry it
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _unreachable(f"connection lost: {type(error).__name__}") from None


class AioUpstream:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        *,
        response_bytes_max: int,
        route: EgressRoute | None = None,
    ) -> None:
        """Without `route`, connections are direct."""
        self._route = {} if route is None else route.options(endpoint)
        self._session = session
        self._endpoint = endpoint
        self._response_bytes_max = response_bytes_max
        self._sender = None
        if "proxy" not in self._route:
            self._sender = RequestSender(
                session, endpoint, tls=self._route.get("ssl"), body_bytes_max=response_bytes_max
            )

    async def send(
        self,
        request: UpstreamRequest,
        *,
        credential: Headers,
        timeout_s: float,
    ) -> UpstreamResponse:
        timeout_s = min(timeout_s, self._session.timeout.total or timeout_s)
        with _translated():
            if self._sender is not None:
                response = await self._sender.send(request, credential, timeout_s=timeout_s)
            else:
                response = await self._send_in_session(request, credential, timeout_s)
            status, headers, body = response
            if not request.encoded or not is_coded(headers):
                return UpstreamResponse(status, headers, body)
            if status >= HTTPStatus.BAD_REQUEST:  # the gateway reads error bodies
                return UpstreamResponse(status, headers, self._decoded(headers, body))
            found = await self._searched(headers, body, secrets_in(credential))
            return UpstreamResponse(status, *found)

    async def _send_in_session(
        self, request: UpstreamRequest, credential: Headers, timeout_s: float
    ) -> WholeResponse:
        async with self._session.request(
            request.method,
            URL(self._endpoint + request.path, encoded=True),
            headers=[*request.headers, *credential],
            data=request.body or None,
            allow_redirects=False,
            timeout=_within(self._session.timeout, timeout_s),
            auto_decompress=not request.encoded,
            **self._route,
        ) as response:
            body = await self._read(response)
            return WholeResponse(response.status, response.headers, body)

    async def open(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        timeout = _within(self._session.timeout, None)
        with _translated():
            async with asyncio.timeout(timeout_s):
                response = await self._session.request(
                    request.method,
                    URL(self._endpoint + request.path, encoded=True),
                    headers=[*request.headers, *credential],
                    allow_redirects=False,
                    timeout=timeout,
                    auto_decompress=False,
                    **self._route,
                )
                if is_ok(response.status) or response.status == HTTPStatus.PARTIAL_CONTENT:
                    return UpstreamResponse(
                        response.status,
                        response.headers,
                        b"",
                        _ResponseBody(response, secrets_in(credential)),
                    )
                async with response:
                    body = self._decoded(response.headers, await self._read(response))
                    return UpstreamResponse(response.status, response.headers, body)

    async def _searched(
        self, headers: CIMultiDictProxy[str], body: bytes, secrets: Collection[str]
    ) -> tuple[Mapping[str, str], bytes]:
        """Return a coded body unchanged, or decoded if it quotes a secret: `judge` removes it."""
        if not body:
            return headers, body
        if codings(headers) not in _GZIP:
            raise UpstreamBroken("the response has a content coding that was not requested")
        gunzip = partial(_gunzip, body, bytes_max=self._response_bytes_max)
        decoded = await asyncio.to_thread(gunzip) if len(body) > _INLINE_BYTES_MAX else gunzip()
        if redact_body(decoded, secrets) is decoded:
            return headers, body
        plain = {
            name.lower(): value
            for name, value in headers.items()
            if name.lower() not in ("content-encoding", "content-length")
        }
        return plain, decoded

    def _decoded(self, headers: CIMultiDictProxy[str], body: bytes) -> bytes:
        if codings(headers) not in _GZIP:
            return body
        try:
            unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            return unzip.decompress(body, self._response_bytes_max)
        except zlib.error:
            return b""

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        bytes_max = self._response_bytes_max
        return await read_body(response.headers, response.content, bytes_max=bytes_max)


def _gunzip(body: bytes, *, bytes_max: int) -> bytes:
    """Decompress all members of a gzip body (RFC 1952, 2.2); raise UpstreamBroken."""
    decoded = b""
    try:
        while body:
            unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            decoded += unzip.decompress(body, bytes_max - len(decoded) + 1)
            if len(decoded) > bytes_max:
                raise UpstreamBroken(f"the response is larger than response_bytes_max, {bytes_max}")
            if not unzip.eof:
                raise UpstreamBroken("the response ends within its gzip coding")
            body = unzip.unused_data
    except zlib.error:
        raise UpstreamBroken("the response is not valid gzip") from None
    return decoded


class _ResponseBody:
    """Implements model.BodyStream. A body that quotes a secret is broken off before it.

    A body with a content coding is not searched. The gateway requests none, so it is like an
    archive: data that the cloud has stored in this form.
    """

    def __init__(self, response: aiohttp.ClientResponse, secrets: Collection[str]) -> None:
        self._response = response
        self._secrets = () if is_coded(response.headers) else secrets

    async def __aiter__(self) -> AsyncIterator[bytes]:
        search = SecretSearch(self._secrets)
        with _translated():
            async for chunk in self._response.content.iter_chunked(_CHUNK_BYTES):
                harmless = search.add(chunk)
                if harmless is None:
                    raise UpstreamBroken("the download quotes the credential of the request")
                if harmless:
                    yield harmless
            if rest := search.rest():
                yield rest

    async def close(self) -> None:
        self._response.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Translate aiohttp's errors; their text holds addresses and header values."""
    try:
        yield
    except TimeoutError as error:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            raise _not_connected("no connection in time") from None
        raise UpstreamSlow("no response in time") from None
    except aiohttp.ClientProxyConnectionError as error:
        reason = describe_error(error.os_error)
        raise _not_connected(f"no connection to the proxy: {reason}") from None
    except aiohttp.ClientHttpProxyError as error:
        raise _not_connected(f"the proxy rejects the connection: {error.status}") from None
    except aiohttp.ClientConnectorError as error:
        raise _not_connected(f"no connection: {describe_error(error.os_error)}") from None
    except (aiohttp.ServerDisconnectedError, OSError) as error:
        raise _unreachable(f"connection lost: {type(error).__name__}") from None
    except (aiohttp.ClientError, HttpProcessingError, ValueError) as error:
        raise UpstreamBroken(f"invalid response: {type(error).__name__}") from None


def _within(timeout: aiohttp.ClientTimeout, total_s: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=total_s,
        sock_connect=timeout.sock_connect,
        sock_read=timeout.sock_read,
        ceil_threshold=timeout.ceil_threshold,
    )


def _not_connected(detail: str) -> UpstreamUnreachable:
    error = _unreachable(detail)
    error.was_connected = False
    return error


def _unreachable(detail: str) -> UpstreamUnreachable:
    return UpstreamUnreachable(detail, retry_after_s=2.0)
