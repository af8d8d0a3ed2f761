"""Sends requests over aiohttp's connection pool and parser, without the rest of its client.

Two thirds of the CPU of a call with aiohttp's session is for what a call to the cloud does not use:
merged headers, redirects, cookies, retries, middlewares, and objects that describe the request.
Requests through a proxy take the session all the same.
"""

import asyncio
from ssl import SSLContext
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

from gateway import __version__
from gateway.domain.errors import UpstreamBroken
from gateway.domain.model import Headers, UpstreamRequest

HEADER_BYTES_MAX: Final = 65_536
"""IAM tokens have tens of kilobytes (upstream-api.md#3.1)."""
_CHUNK_BYTES: Final = 65_536
DEFAULT_HEADERS: Final = {
    "User-Agent": f"console-gateway/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
}
_DEFAULTS: Final = [(name.lower(), f"{name}: {value}") for name, value in DEFAULT_HEADERS.items()]
_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})
_WITHOUT_LENGTH: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods for which a request without a body has no Content-Length (RFC 9110, 8.6)."""


class WholeResponse(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class RequestSender:
    """Sends requests to one endpoint; aiohttp's errors are those of its session."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: str,
        *,
        tls: SSLContext | None,
        body_bytes_max: int,
    ) -> None:
        url = URL(endpoint)
        # It only names the host and the TLS settings of connections, and is never sent.
        self._destination = aiohttp.ClientRequest(
            "GET",
            url,
            loop=asyncio.get_running_loop(),
            session=session,
            ssl=True if tls is None else tls,
        )
        self._session = session
        self._host = url.host_port_subcomponent or ""
        self._path = urlsplit(endpoint).path
        self._body_bytes_max = body_bytes_max

    async def send(
        self, request: UpstreamRequest, credential: Headers, *, timeout_s: float
    ) -> WholeResponse:
        """Send once and return the response; raise UpstreamBroken if its body is too long."""
        message = self._message(request, (*request.headers, *credential))
        async with asyncio.timeout(timeout_s):
            connection = await self._connect()
            try:
                response = await self._exchange(connection, request, message)
            except BaseException:
                connection.close()  # the rest of this response must not answer another request
                raise
            connection.release()
        return response

    async def _connect(self) -> Connection:
        connector = self._session.connector
        if connector is None:
            raise aiohttp.ClientConnectionError("the session is closed")
        try:
            return await connector.connect(
                self._destination, traces=[], timeout=self._session.timeout
            )
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    async def _exchange(
        self, connection: Connection, request: UpstreamRequest, message: bytes
    ) -> WholeResponse:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the connection is closed")
        protocol.set_response_params(
            skip_payload=request.method == "HEAD",
            read_until_eof=True,
            auto_decompress=not request.encoded,
            read_timeout=self._session.timeout.sock_read,
            read_bufsize=_CHUNK_BYTES,
            timeout_ceil_threshold=self._session.timeout.ceil_threshold,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )
        transport.write(message)
        protocol.start_timeout()
        return await self._receive(protocol)

    async def _receive(self, protocol: ResponseHandler) -> WholeResponse:
        while True:
            head, content = await protocol.read()
            if not 100 <= head.code < 200 or head.code == 101:  # the others are interim responses
                break
        body = await read_body(head.headers, content, bytes_max=self._body_bytes_max)
        return WholeResponse(head.code, head.headers, body)

    def _message(self, request: UpstreamRequest, headers: Headers) -> bytes:
        path, _, _ = request.path.partition("#")
        lines = [f"{request.method} {self._path}{path} HTTP/1.1"]
        names = {name.lower() for name, _ in headers}
        if not names.isdisjoint(_LENGTHS) or " " in request.method:
            raise ValueError("the sender itself writes the method and the length of the body")
        if "host" not in names:
            lines.append(f"Host: {self._host}")
        lines += [line for name, line in _DEFAULTS if name not in names]
        lines += [f"{name}: {value}" for name, value in headers]
        if request.body or request.method not in _WITHOUT_LENGTH:
            lines.append(f"Content-Length: {len(request.body)}")
        text = "\r\n".join(lines)
        if text.count("\r") >= len(lines) or text.count("\n") >= len(lines) or "\0" in text:
            raise ValueError("a header contains a line break or a NUL")
        return f"{text}\r\n\r\n".encode() + request.body


async def read_body(
    headers: CIMultiDictProxy[str], content: StreamReader, *, bytes_max: int
) -> bytes:
    """Return the body of a response; raise UpstreamBroken if it is too long."""
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length) <= bytes_max and not is_coded(headers):
        return await content.read()
    body = bytearray()
    async for chunk in content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > bytes_max:
            raise UpstreamBroken(f"the response is larger than response_bytes_max, {bytes_max}")
    return bytes(body)


def is_coded(headers: CIMultiDictProxy[str]) -> bool:
    return codings(headers) not in ("", "identity")


def codings(headers: CIMultiDictProxy[str]) -> str:
    """Return the values of all Content-Encoding headers in lower case; empty if there is none."""
    return ",".join(headers.getall("Content-Encoding", ())).strip().lower()
