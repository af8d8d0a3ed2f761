"""Permit -> the cloud's answer, whole, as a stream, or filtered to what the caller may see."""

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
from gateway.domain.policy.policy import Permit, Scope
from gateway.flow.attempts import Attempts
from gateway.flow.exchange import Exchange
from gateway.flow.listings import Listings

_STREAMS_PER_CALLER_MAX = 2
_STREAM_RETRY_S = 10.0
_OF_STREAMS: Final = ("Content-Length", "Content-Range")
_CODING: Final = "Content-Encoding"
JSON: Final = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class ForwardedResponse:
    """What the cloud said of a call, as far as it is for the caller."""

    status: int
    headers: Headers
    body: bytes = field(repr=False)
    stream: BodyStream | None = None
    """Instead of a body; whoever is given it closes it."""


class Forwarding:
    def __init__(self, exchanges: Mapping[ProjectId, Exchange], listings: Listings) -> None:
        """`exchanges` by project."""
        self._exchanges = exchanges
        self._listings = listings
        self._streams: Counter[str | Exchange] = Counter()
        """Under way, by caller and by account."""

    async def forward(
        self,
        permit: Permit,
        queue_request: QueueRequest,
        *,
        attempts: Attempts,
        deadline: float,
        fresh: bool,
        headers: Headers,
    ) -> ForwardedResponse:
        """Send the call and return its answer.

        `attempts` decides on the call anew: when it is sent, for it may have waited long, and
        when a list is cut, which shows what the policy and the inventory then in force allow.
        Raises what that raises, NotPermitted, BadRequest and what Exchange.call raises.
        """
        call = permit.call
        if call.project not in self._exchanges:
            raise NotPermitted("no account has this project")
        match call.operation.response:
            case ResponseKind.LISTED:
                return await self._listed(permit, attempts, queue_request, deadline, fresh, headers)
            case ResponseKind.STREAMED:
                return await self._streamed(permit, attempts, queue_request, deadline, headers)
            case _:
                return await self._sent(permit, attempts, queue_request, deadline, headers)

    async def _sent(
        self,
        permit: Permit,
        attempts: Attempts,
        queue_request: QueueRequest,
        deadline: float,
        headers: Headers,
    ) -> ForwardedResponse:
        call = permit.call
        operation = call.operation
        answer = await self._exchanges[call.project].call(
            UpstreamRequest(
                operation.method,
                call.target,
                headers,
                call.body,
                repeatable=operation.repeatable or not operation.writes,
                encoded=keeps_content_encoding(operation.response),
                streamed=operation.response is ResponseKind.STREAMED,
            ),
            project=call.project,
            queue_request=queue_request,
            budget=operation.budget,
            deadline=deadline,
            attempts=attempts,
        )
        returned = response_headers(answer.headers, operation.response)
        if answer.stream is None:  # it is here whole, so its length and coding are ours to tell
            ours = (
                _OF_STREAMS if operation.response is ResponseKind.WHOLE else (*_OF_STREAMS, _CODING)
            )
            returned = tuple(pair for pair in returned if pair[0] not in ours)
        return ForwardedResponse(answer.status, returned, answer.body, answer.stream)

    async def _listed(
        self,
        permit: Permit,
        attempts: Attempts,
        queue_request: QueueRequest,
        deadline: float,
        fresh: bool,  # noqa: FBT001
        headers: Headers,
    ) -> ForwardedResponse:
        if _scope(permit).total:  # nothing is hidden from this caller: the cloud's own pages
            sent = await self._sent(permit, attempts, queue_request, deadline, headers)
            if _scope(attempts.permitted_now()).total:
                return sent
        pages = await self._listings.read(
            permit.call, queue_request, deadline=deadline, fresh=fresh, headers=headers
        )
        scope = _scope(attempts.permitted_now())
        return ForwardedResponse(
            200, JSON, visible_entries(pages, scope.predicate).encode_page(permit.call)
        )

    async def _streamed(
        self,
        permit: Permit,
        attempts: Attempts,
        queue_request: QueueRequest,
        deadline: float,
        headers: Headers,
    ) -> ForwardedResponse:
        # Slow readers hold connections for minutes: nothing else bounds how many there are.
        caller, account = permit.principal.key, self._exchanges[permit.call.project]
        busy = self._streams[caller] >= _STREAMS_PER_CALLER_MAX
        if busy or self._streams[account] >= account.streams_max:
            raise BudgetExhausted("too many downloads at once", retry_after_s=_STREAM_RETRY_S)
        self._streams.update((caller, account))
        try:
            sent = await self._sent(permit, attempts, queue_request, deadline, headers)
        except BaseException:
            self._ended(caller, account)
            raise
        if sent.stream is None:
            self._ended(caller, account)
            return sent
        counted = _CountedStream(sent.stream, lambda: self._ended(caller, account))
        return ForwardedResponse(sent.status, sent.headers, b"", counted)

    def _ended(self, *counted: str | Exchange) -> None:
        for one in counted:
            self._streams[one] -= 1
            if not self._streams[one]:
                del self._streams[one]


def _scope(permit: Permit | None) -> Scope:
    assert permit is not None
    assert permit.scope is not None
    return permit.scope


class _CountedStream:
    """A stream that says once that it is closed."""

    def __init__(self, stream: BodyStream, closed: Callable[[], None]) -> None:
        self._stream = stream
        self._closed: Callable[[], None] | None = closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def close(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()
        await self._stream.close()
