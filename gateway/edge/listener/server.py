"""Connections of a listener: limits, timeouts, draining, and errors of the HTTP parser.

Both listeners use this server, so neither has another error page, header or limit than the other.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, Protocol, cast
from weakref import WeakSet

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from gateway.domain.errors import GatewayError
from gateway.edge.listener.client_address import UNIX_PEER, canonical_address
from gateway.edge.listener.request import (
    BegunRequest,
    CheckedMessage,
    ListenerRequest,
    parse_error,
)
from gateway.flow.clock import Clock

HEAD_TIMEOUT_S = 20.0
"""How long a client may take for the head of a request."""
_LINE_BYTES_MAX: Final = 8_190
_HEADER_BYTES_MAX: Final = 65_536
"""The JWT of a person in many groups is long."""
_HEADERS_MAX: Final = 128
END_OF_HEAD: Final = b"\r\n\r\n"
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


class ExactRequests(Protocol):
    """Serves requests whose exact bytes are known (gateway/edge/public/hit_path.py)."""

    def begin(self, connection: "ListenerConnection", data: bytes) -> BegunRequest | None:
        """Begin the request of `data`; None: nothing was done, and aiohttp serves it.

        The request ends with `connection.finish` or `connection.hand_over`, or is abandoned.
        """


class ListenerServer(web.Server):
    """aiohttp's low-level server, without its router and with errors in the gateway's schema."""

    def __init__(
        self,
        handler: ListenerHandler,
        *,
        idle_timeout_s: float,
        cancels_on_disconnect: bool,
        exact_requests: ExactRequests | None = None,
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
        self._exact_requests = exact_requests
        self._handshakes: WeakSet[web.RequestHandler] = WeakSet()

    def begin_drain(self) -> None:
        """From now on each response carries `Connection: close`."""
        self.request_factory = self._make_final_request
        self._exact_requests = None
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
        connection = cast("ListenerConnection", protocol)
        request.peer = connection.peer
        request.exact, request.begun = connection.take_exact()
        return request

    def _make_final_request(self, message: RawRequestMessage, *rest: Any) -> ListenerRequest:
        return self._make_request(message._replace(should_close=True), *rest)

    def __call__(self) -> web.RequestHandler:
        return self.make_connection()

    def make_connection(self) -> "ListenerConnection":
        """Return the protocol of a connection whose transport does not exist yet."""
        connection = ListenerConnection(
            self, self._handler, self._exact_requests, loop=self._loop, **self._kwargs
        )
        self._handshakes.add(connection)
        return connection

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._handshakes.discard(handler)
        super().connection_made(handler, transport)


class ListenerConnection(web.RequestHandler):
    """aiohttp's connection, and beside it the requests that are begun from their exact bytes.

    Such a request begins only while aiohttp is at rest: it has parsed every earlier byte, each to
    the end of a request, and has answered all of them. Until the request ends, aiohttp gets no
    byte of the connection.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_ends_at_request",
        "_exact",
        "_exact_requests",
        "_handed_over",
        "_handler",
        "_head_due",
        "_unread",
        "peer",
    )

    def __init__(
        self,
        server: web.Server,
        handler: ListenerHandler,
        exact_requests: ExactRequests | None,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._handler = handler
        self._exact_requests = exact_requests
        self._head_due: asyncio.TimerHandle | None = None
        self._ends_at_request = True
        """The parser's last byte was the last one of a request, or there was none yet."""
        self._exact: bytes | None = None
        """The key of the bytes of the request that aiohttp begins next."""
        self._begun: BegunRequest | None = None
        """In progress here, not in aiohttp."""
        self._handed_over: BegunRequest | None = None
        """Given to aiohttp, which has not begun it yet."""
        self._unread = b""
        """Received while a request was in progress here."""
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
        if self._begun is not None:
            self._keep_unread(data)
            return
        if self._exact_requests is not None and self._is_at_rest:
            self._begun = self._exact_requests.begin(self, data)
            if self._begun is not None:
                self._stop_awaiting_head()
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._exact_requests is not None:
            self._follow_parser(data, self._request_count - requests)
        if self._request_count != requests:
            self._stop_awaiting_head()
        elif self._head_due is None and self._is_idle:
            self._await_head()

    def _follow_parser(self, data: bytes, added: int) -> None:
        """Note whether the parser, which reported `added` requests in `data`, is between two.

        Only heads can be followed from outside: after a body, an error or an upgrade, and if
        the parser left requests for later, no request of this connection begins here any more.
        Otherwise the parser has read all of `data`. If it reported one request, it saw one end of
        a head. With the only one of `data` at its end, no byte can belong to a next request.
        """
        if added and not self._are_heads(added):
            self._exact_requests = self._exact = None
            return
        at_end = data.find(END_OF_HEAD) == len(data) - len(END_OF_HEAD)
        self._ends_at_request = added == 1 and at_end
        if not self._ends_at_request:
            self._exact = None

    def _are_heads(self, added: int) -> bool:
        """Return whether the last requests of the queue have no body and are all there is."""
        last = islice(reversed(self._messages), added)
        return (
            not self._upgraded
            and len(self._messages) < self._max_msg_queue_size
            and all(
                payload is EMPTY_PAYLOAD and isinstance(message, RawRequestMessage)
                for message, payload in last
            )
        )

    @property
    def _is_at_rest(self) -> bool:
        """Whether aiohttp has nothing of this connection to parse, to do or to send."""
        waiter, transport = self._waiter, self.transport
        return (
            self._ends_at_request
            and waiter is not None
            and not waiter.done()
            and not self._messages
            and transport is not None
            and not (self._close or self._force_close or self._paused)
            and transport.get_write_buffer_size() == 0
        )

    def note_exact(self, key: bytes) -> None:
        """Note the key of the bytes that are about to be parsed; kept if they are one request."""
        self._exact = key

    def take_exact(self) -> tuple[bytes | None, BegunRequest | None]:
        """Return what is known here of the request that aiohttp begins now."""
        exact, self._exact = self._exact, None
        begun, self._handed_over = self._handed_over, None
        return exact, begun

    def finish(self, response: bytes) -> None:
        """End the request in progress here with its response."""
        self._begun = None
        if self.transport is not None:
            self.transport.write(response)
            self._defer_idle_timeout()
            if self._unread:
                self._read_again()

    def hand_over(self) -> None:
        """Let aiohttp parse the request in progress here, and serve the rest of it."""
        begun, self._begun = self._begun, None
        if begun is not None and self.transport is not None:
            begun.handed_over()
            self._handed_over = begun
            self._parse(begun.data)
            self._read_again()

    def _keep_unread(self, data: bytes) -> None:
        """Keep bytes that arrived too early, and read no more: responses stay in order.

        Reading goes on until then, because otherwise a disconnect would not be seen.
        """
        self._unread += data
        self._pause_transport_reading()

    def _read_again(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, b""
            self._resume_transport_reading()
            self.data_received(unread)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_awaiting_head()
        super().connection_lost(exc)
        begun = self._begun or self._handed_over
        self._begun = self._handed_over = None
        if begun is not None:
            begun.abandon()

    def close_after_response(self, make_final_request: RequestFactory) -> None:
        """Send `Connection: close` with the pending response, or with the next one."""
        self._request_factory = make_final_request
        self._exact_requests = None
        self.hand_over()
        request = self._current_request
        if request is not None:
            message = request._message  # noqa: SLF001 - `keep_alive` of a request reads it
            request._message = message._replace(should_close=True)  # noqa: SLF001

    def close_if_idle(self) -> None:
        if self._is_idle:
            self.force_close()

    @property
    def _is_idle(self) -> bool:
        return self._begun is None and self._waiter is not None and not self._waiter.done()

    def _process_keepalive(self) -> None:
        if self._begun is None:
            super()._process_keepalive()
        else:  # its record may take longer than a short idle timeout
            self._defer_idle_timeout()
            due_at = self._next_keepalive_close_time
            self._keepalive_handle = self._loop.call_at(due_at, self._process_keepalive)

    def _defer_idle_timeout(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _stop_awaiting_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

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
