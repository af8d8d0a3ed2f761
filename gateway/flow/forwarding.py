"""Stage obtain for forwards: Permit -> the cloud's response, whole, streamed, or filtered."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.catalogue.headers import keeps_content_encoding, response_headers
from gateway.domain.catalogue.listing import visible_entries
from gateway.domain.errors import BudgetExhausted, NotPermitted
from gateway.domain.model import (
    BodyStream,
    Headers,
    ProjectId,
    QueueRequest,
    ResponseKind,
    UpstreamRequest,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.policy.rules import Scope
from gateway.flow.attempts import Attempts
from gateway.flow.exchange import Exchange
from gateway.flow.listings import Listings

_STREAMS_PER_CALLER_MAX = 2
_STREAM_RETRY_S = 10.0
_BODY_FRAMING: Final = ("Content-Length", "Content-Range")
_CODING: Final = "Content-Encoding"
JSON: Final = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class OutgoingCall:
    """A permitted call, and how it is to be sent."""

    permit: Permit
    queue_request: QueueRequest
    attempts: Attempts
    """Decides on the call again before each attempt, and when a list is filtered."""
    deadline: float
    """Monotonic seconds."""
    fresh: bool
    headers: Headers
    """The caller's headers that are forwarded."""


@dataclass(frozen=True, slots=True)
class ForwardedResponse:
    """The part of the cloud's response that the caller may see."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    stream: BodyStream | None = None
    """Replaces `body`; the receiver closes it."""


class Forwarding:
    def __init__(self, exchanges: Mapping[ProjectId, Exchange], listings: Listings) -> None:
        """`exchanges` by project."""
        self._exchanges = exchanges
        self._listings = listings
        self._streams: Counter[str | Exchange] = Counter()
        """Open streams, by caller and by account."""

    async def forward(self, outgoing: OutgoingCall) -> ForwardedResponse:
        """Send the call and return its response.

        Raises NotPermitted, BadRequest, what `attempts` raises and what Exchange.call raises.
        """
        call = outgoing.permit.call
        if call.project not in self._exchanges:
            raise NotPermitted("no account has this project")
        match call.operation.response:
            case ResponseKind.LISTED:
                return await self._list(outgoing)
            case ResponseKind.STREAMED:
                return await self._stream(outgoing)
            case _:
                return await self._send(outgoing)

    async def _send(self, outgoing: OutgoingCall) -> ForwardedResponse:
        call = outgoing.permit.call
        operation = call.operation
        response = await self._exchanges[call.project].call(
            UpstreamRequest(
                operation.method,
                call.target,
                outgoing.headers,
                call.body,
                repeatable=operation.repeatable or not operation.writes,
                encoded=keeps_content_encoding(operation.response),
                streamed=operation.response is ResponseKind.STREAMED,
            ),
            project=call.project,
            queue_request=outgoing.queue_request,
            budget=operation.budget,
            deadline=outgoing.deadline,
            attempts=outgoing.attempts,
        )
        headers = response_headers(response.headers, operation.response)
        if response.stream is None:  # the body was read, so the gateway frames and encodes it
            is_whole = operation.response is ResponseKind.WHOLE
            own = _BODY_FRAMING if is_whole else (*_BODY_FRAMING, _CODING)
            headers = tuple(pair for pair in headers if pair[0] not in own)
        return ForwardedResponse(response.status, headers, response.body, response.stream)

    async def _list(self, outgoing: OutgoingCall) -> ForwardedResponse:
        if _scope(outgoing.permit).total:  # the caller may see everything: the cloud's own page
            response = await self._send(outgoing)
            if _scope(outgoing.attempts.permitted_now()).total:
                return response
        call = outgoing.permit.call
        pages = await self._listings.read(
            call,
            outgoing.queue_request,
            deadline=outgoing.deadline,
            fresh=outgoing.fresh,
            headers=outgoing.headers,
        )
        scope = _scope(outgoing.attempts.permitted_now())
        page = visible_entries(pages, scope.predicate, scope.candidates).encode_page(call)
        return ForwardedResponse(200, JSON, page)

    async def _stream(self, outgoing: OutgoingCall) -> ForwardedResponse:
        # A slow reader holds a connection to the cloud for minutes; only this limits their number.
        permit = outgoing.permit
        caller, account = permit.principal.key, self._exchanges[permit.call.project]
        is_caller_full = self._streams[caller] >= _STREAMS_PER_CALLER_MAX
        if is_caller_full or self._streams[account] >= account.streams_max:
            raise BudgetExhausted("too many concurrent downloads", retry_after_s=_STREAM_RETRY_S)
        self._streams.update((caller, account))
        try:
            response = await self._send(outgoing)
        except BaseException:
            self._release(caller, account)
            raise
        if response.stream is None:
            self._release(caller, account)
            return response
        counted = _CountedStream(response.stream, lambda: self._release(caller, account))
        return ForwardedResponse(response.status, response.headers, b"", counted)

    def _release(self, *counted: str | Exchange) -> None:
        for one in counted:
            self._streams[one] -= 1
            if not self._streams[one]:
                del self._streams[one]


def _scope(permit: Permit | None) -> Scope:
    assert permit is not None
    assert permit.scope is not None
    return permit.scope


class _CountedStream:
    """A stream that calls `on_close` once, when it is closed."""

    def __init__(self, stream: BodyStream, on_close: Callable[[], None]) -> None:
        self._stream = stream
        self._on_close: Callable[[], None] | None = on_close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def close(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
        await self._stream.close()
