"""An HTTP request whose target, Host, version and framing are checked before any handler runs."""

import re
from functools import lru_cache
from typing import Final, Protocol

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

from gateway.domain.errors import (
    BadRequest,
    GatewayError,
    HttpVersionUnsupported,
    RequestTooLarge,
    TooManyHeaders,
)

_METHOD_UNKNOWN = "Unknown HTTP method. /docs lists the methods of each path."
_MALFORMED = "Malformed HTTP request. Check for duplicate headers, or use an HTTP client like curl."
_HOST_INVALID = "The Host header must be a host name or an IP address, with an optional port."
_TARGET_INVALID = "The request target must be a path, or an http or https URL with the same host."
_TOO_MANY_HEADERS: Final = "Too many headers received"
"""The text of aiohttp's error, which has no class of its own."""

_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
"""RFC 3986, 3.2.2, without the sub-delimiters, which no host name has."""
_HOST_CHARS_MAX: Final = 261
"""A DNS name of 255 octets and a port. It also bounds the cache."""
_ABSOLUTE_TARGET = re.compile(r"(https?)://([^/?#]+)([^#]*)", re.IGNORECASE)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class BegunRequest(Protocol):
    """A request that was begun from its exact bytes, without aiohttp."""

    @property
    def data(self) -> bytes:
        """Its exact bytes."""

    def handed_over(self) -> None:
        """Note that aiohttp parses it, and that a handler serves the rest of it."""

    def abandon(self) -> None:
        """End it, because the client has disconnected."""


class ListenerRequest(web.BaseRequest):
    """A request of either listener."""

    rejection: GatewayError | None = None
    """Why the request line or Host is invalid. The response then closes the connection."""
    awaits_continue = False
    """The client waits for `100 Continue` before it sends the body (RFC 9110, 10.1.1)."""
    peer = ""
    """The canonical address of the client, or of the last proxy."""
    exact: "bytes | None" = None
    """The key of the exact bytes, if they are known to be this one request and no more."""
    begun: "BegunRequest | None" = None
    """Set if the request was begun without aiohttp, which serves the rest of it."""

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after the response.

        A client that awaits `100 Continue` and gets a final response may or may not send the
        body: what follows on the connection could be read as a body or as a request.
        """
        return not (self._message.should_close or self.awaits_continue)

    async def send_continue(self) -> None:
        """Send `100 Continue` if the client waits for it."""
        if self.awaits_continue:
            self.awaits_continue = False
            await self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.writer.output_size = 0  # the response has not begun


class CheckedMessage:
    """A parsed message, changed to what the gateway understands by it."""

    __slots__ = ("awaits_continue", "message", "rejection")

    def __init__(self, message: RawRequestMessage) -> None:
        self.message = message
        self.rejection: GatewayError | None = None
        self.awaits_continue = False
        headers = message.headers
        host = headers.get("Host", "")
        if message.version != HttpVersion11:
            self._check_version()
        elif "Expect" in headers:
            self.awaits_continue = headers["Expect"].lower() == "100-continue"
        if not is_valid_host(host):
            self._reject(BadRequest(_HOST_INVALID))
        elif not message.path.startswith("/"):
            self._make_origin_form(host)

    def _check_version(self) -> None:
        version = self.message.version
        if version != HttpVersion10:
            self.message = self.message._replace(version=HttpVersion11)
            self._reject(HttpVersionUnsupported())
        elif "Transfer-Encoding" in self.message.headers:
            # RFC 9112, 6.1: HTTP/1.0 has no transfer codings, so the framing is faulty.
            self.message = self.message._replace(should_close=True)

    def _make_origin_form(self, host: str) -> None:
        """Replace an absolute-form target by its path (RFC 9112, 3.2.2)."""
        method, target = self.message.method, self.message.path
        if method == "OPTIONS" and target == "*":
            return
        found = _ABSOLUTE_TARGET.fullmatch(target)
        if found is None or method == "CONNECT":
            self._reject(BadRequest(_TARGET_INVALID))
            return
        scheme, authority, rest = found[1].lower(), found[2], found[3]
        is_ours = not host or _origin(scheme, authority) == _origin(scheme, host)
        if not is_ours or not is_valid_host(authority):
            self._reject(BadRequest(_TARGET_INVALID))
            return
        path, mark, query = rest.partition("?")
        path = path or "/"
        url = URL.build(path=path, query_string=query, encoded=True)
        self.message = self.message._replace(path=path + mark + query, url=url)

    def _reject(self, error: GatewayError) -> None:
        if self.rejection is None:
            self.rejection = error
            self.message = self.message._replace(should_close=True)


def parse_error(cause: BaseException | None) -> GatewayError:
    """Return the error to send for an exception of aiohttp's HTTP parser."""
    match cause:
        case LineTooLong():
            return RequestTooLarge()
        case BadStatusLine() if "HTTP version" in cause.message:
            return HttpVersionUnsupported()
        case BadHttpMethod():
            return BadRequest(_METHOD_UNKNOWN)
        case HttpProcessingError(message=message) if message == _TOO_MANY_HEADERS:
            return TooManyHeaders()
        case _:
            return BadRequest(_MALFORMED)


def is_valid_host(value: str) -> bool:
    """Return whether a Host value conforms to `uri-host [":" port]` (RFC 9112, 3.2)."""
    return len(value) <= _HOST_CHARS_MAX and _conforms(value)


@lru_cache(maxsize=1_024)
def _conforms(host: str) -> bool:
    return _HOST.fullmatch(host) is not None


def _origin(scheme: str, authority: str) -> str:
    """Return the authority in lower case, without the default port of the scheme."""
    lower = authority.lower()
    return lower.removesuffix(_DEFAULT_PORTS[scheme]).removesuffix(":")
