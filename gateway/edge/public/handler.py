"""The public listener: HTTP in, HTTP out, and nothing of ours on it but the one pipeline."""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from weakref import WeakSet

import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict

from gateway.domain.catalogue.preferences import preferred_wait_s
from gateway.domain.errors import (
    BadRequest,
    CallerLimited,
    GatewayError,
    MethodNotAllowed,
    NotAuthenticated,
    RequestTooLarge,
    UpstreamRefused,
)
from gateway.domain.model import Answer, LinkSource, Principal
from gateway.domain.queue.pacing import Pace, spend, wait_for
from gateway.domain.sampling import Share
from gateway.domain.trace_context import trace_context
from gateway.edge.client_address import Networks, client_address
from gateway.edge.docs.pages import DocsPage
from gateway.edge.errors import (
    COMMON_HEADERS,
    INTERNAL_ERROR,
    ErrorResponse,
    rate_limit_field,
    rate_limit_policy_field,
    render_error,
    retry_after_seconds,
)
from gateway.edge.public import forwarded_response as forwarding
from gateway.edge.public.federation import PREFIX as FEDERATION
from gateway.edge.public.federation import FederationHandler
from gateway.edge.public.prepared_response import (
    PreparedResponse,
    ResponseEncoder,
    allows_prepared_response,
)
from gateway.edge.request_body import read_body
from gateway.flow import context
from gateway.flow.caller_limits import CallerLimits, Remaining
from gateway.flow.forwarding import Forwarded
from gateway.flow.pipeline import Answered, Asked, Gateway
from gateway.flow.ports import Clock, Trace, Tracing
from gateway.flow.request import Request

log = logging.getLogger("gateway.request")

