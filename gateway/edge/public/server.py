"""Connections of the public listener: timeouts, draining, and errors of the HTTP parser."""

import asyncio
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from gateway.edge.public.handler import PublicHandler
from gateway.flow.clock import Clock

FIRST_REQUEST_TIMEOUT_S = 20.0
_DRAIN_POLL_S = 0.05
_IDLE_GRACE_S = 5.0
"""How long a draining process waits for one more request on an idle connection."""
_HANDSHAKE_GRACE_S = 2.0
"""How long a draining process waits for connections in their TLS handshake."""


class PublicServer(web.Server):
    """aiohttp's low-level server, without its router and with errors in the gateway's schema."""

    def __init__(self, handler: PublicHandler, **options: Any) -> None:
        # A disconnected caller must leave the queue at once (invariant 8).
        super().__init__(handler, handler_cancellation=True, **options)
        self._handler = handler
        self._handshakes: WeakSet[web.RequestHandler] = WeakSet()

    def begin_drain(self) -> None:
        """From now on each response carries `Connection: close`."""
        self.request_factory = self._make_final_request
        for connection in (*self.connections, *self._handshakes):
            cast("_PublicConnection", connection).close_after_response(self._make_final_request)

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
                    cast("_PublicConnection", connection).close_if_idle()
            waits_for_handshake = self._handshakes and for_s < _HANDSHAKE_GRACE_S
            if not self.connections and not waits_for_handshake:
                return

    def _make_final_request(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        return self._make_request(message._replace(should_close=True), *rest)

    def __call__(self) -> web.RequestHandler:
        made = _PublicConnection(self, self._handler, loop=self._loop, **self._kwargs)
        self._handshakes.add(made)
        return made

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._handshakes.discard(handler)
        super().connection_made(handler, transport)


class _PublicConnection(web.RequestHandler):
    __slots__ = ("__weakref__", "_first_request_due", "_public")

    def __init__(self, server: web.Server, handler: PublicHandler, **options: Any) -> None:
        super().__init__(server, **options)
        self._public = handler
        self._first_request_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # aiohttp's keep-alive timeout starts after the first request. Without this timer a client
        # that never sends a complete request would keep its connection without limit.
        due = self._loop.call_later(FIRST_REQUEST_TIMEOUT_S, self._close_if_silent)
        self._first_request_due = due

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._first_request_due is not None:
            self._first_request_due.cancel()
        super().connection_lost(exc)

    def close_after_response(self, make_final_request: Callable[..., web.BaseRequest]) -> None:
        """Send `Connection: close` with the pending response, or with the next one."""
        self._request_factory = make_final_request
        request = self._current_request
        if request is not None:
            message = request._message  # noqa: SLF001 - `keep_alive` of a request reads it
            request._message = message._replace(should_close=True)  # noqa: SLF001

    def close_if_idle(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
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
        return self._public.reject_malformed(status, exc)
