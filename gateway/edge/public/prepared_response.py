"""Answers that are here whole, put on the wire in one piece.

aiohttp builds a response from a dictionary of headers for every request. Here nearly all of the
head is known beforehand; this sends the bytes, through aiohttp's own transport and its own flow
control. Whatever is not plain HTTP/1.1 with keep-alive takes aiohttp's way.
"""

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.domain.model import Headers
from gateway.edge.common_headers import COMMON_HEADERS

_HEAD: Final = "".join(f"{name}: {value}\r\n" for name, value in COMMON_HEADERS.items())
_LINK: Final = "Content-Type: application/json\r\nCache-Control: no-store\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class PreparedResponse:
    """All that aiohttp's low-level server asks of a response, and no more."""

    __slots__ = ("_data", "_request")
    keep_alive = True

    def __init__(self, request: web.BaseRequest, data: bytes) -> None:
        self._request = request
        self._data = data

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        del request
        return None

    async def write_eof(self) -> None:
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the caller hung up")
        transport.write(self._data)
        await self._request.writer.drain()


def allows_prepared_response(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and request.keep_alive and request.method != "HEAD"


class ResponseEncoder:
    """Makes head and body; what all answers share is put together once."""

    __slots__ = ("_head", "_link_head")

    def __init__(self, policy: str) -> None:
        """`policy` is the value of `RateLimit-Policy`."""
        self._head = f"{_HEAD}RateLimit-Policy: {policy}\r\n"
        self._link_head = _STATUS_LINES[200] + _LINK + self._head

    def encode_link(
        self, body: bytes, request_id: str, left_s: float, now: float, limit: str | None
    ) -> bytes:
        """`now` is the wall clock's, for `Date` (RFC 9110, 6.6.1); `limit` is `RateLimit`'s."""
        limit_line = "" if limit is None else f"RateLimit: {limit}\r\n"
        head = (
            f"{self._link_head}{limit_line}Date: {_date(int(now))}\r\n"
            f"X-Request-Id: {request_id}\r\n"
            f"X-Console-Expires-In: {int(left_s)}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body

    def encode_response(
        self,
        status: int,
        headers: Headers,
        body: bytes,
        *,
        request_id: str,
        now: float,
        limit: str | None,
    ) -> bytes:
        """`headers` are of plain ASCII; an answer of this status has a body."""
        limit_line = "" if limit is None else f"RateLimit: {limit}\r\n"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        head = (
            f"{_STATUS_LINES[status]}{self._head}{lines}{limit_line}Date: {_date(int(now))}\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body


_dated = (0, "")


def _date(second: int) -> str:
    global _dated  # noqa: PLW0603 - one second's text, made once
    if _dated[0] != second:
        _dated = (second, formatdate(second, usegmt=True))
    return _dated[1]