_CLIENT_CLOSED = 499
"""What nginx logs for a caller that hung up; nobody is there to be sent it."""
_CLOUD_CODE = "cloud"
FIRST_REQUEST_TIMEOUT_S = 20.0
_DRAIN_POLL_S = 0.05
_IDLE_GRACE_S = 5.0
"""How long a draining process waits for one request more on a connection that is idle."""
_HANDSHAKE_GRACE_S = 2.0
"""How long it waits for who has connected and is still greeting."""
_SHORTEST_DEADLINE_S = 0.05
"""The deadline of who would not wait at all: time for what needs no call of the cloud."""
_LIMITED_LOG_PACE = Pace(requests=10, per_s=1, burst=10)
"""How many lines are written of those who ask more often than they may."""
_METHOD_UNKNOWN = (
    "The request does not begin with a method that HTTP knows; /docs lists each path's methods."
)
_MALFORMED = (
    "The request is not well-formed HTTP (does a header stand there twice?); send it by an HTTP"
    " client, such as curl."
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

CountRequest = Callable[[str, str, int, str, float, str], None]
"""Kind of answer, operation, status, error code, seconds, and the trace that shows why."""


@dataclass(slots=True)
class RequestOutcome:
    request_id: str
    client: str
    began: float
    trace: Trace | None = None
    wait_s: int | None = None
    """As the caller prefers."""
    request: Request | None = None
    asked: Asked | None = None
    """The request, where it is not for keys."""
    page: DocsPage | None = None
    answered: Answered | Forwarded | None = None
    status: int = 200
    error_code: str = ""
    error: BaseException | None = None

    @property
    def principal(self) -> Principal | None:
        return None if self.request is None else self.request.principal

    @property
    def operation(self) -> str | None:
        request = self.request
        if request is not None:
            return None if request.call is None else request.call.operation.name
        return None if self.page is None else self.page.name

    @property
    def answer(self) -> str:
        if self.asked is None or self.asked.call is None:
            return "other"
        if self.asked.call.operation.answer is not Answer.CONSOLE_LINK:
            return "forwarded"
        # Refusals are fast: with them among the links, whoever collects them hides slow ones.
        is_ours = self.status < 300 or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return "link" if is_ours else "refused"

    @property
    def is_hit(self) -> bool:
        answered = self.answered
        is_ok = self.status == HTTPStatus.OK
        return is_ok and isinstance(answered, Answered) and answered.source is LinkSource.LOCAL

    def refused(self, refusal: ErrorResponse, error: BaseException | None) -> None:
        self.status, self.error_code, self.error = refusal.status, refusal.error_code, error


class PublicHandler:
    """Turns one aiohttp request into a call of the pipeline, and its outcome into an answer."""

    def __init__(  # noqa: PLR0913 - what all answers need
        self,
        gateway: Gateway,
        clock: Clock,
        *,
        deadline_s: float,
        count_request: CountRequest,
        write_line: Callable[[bytes], object],
        limits: CallerLimits,
        trusted_proxies: Networks,
        federation: FederationHandler,
        pages: Mapping[str, DocsPage],
        tracing: Tracing,
        hit_log_share: Share | None,
        count_unlogged: Callable[[], object],
    ) -> None:
        """`hit_lines`: whose lines are written of those who got a link held here; None: all."""
        self._gateway = gateway
        self._federation = federation
        self._pages = pages
        self._clock = clock
        self._deadline_s = deadline_s
        self._count_request = count_request
        self._write_line = write_line
        self._limits = limits
        self._trusted_proxies = trusted_proxies
        self._tracing = tracing
        self._hit_log_share = hit_log_share
        self._count_unlogged = count_unlogged
        self._limited_lines_tat = 0.0
        self._records_traces = tracing.records
        self._policy = rate_limit_policy_field(limits.pace)
        self._encoder = ResponseEncoder(self._policy)
        self._id_prefix = secrets.token_hex(6)
        self._id_counter = itertools.count(1)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        client = request.remote or ""
        if self._trusted_proxies:
            forwarded_for = request.headers.getall("X-Forwarded-For", ())
            client = client_address(client, forwarded_for, self._trusted_proxies)
        outcome = RequestOutcome(self._request_id(request), client, self._clock.monotonic())
        context.request_id.set(outcome.request_id)
        if self._records_traces or "traceparent" in request.headers:
            outcome.trace = self._traced(request)
        response: web.StreamResponse
        try:
            if request.raw_path in self._pages:
                response = self._page(request, outcome)
            elif request.raw_path.startswith(FEDERATION):
                response = await self._federate(request, outcome)
            else:
                response = await self._serve(request, outcome)
        except GatewayError as error:
            response = self._refuse(outcome, render_error(error), error)
        except asyncio.CancelledError:
            outcome.status, outcome.error_code = _CLIENT_CLOSED, "client_closed"
            self._done(outcome)
            raise
        except Exception as error:
            log.exception("request_failed")
            response = self._refuse(outcome, INTERNAL_ERROR, error)
        self._done(outcome)
        return response

    def reject_malformed(self, status: int, error: BaseException | None) -> web.Response:
        """Answer what aiohttp's parser refused before it was a request."""
        if isinstance(error, LineTooLong):
            refusal = render_error(RequestTooLarge("The request line or a header is too long."))
        elif isinstance(error, BadHttpMethod):
            refusal = render_error(BadRequest(_METHOD_UNKNOWN))
        elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
            refusal = render_error(BadRequest(_MALFORMED))
        else:
            refusal = INTERNAL_ERROR
        outcome = RequestOutcome(self._new_id(), "", self._clock.monotonic())
        response = self._refuse(outcome, refusal, error)
        response.force_close()
        self._done(outcome)
        return response

    def _page(self, request: web.BaseRequest, outcome: RequestOutcome) -> web.Response:
        outcome.page = page = self._pages[request.raw_path]
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("This page is only read.", allowed=("GET", "HEAD"))
        response = page.response(request, self._headers(outcome))
        outcome.status = response.status
        return response

    async def _federate(self, request: web.BaseRequest, outcome: RequestOutcome) -> web.Response:
        errand, route = self._federation.read(
            request,
            request_id=outcome.request_id,
            client_address=outcome.client,
            deadline=outcome.began + self._deadline_s,
            trace=outcome.trace,
        )
        outcome.request = errand
        reply = await self._federation.answer(request, errand, route)
        outcome.status = reply.status
        headers = self._headers(outcome)
        headers.extend(reply.headers)
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    def _link(
        self, request: web.BaseRequest, answered: Answered, outcome: RequestOutcome
    ) -> web.StreamResponse:
        body = orjson.dumps({"url": answered.link.url.reveal()})
        if outcome.wait_s is None and allows_prepared_response(request):
            limit, now = self._rate_limit(outcome), self._clock.now()
            data = self._encoder.encode_link(body, outcome.request_id, answered.left_s, now, limit)
            return cast("web.StreamResponse", PreparedResponse(request, data))
        headers = self._headers(outcome)
        headers["X-Console-Expires-In"] = str(int(answered.left_s))
        return web.Response(body=body, headers=headers)

    async def _serve(self, request: web.BaseRequest, outcome: RequestOutcome) -> web.StreamResponse:
        outcome.request = outcome.asked = self._read(request, outcome)
        outcome.answered = answered = await self._gateway.answer(outcome.asked)
        if isinstance(answered, Answered):
            return self._link(request, answered, outcome)
        return await self._forwarded(request, answered, outcome)

    async def _forwarded(
        self, request: web.BaseRequest, answered: Forwarded, outcome: RequestOutcome
    ) -> web.StreamResponse:
        if answered.stream is None:
            return self._whole(request, forwarding.ValidatedResponse(request, answered), outcome)
        outcome.status = answered.status
        headers = self._headers(outcome)
        headers.update(forwarding.forwarded_headers(answered, request.method))
        response = web.StreamResponse(status=answered.status, headers=headers)
        try:
            await forwarding.stream_body(request, response, answered.stream)
        except ConnectionError:
            outcome.status, outcome.error_code = _CLIENT_CLOSED, "client_closed"
        except GatewayError as error:
            outcome.refused(render_error(error), error)
        return response

    def _whole(
        self,
        request: web.BaseRequest,
        answer: forwarding.ValidatedResponse,
        outcome: RequestOutcome,
    ) -> web.StreamResponse:
        outcome.status = answer.status
        if answer.body and outcome.wait_s is None and allows_prepared_response(request):
            data = self._encoder.encode_response(
                answer.status,
                answer.headers,
                answer.body,
                request_id=outcome.request_id,
                now=self._clock.now(),
                limit=self._rate_limit(outcome),
            )
            return cast("web.StreamResponse", PreparedResponse(request, data))
        headers = self._headers(outcome)
        del headers["Content-Type"]
        headers.update(answer.headers)
        return web.Response(status=answer.status, body=answer.body or None, headers=headers)

    def _refuse(
        self, outcome: RequestOutcome, refusal: ErrorResponse, error: BaseException | None
    ) -> web.Response:
        outcome.refused(refusal, error)
        headers = self._headers(outcome)
        headers.extend(refusal.headers)
        return web.Response(status=refusal.status, body=refusal.body, headers=headers)

    def _headers(self, outcome: RequestOutcome) -> CIMultiDict[str]:
        headers = CIMultiDict(
            {
                "Content-Type": "application/json",
                "X-Request-Id": outcome.request_id,
                "Cache-Control": "no-store",
                **COMMON_HEADERS,
                "RateLimit-Policy": self._policy,
            }
        )
        limit = self._rate_limit(outcome)
        if limit is not None:
            headers["RateLimit"] = limit
        if outcome.wait_s is not None:
            headers["Preference-Applied"] = f"wait={outcome.wait_s}"
        return headers

    def _rate_limit(self, outcome: RequestOutcome) -> str | None:
        principal, error = outcome.principal, outcome.error
        if principal is None or outcome.operation is None:
            return None
        if isinstance(error, CallerLimited):
            return rate_limit_field(Remaining(0, retry_after_seconds(error)))
        return rate_limit_field(self._limits.remaining(principal.key))

    def _read(self, request: web.BaseRequest, outcome: RequestOutcome) -> Asked:
        headers = request.headers
        within_s = self._deadline_s
        preferences = headers.getall("Prefer", None)
        if preferences is not None:
            outcome.wait_s = preferred_wait_s(preferences)
        if outcome.wait_s is not None:
            within_s = min(within_s, max(outcome.wait_s, _SHORTEST_DEADLINE_S))
        return Asked(
            authorization=headers.getall("Authorization", ()),
            x_auth_token=headers.getall("X-Auth-Token", ()),
            method=request.method,
            target=request.raw_path,
            has_body=request.body_exists,
            read_body=partial(self._read_body, request, outcome.began + within_s),
            fresh="no-cache" in headers.get("Cache-Control", "").lower(),
            request_id=outcome.request_id,
            client_address=outcome.client,
            deadline=outcome.began + within_s,
            headers=headers.items(),
            x_security_token=headers.getall("X-Security-Token", ()),
            trace=outcome.trace,
        )

    def _traced(self, request: web.BaseRequest) -> Trace | None:
        headers = request.headers
        came = trace_context(headers.getall("traceparent", ()), headers.getall("tracestate", ()))
        trace = self._tracing.begin(came, request.method)
        if trace is not None:
            context.trace.set(trace)
        return trace

    async def _read_body(self, request: web.BaseRequest, deadline: float, limit: int) -> bytes:
        return await read_body(request, limit, within_s=deadline - self._clock.monotonic())

    def _request_id(self, request: web.BaseRequest) -> str:
        theirs = request.headers.get("X-Request-Id")
        if theirs is not None and _REQUEST_ID.fullmatch(theirs):
            return theirs
        return self._new_id()

    def _new_id(self) -> str:
        return f"{self._id_prefix}-{next(self._id_counter):x}"

    def _done(self, outcome: RequestOutcome) -> None:
        """Count the request and write its one line."""
        asked, answered, error = outcome.asked, outcome.answered, outcome.error
        seconds = self._clock.monotonic() - outcome.began
        principal, operation = outcome.principal, outcome.operation
        # The cloud's own codes are many; a label takes ours only.
        theirs = isinstance(error, UpstreamRefused)
        label = _CLOUD_CODE if theirs else outcome.error_code
        trace = outcome.trace
        seen_in = trace.trace_id if trace is not None and trace.is_sampled else ""
        kind = outcome.answer
        self._count_request(kind, operation or "none", outcome.status, label, seconds, seen_in)
        line: dict[str, Any] = {
            "at": self._clock.now(),
            "event": "request",
            "request_id": outcome.request_id,
            "status": outcome.status,
            "seconds": round(seconds, 6),
            "client": outcome.client,
        }
        if principal is not None:
            line["issuer"] = principal.issuer
            line["subject"] = principal.subject
        if operation is not None:
            line["operation"] = operation
        if asked is not None and asked.call is not None:
            line["project"] = asked.call.project
            line["servers"] = asked.call.servers
        if isinstance(answered, Answered):
            line["source"] = answered.source.value
            line["link"] = answered.link.fingerprint
        if error is not None:
            line["error_code"] = outcome.error_code
            line.update(_error_fields(error))
        self._write_log(outcome, line)

    def _write_log(self, outcome: RequestOutcome, line: dict[str, Any]) -> None:
        trace = outcome.trace
        if trace is not None:
            line["trace_id"] = trace.trace_id
            trace.end(line)
        if self._is_left_unlogged(outcome):
            self._count_unlogged()
            return
        self._write_line(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def _is_left_unlogged(self, outcome: RequestOutcome) -> bool:
        if isinstance(outcome.error, CallerLimited):
            # One program in a loop would write everybody else's lines out of the log.
            now = self._clock.monotonic()
            if wait_for(self._limited_lines_tat, now, _LIMITED_LOG_PACE) > 0:
                return True
            self._limited_lines_tat = spend(self._limited_lines_tat, now, _LIMITED_LOG_PACE)
            return False
        share = self._hit_log_share
        return share is not None and outcome.is_hit and not share.takes()


def _error_fields(error: BaseException) -> dict[str, str]:
    told = {"error": type(error).__name__}
    if isinstance(error, NotAuthenticated):
        told["reason"] = error.reason.value
        if error.issuer is not None:
            told["issuer"] = error.issuer
    if isinstance(error, GatewayError):  # the text of any other may quote a secret
        told["detail"] = str(error)
    return told


class PublicServer(web.Server):
    """aiohttp's low-level server, since routing is ours, with errors in our schema."""

    def __init__(self, handler: PublicHandler, **options: Any) -> None:
        # A caller that hung up must leave the queue at once (invariant 8).
        super().__init__(handler, handler_cancellation=True, **options)
        self._handler = handler
        self._handshakes: WeakSet[web.RequestHandler] = WeakSet()

    def begin_drain(self) -> None:
        """From now on each answer says that it is the connection's last, and so it is."""
        self.request_factory = self._make_final_request
        for connection in (*self.connections, *self._handshakes):
            cast("_Connection", connection).close_after_response(self._make_final_request)

    async def drain(self, clock: Clock, *, within_s: float) -> None:
        """Return when all connections have ended, or the time is up.

        A connection that is idle gets some time for one request more, which is told to be the
        last. aiohttp's own shutdown closes it at once, and a request that is on its way then is
        thrown away; so is the rest of a body that is still being sent.
        """
        began = clock.monotonic()
        while (for_s := clock.monotonic() - began) < within_s:
            await clock.sleep(_DRAIN_POLL_S)  # at first for what was accepted a moment ago
            if for_s >= _IDLE_GRACE_S:
                for connection in self.connections:
                    cast("_Connection", connection).close_if_idle()
            is_greeting = self._handshakes and for_s < _HANDSHAKE_GRACE_S
            if not self.connections and not is_greeting:
                return

    def _make_final_request(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        return self._make_request(message._replace(should_close=True), *rest)

    def __call__(self) -> web.RequestHandler:
        made = _Connection(self, self._handler, loop=self._loop, **self._kwargs)
        self._handshakes.add(made)
        return made

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._handshakes.discard(handler)
        super().connection_made(handler, transport)


class _Connection(web.RequestHandler):
    __slots__ = ("__weakref__", "_first_request_due", "_public")

    def __init__(self, server: web.Server, handler: PublicHandler, **options: Any) -> None:
        super().__init__(server, **options)
        self._public = handler
        self._first_request_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # aiohttp's keep-alive timeout begins after the first request: whoever never sends a whole
        # one would hold a connection for ever.
        due = self._loop.call_later(FIRST_REQUEST_TIMEOUT_S, self._close_if_silent)
        self._first_request_due = due

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._first_request_due is not None:
            self._first_request_due.cancel()
        super().connection_lost(exc)

    def close_after_response(self, make_final_request: Callable[..., web.BaseRequest]) -> None:
        """Let the answer that is being made, or else the next one, say that it is the last."""
        self._request_factory = make_final_request
        request = self._current_request
        if request is not None:
            said = request._message  # noqa: SLF001 - what `keep_alive` of a request goes by
            request._message = said._replace(should_close=True)  # noqa: SLF001

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
        message: str | None = None,  # noqa: ARG002 - it may quote what was sent
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; another cannot be sent") from exc
        return self._public.reject_malformed(status, exc)
