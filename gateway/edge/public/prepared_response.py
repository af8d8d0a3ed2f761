"""Fast path for buffered responses: one write of prepared bytes.

aiohttp builds each response from a dictionary of headers. Here most of the head is constant, so
the bytes are sent through aiohttp's transport and flow control directly. Requests other than
HTTP/1.1 with keep-alive use aiohttp's responses.
"""

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.domain.model import Headers
from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.rate_limit_fields import rate_limit_field

_HEAD: Final = "".join(f"{name}: {value}\r\n" for name, value in COMMON_HEADERS.items())
_LINK: Final = "Content-Type: application/json\r\nCache-Control: no-store\r\n"
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class PreparedResponse:
    """The part of the response interface that aiohttp's low-level server uses."""

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
            raise ConnectionResetError("the client disconnected")
        transport.write(self._data)
        await self._request.writer.drain()


def allows_prepared_response(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and request.keep_alive and request.method != "HEAD"


class ResponseEncoder:
    """Encodes head and body; the constant part of the head is encoded once."""

    __slots__ = ("_dated_link_head", "_head", "_link_head")

    def __init__(self, policy: str, *, varies_by_origin: bool) -> None:
        """`policy` is the value of `RateLimit-Policy`."""
        vary = "Vary: Origin\r\n" if varies_by_origin else ""
        self._head = f"{_HEAD}{vary}RateLimit-Policy: {policy}\r\n"
        self._link_head = _STATUS_LINES[200] + _LINK + self._head
        self._dated_link_head = (0, b"")
        """The head up to the value of RateLimit, and the second of its date."""

    def encode_link(
        self, body: bytes, request_id: bytes, left_s: float, now: float, limit: tuple[int, int]
    ) -> bytes:
        """`now` is wall clock time for `Date` (RFC 9110, 6.6.1); `limit` as in `Remaining`."""
        second = int(now)
        if self._dated_link_head[0] != second:
            dated = f"{self._link_head}Date: {_date(second)}\r\nRateLimit: "
            self._dated_link_head = second, dated.encode("ascii")
        varying = (
            f"{rate_limit_field(limit)}\r\nX-Console-Expires-In: {int(left_s)}\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: "
        )
        parts = self._dated_link_head[1], varying.encode("ascii"), request_id, b"\r\n\r\n", body
        return b"".join(parts)

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
        """`headers` must be ASCII, and a response of this status must have a body."""
        limit_line = "" if limit is None else f"RateLimit: {limit}\r\n"
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        head = (
            f"{_status_line(status)}{self._head}{lines}{limit_line}Date: {_date(int(now))}\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body


def _status_line(status: int) -> str:
    # RFC 9110, 15: the cloud may use a status that is not registered, and a phrase is optional.
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"


_dated = (0, "")


def _date(second: int) -> str:
    global _dated  # noqa: PLW0603 - formatted once per second
    if _dated[0] != second:
        _dated = (second, formatdate(second, usegmt=True))
    return _dated[1]
