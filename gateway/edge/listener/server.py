"""Connections of a listener: limits, timeouts, draining, and errors of the HTTP parser.

Both listeners use this server, so neither has another error page, header or limit than the other.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, cast
from weakref import WeakSet

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from gateway.domain.errors import GatewayError
from gateway.edge.listener.client_address import UNIX_PEER, canonical_address
from gateway.edge.listener.request import CheckedMessage, ListenerRequest, parse_error
from gateway.flow.clock import Clock

HEAD_TIMEOUT_S = 20.0
"""How long a client may take for the head of a request."""
_LINE_BYTES_MAX: Final = 8_190
_HEADER_BYTES_MAX: Final = 65_536
"""The JWT of a person in many groups is long."""
_HEADERS_MAX: Final = 128
_DRAIN_POLL_S = 0.05
_IDLE_GRACE_S = 5.0
"""How long a draining process waits for one more request on an idle connection."""
_HANDSHAKE_GRACE_S = 2.0
"""How long a draining process waits for connections in their TLS handshake."""

RequestFactory = Callable[
    [
        RawRequestMessage,
        StreamReader,
        web.RequestHandler,
        AbstractStreamWriter,
        "asyncio.Task[None]",
    ],
    ListenerRequest,
]


class ListenerHandler(Protocol):
    async def __call__(self, request: ListenerRequest, /) -> web.StreamResponse:
        """Respond to a request; one with a `rejection` is answered with that error."""

    def reject(
        self, request: ListenerRequest, error: GatewayError | None, cause: BaseException | None
    ) -> web.Response:
        """Respond to a request without a valid head; `error` is None for an internal error."""


class ListenerServer(web.Server):
    """aiohttp's low-level server, without its router and with errors in the gateway's schema."""

    def __init__(
        self, handler: ListenerHandler, *, idle_timeout_s: float, cancels_on_disconnect: bool
    ) -> None:
        super().__init__(
            cast("Any", handler),
            handler_cancellation=cancels_on_disconnect,
            access_log=None,  # the handler writes one line per request
            max_line_size=_LINE_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            max_headers=_HEADERS_MAX,
            keepalive_timeout=idle_timeout_s,
            auto_decompress=False,
        )
        self._handler = handler
        self._handshakes: WeakSet[web.RequestHandler] = WeakSet()

    def begin_drain(self) -> None:
        """From now on each response carries `Connection: close`."""
        self.request_factory = self._make_final_request
        for connection in (*self.connections, *self._handshakes):
            cast("ListenerConnection", connection).close_after_response(self._make_final_request)

    async def drain(self, clock: Clock, *, within_s: float) -> None:
        """Return when all connections are closed, or after `within_s`.

        An idle connection gets `_IDLE_GRACE_S` for one last request. aiohttp's own shutdown
        closes it at once and loses a request that is in transit, or the rest of a request body.
        """
        began = clock.monotonic()
        while (for_s := clock.monotonic() - began) < within_s:
            await clock.sleep(_DRAIN_POLL_S)  # the first pass covers connections just accepted
            if for_s >= _IDLE_GRACE_S:
                for connection in self.connections:
                    cast("ListenerConnection", connection).close_if_idle()
            waits_for_handshake = self._handshakes and for_s < _HANDSHAKE_GRACE_S
            if not self.connections and not waits_for_handshake:
                return

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> ListenerRequest:
        checked = CheckedMessage(message)
        request = ListenerRequest(checked.message, payload, protocol, writer, task, self._loop)
        request.rejection = checked.rejection
        request.awaits_continue = checked.awaits_continue and request.body_exists
        request.peer = cast("ListenerConnection", protocol).peer
        return request

    def _make_final_request(self, message: RawRequestMessage, *rest: Any) -> ListenerRequest:
        return self._make_request(message._replace(should_close=True), *rest)

    def __call__(self) -> web.RequestHandler:
        return self.make_connection()

    def make_connection(self) -> "ListenerConnection":
        """Return the protocol of a connection whose transport does not exist yet."""
        connection = ListenerConnection(self, self._handler, loop=self._loop, **self._kwargs)
        self._handshakes.add(connection)
        return connection

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._handshakes.discard(handler)
        super().connection_made(handler, transport)


class ListenerConnection(web.RequestHandler):
    __slots__ = ("__weakref__", "_handler", "_head_due", "peer")

    def __init__(self, server: web.Server, handler: ListenerHandler, **options: Any) -> None:
        super().__init__(server, **options)
        self._handler = handler
        self._head_due: asyncio.TimerHandle | None = None
        self.peer = ""
        """The canonical address of the client or the last proxy; a PROXY header may set it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.peer:
            peername = transport.get_extra_info("peername")
            self.peer = canonical_address(peername[0]) if isinstance(peername, tuple) else UNIX_PEER
        # aiohttp limits only the time between two requests. Without this timer a client that
        # never sends a complete head would keep its connection for as long.
        self._await_head()

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests:
            if self._head_due is not None:
                self._head_due.cancel()
                self._head_due = None
        elif self._head_due is None and self._is_idle:
            self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
        super().connection_lost(exc)

    def close_after_response(self, make_final_request: RequestFactory) -> None:
        """Send `Connection: close` with the pending response, or with the next one."""
        self._request_factory = make_final_request
        request = self._current_request
        if request is not None:
            message = request._message  # noqa: SLF001 - `keep_alive` of a request reads it
            request._message = message._replace(should_close=True)  # noqa: SLF001

    def close_if_idle(self) -> None:
        if self._is_idle:
            self.force_close()

    @property
    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _await_head(self) -> None:
        self._head_due = self._loop.call_later(HEAD_TIMEOUT_S, self._close_for_lack_of_head)

    def _close_for_lack_of_head(self) -> None:
        self._head_due = None
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may quote the request
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; a second one cannot be sent") from exc
        error = parse_error(exc) if status < HTTPStatus.INTERNAL_SERVER_ERROR else None
        response = self._handler.reject(cast("ListenerRequest", request), error, exc)
        response.force_close()
        return response
