"""The public listener's handler: aiohttp request -> pipeline -> aiohttp response."""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import cast

import orjson
from aiohttp import web
from multidict import CIMultiDict

from gateway.domain.catalogue.json_body import JSON_MEDIA_TYPE
from gateway.domain.catalogue.preferences import preferred_wait_s
from gateway.domain.errors import (
    CallerLimited,
    ConsoleStoreUnavailable,
    GatewayError,
    MethodNotAllowed,
)
from gateway.domain.model import Headers
from gateway.domain.trace_context import trace_context
from gateway.edge.common_headers import COMMON_HEADERS
from gateway.edge.docs.pages import DocsPage
from gateway.edge.error_response import (
    INTERNAL_ERROR_RESPONSE,
    ErrorResponse,
    render_error,
    retry_after_seconds,
)
from gateway.edge.json_endpoint import add_headers
from gateway.edge.listener.client_address import TrustedProxies, client_address
from gateway.edge.listener.request import ListenerRequest
from gateway.edge.listener.request_body import read_body
from gateway.edge.mount import Mount
from gateway.edge.public import forwarded_response as forwarding
from gateway.edge.public.cors import VARY_ORIGIN, Cors
from gateway.edge.public.federation import PREFIX as FEDERATION
from gateway.edge.public.federation import FederationHandler
from gateway.edge.public.hit_path import BegunHit, HitPath
from gateway.edge.public.outcome import RequestOutcome
from gateway.edge.public.prepared_response import (
    PreparedResponse,
    ResponseEncoder,
    allows_prepared_response,
)
from gateway.edge.public.request_log import RequestLog
from gateway.edge.rate_limit_fields import rate_limit_field, rate_limit_policy_field
from gateway.flow import context
from gateway.flow.audit_log import AUDIT_TIMEOUT_S
from gateway.flow.caller_limits import CallerLimits, Remaining
from gateway.flow.clock import Clock
from gateway.flow.console_links import IssuedLink
from gateway.flow.context import RequestTrace, Tracing
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.pipeline import Gateway, LinkStages
from gateway.flow.request import ApiRequest

log = logging.getLogger("gateway.request")

_SHORTEST_DEADLINE_S = 0.05
"""The deadline of `Prefer: wait=0`: enough for a response that needs no call to the cloud."""
_JSON: Headers = (("Content-Type", JSON_MEDIA_TYPE),)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class PublicHandler:
    """Translate one aiohttp request into a call of the pipeline, and its result into a response."""

    def __init__(  # noqa: PLR0913 - one argument per collaborator
        self,
        gateway: Gateway,
        clock: Clock,
        *,
        deadline_s: float,
        request_log: RequestLog,
        limits: CallerLimits,
        trusted_proxies: TrustedProxies,
        federation: FederationHandler,
        pages: Mapping[str, DocsPage],
        tracing: Tracing,
        cors: Cors | None,
        compresses_lists: bool,
        help_url: str | None = None,
        mounts: Sequence[Mount] = (),
        link_stages: LinkStages | None = None,
    ) -> None:
        """`mounts` serve the gateway's own paths, such as those of live consoles.

        `help_url` is the address for people whose request is rejected (RFC 8288, `rel="help"`).

        With `link_stages`, which are those of `gateway`, cache hits take the hit path.
        """
        self._mounts = tuple(mounts)
        self._help: Headers = () if help_url is None else (("Link", f'<{help_url}>; rel="help"'),)
        self._gateway = gateway
        self._federation = federation
        self._pages = pages
        self._clock = clock
        self._deadline_s = deadline_s
        self._request_log = request_log
        self._limits = limits
        self._trusted_proxies = trusted_proxies
        self._tracing = tracing
        self._records_traces = tracing.records
        self._policy = rate_limit_policy_field(limits.pace)
        self._cors = cors
        self._compresses_lists = compresses_lists
        self._encoder = ResponseEncoder(self._policy, varies_by_origin=cors is not None)
        self._id_prefix = secrets.token_hex(6)
        self._id_counter = itertools.count(1)
        self.hit_path: HitPath | None = None
        """Serves repeated requests on connections; None: each request is a new one."""
        # A traced request has a span per stage. A deadline below the time limit of a record ends
        # the wait for it early.
        audit_log = None if link_stages is None else link_stages.audit_log
        records_in_time = deadline_s > AUDIT_TIMEOUT_S
        if (
            link_stages is not None
            and audit_log is not None
            and records_in_time
            and not tracing.records
        ):
            self.hit_path = HitPath(
                link_stages,
                audit_log,
                request_log=request_log,
                encoder=self._encoder,
                trusted_proxies=trusted_proxies,
                new_id=self._new_id,
                deadline_s=deadline_s,
            )

    async def __call__(self, request: ListenerRequest) -> web.StreamResponse:
        hit = cast("BegunHit | None", request.begun)
        outcome = self._begin(request) if hit is None else hit.outcome()
        context.request_id.set(outcome.request_id)
        # Cookies count below mounts, so pages of other origins get nothing from there.
        if self._cors is not None and "Origin" in request.headers and not self._mount_of(request):
            outcome.cors = self._cors.response_headers(request)
        if self._records_traces or "traceparent" in request.headers:
            outcome.trace = self._begin_trace(request)
        try:
            if hit is None:
                response = await self._route(request, outcome)
            else:
                response = await self._resume(request, outcome, hit)
        except GatewayError as error:
            response = self._error_response(outcome, render_error(error), error)
        except asyncio.CancelledError:
            outcome.close()
            self._request_log.finish(outcome)
            raise
        except Exception as error:
            log.exception("request_failed")
            response = self._error_response(outcome, INTERNAL_ERROR_RESPONSE, error)
        self._request_log.finish(outcome)
        return response

    def _begin(self, request: ListenerRequest) -> RequestOutcome:
        client = request.peer
        if self._trusted_proxies:
            forwarded_for = request.headers.getall("X-Forwarded-For", ())
            client = client_address(client, forwarded_for, self._trusted_proxies)
        return RequestOutcome(self._request_id(request), client, self._clock.monotonic())

    def reject(
        self, request: ListenerRequest, error: GatewayError | None, cause: BaseException | None
    ) -> web.Response:
        error_response = INTERNAL_ERROR_RESPONSE if error is None else render_error(error)
        outcome = RequestOutcome(self._new_id(), request.peer, self._clock.monotonic())
        response = self._error_response(outcome, error_response, cause)
        self._request_log.finish(outcome)
        return response

    async def _route(self, request: ListenerRequest, outcome: RequestOutcome) -> web.StreamResponse:
        if request.rejection is not None:
            raise request.rejection
        if outcome.cors and request.method == "OPTIONS":
            preflight = self._preflight(request, outcome)
            if preflight is not None:
                return preflight
        if request.raw_path in self._pages:
            return self._page(request, outcome)
        mount = self._mount_of(request)
        if mount is not None:
            return await self._own(request, outcome, mount)
        if request.raw_path.startswith(FEDERATION):
            return await self._federate(request, outcome)
        return await self._serve(request, outcome)

    def _preflight(self, request: ListenerRequest, outcome: RequestOutcome) -> web.Response | None:
        assert self._cors is not None
        preflight = self._cors.preflight_headers(request)
        if not preflight:
            return None
        outcome.status, outcome.cors = HTTPStatus.NO_CONTENT, preflight
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=self._headers(outcome, ()))

    def _page(self, request: ListenerRequest, outcome: RequestOutcome) -> web.Response:
        outcome.page = page = self._pages[request.raw_path]
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(allowed=("GET", "HEAD"))
        response = page.response(request, self._headers(outcome))
        outcome.status = response.status
        return response

    def _mount_of(self, request: ListenerRequest) -> Mount | None:
        return next((one for one in self._mounts if one.owns(request.raw_path)), None)

    async def _own(
        self, request: ListenerRequest, outcome: RequestOutcome, mount: Mount
    ) -> web.StreamResponse:
        asset = mount.find_asset(request)
        if asset is not None:
            outcome.page = asset
            return asset.response(request, self._headers(outcome, ()))
        endpoint = mount.find_endpoint(request)
        deadline = outcome.began + self._deadline_s
        own_request = endpoint.context(outcome.request_id, outcome.client, deadline)
        outcome.request = own_request
        action, subject = endpoint.action, endpoint.subject
        if action.serve is not None:
            if endpoint.is_socket:
                outcome.status = HTTPStatus.SWITCHING_PROTOCOLS
            own = self._headers(outcome, ())
            return await action.serve(request, own_request, subject, own)
        assert action.reply is not None
        reply = await action.reply(request, own_request, subject)
        outcome.status = reply.status
        headers = add_headers(self._headers(outcome, ()), reply.headers)
        return web.Response(status=reply.status, body=reply.body or None, headers=headers)

    async def _federate(self, request: ListenerRequest, outcome: RequestOutcome) -> web.Response:
        federation_request, route = self._federation.read(
            request,
            request_id=outcome.request_id,
            client_address=outcome.client,
            deadline=outcome.began + self._deadline_s,
            trace=outcome.trace,
        )
        outcome.request = federation_request
        reply = await self._federation.answer(request, federation_request, route)
        outcome.status = reply.status
        headers = self._headers(outcome)
        headers.extend(reply.headers)
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    async def _serve(self, request: ListenerRequest, outcome: RequestOutcome) -> web.StreamResponse:
        outcome.request = outcome.api_request = self._parse(request, outcome)
        outcome.result = result = await self._gateway.handle(outcome.api_request)
        if isinstance(result, IssuedLink):
            if self.hit_path is not None and outcome.is_hit:
                self.hit_path.learn(request, outcome.api_request)
            return self._link_response(request, result, outcome)
        return await self._forwarded_response(request, result, outcome)

    async def _resume(
        self, request: ListenerRequest, outcome: RequestOutcome, hit: BegunHit
    ) -> web.StreamResponse:
        """Serve the rest of a request that the hit path began."""
        assert outcome.api_request is not None
        assert hit.recorded is not None
        outcome.api_request.headers = request.headers.items()
        outcome.result = result = await self._gateway.resume(
            hit.pending(), hit.recorded, outcome.api_request
        )
        return self._link_response(request, result, outcome)

    def _link_response(
        self, request: ListenerRequest, result: IssuedLink, outcome: RequestOutcome
    ) -> web.StreamResponse:
        body = orjson.dumps({"url": result.link.url.reveal()})
        principal = outcome.principal
        is_common = outcome.has_common_headers and allows_prepared_response(request)
        if is_common and principal is not None:
            limit, now = self._limits.remaining(principal.key), self._clock.now()
            request_id = outcome.request_id.encode("ascii")
            data = self._encoder.encode_link(body, request_id, result.left_s, now, limit)
            return cast("web.StreamResponse", PreparedResponse(request, data))
        headers = self._headers(outcome)
        headers["X-Console-Expires-In"] = str(int(result.left_s))
        return web.Response(body=body, headers=headers)

    async def _forwarded_response(
        self, request: ListenerRequest, result: ForwardedResponse, outcome: RequestOutcome
    ) -> web.StreamResponse:
        if result.stream is None:
            compresses = self._compresses_lists and outcome.is_list
            validated = forwarding.ValidatedResponse(request, result, compresses=compresses)
            await validated.compress()
            return self._buffered(request, validated, outcome)
        outcome.status = result.status
        forwarded = forwarding.forwarded_headers(result, request.method)
        headers = self._headers(outcome, forwarded)
        response = web.StreamResponse(status=result.status, headers=headers)
        try:
            await forwarding.stream_body(request, response, result.stream)
        except ConnectionError:
            outcome.close()
        except GatewayError as error:
            outcome.reject(render_error(error), error)
        return response

    def _buffered(
        self,
        request: ListenerRequest,
        validated: forwarding.ValidatedResponse,
        outcome: RequestOutcome,
    ) -> web.StreamResponse:
        outcome.status = validated.status
        if validated.body and outcome.has_common_headers and allows_prepared_response(request):
            data = self._encoder.encode_response(
                validated.status,
                validated.headers,
                validated.body,
                request_id=outcome.request_id,
                now=self._clock.now(),
                limit=self._rate_limit(outcome),
            )
            return cast("web.StreamResponse", PreparedResponse(request, data))
        headers = self._headers(outcome, validated.headers)
        return web.Response(status=validated.status, body=validated.body or None, headers=headers)

    def _error_response(
        self, outcome: RequestOutcome, error_response: ErrorResponse, error: BaseException | None
    ) -> web.Response:
        outcome.reject(error_response, error)
        headers = self._headers(outcome)
        headers.extend((*error_response.headers, *self._help))
        response = web.Response(
            status=error_response.status, body=error_response.body, headers=headers
        )
        if isinstance(error, ConsoleStoreUnavailable):
            response.force_close()  # on a new connection the page may reach another replica
        return response

    def _headers(self, outcome: RequestOutcome, own: Headers = _JSON) -> CIMultiDict[str]:
        """Return the common headers with the response's own, which replace common ones."""
        headers = CIMultiDict(
            {
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
        headers.update(own)
        if self._cors is not None:
            headers.extend((*outcome.cors, VARY_ORIGIN))
        return headers

    def _rate_limit(self, outcome: RequestOutcome) -> str | None:
        principal, error = outcome.principal, outcome.error
        if principal is None or outcome.operation is None:
            return None
        if isinstance(error, CallerLimited):
            return rate_limit_field(Remaining(0, retry_after_seconds(error)))
        return rate_limit_field(self._limits.remaining(principal.key))

    def _parse(self, request: ListenerRequest, outcome: RequestOutcome) -> ApiRequest:
        headers = request.headers
        within_s = self._deadline_s
        preferences = headers.getall("Prefer", None)
        if preferences is not None:
            outcome.wait_s = preferred_wait_s(preferences)
        if outcome.wait_s is not None:
            within_s = min(within_s, max(outcome.wait_s, _SHORTEST_DEADLINE_S))
        return ApiRequest(
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

    def _begin_trace(self, request: ListenerRequest) -> RequestTrace | None:
        headers = request.headers
        incoming = trace_context(
            headers.getall("traceparent", ()), headers.getall("tracestate", ())
        )
        trace = self._tracing.begin(incoming, request.method)
        if trace is not None:
            context.trace.set(trace)
        return trace

    async def _read_body(self, request: ListenerRequest, deadline: float, limit: int) -> bytes:
        return await read_body(request, limit, within_s=deadline - self._clock.monotonic())

    def _request_id(self, request: ListenerRequest) -> str:
        sent = request.headers.get("X-Request-Id")
        if sent is not None and _REQUEST_ID.fullmatch(sent):
            return sent
        return self._new_id()

    def _new_id(self) -> str:
        return f"{self._id_prefix}-{next(self._id_counter):x}"
