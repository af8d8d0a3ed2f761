"""OpenTelemetry spans of requests and of their calls (port `Tracing`).

Imported only if the OTEL_* variables enable tracing; they also set the collector, sampling and
service name. Span attributes are listed here one by one: none holds a secret, a person, an address
or an error text. Requests do not wait for the collector; spans that it does not accept in time are
dropped.
"""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from gateway import __version__
from gateway.domain.model import Headers
from gateway.domain.trace_context import TraceContext

_FLUSH_TIMEOUT_S = 3.0
_METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"}
)
_ATTRIBUTES: Final = {
    "request_id": "gateway.request_id",
    "operation": "gateway.operation",
    "project": "gateway.project",
    "servers": "gateway.servers",
    "source": "gateway.link.source",
    "error_code": "gateway.error_code",
    "status": http_attributes.HTTP_RESPONSE_STATUS_CODE,
    "error": error_attributes.ERROR_TYPE,
}
"""Span attribute by field of the request's log line."""
_ACCOUNT: Final = "gateway.account"


class OtelTracing:
    records = True

    def __init__(
        self, provider: TracerProvider, *, routes: Mapping[str, str], accounts: Mapping[str, str]
    ) -> None:
        """`routes`: path templates by operation. `accounts`: account names by project."""
        self._provider = provider
        self._tracer = provider.get_tracer("gateway", __version__)
        self._routes = routes
        self._accounts = accounts
        self.background = _BackgroundTrace(self._tracer)
        """For calls that belong to no request."""

    def begin(self, incoming: TraceContext | None, method: str) -> "_OtelRequestTrace":
        known = method in _METHODS
        name = method if known else "HTTP"
        attributes = {http_attributes.HTTP_REQUEST_METHOD: method if known else "_OTHER"}
        span = self._tracer.start_span(name, _parent_context(incoming), SpanKind.SERVER, attributes)
        return _OtelRequestTrace(self._tracer, span, name, self._routes, self._accounts)

    async def close(self) -> None:
        """Flush the spans, for at most 3 s: an unavailable collector must not delay a restart."""
        flushed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the event loop has ended
                loop.call_soon_threadsafe(flushed.set)

        # Not with to_thread: the loop would wait for the thread without a limit when it ends.
        threading.Thread(target=flush, name="flush spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT_S):
                await flushed.wait()


def open_tracing(*, routes: Mapping[str, str], accounts: Mapping[str, str]) -> OtelTracing:
    own = Resource({SERVICE_NAME: "console-gateway", SERVICE_VERSION: __version__})
    provider = TracerProvider(
        resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelTracing(provider, routes=routes, accounts=accounts)


class _OtelRequestTrace:
    """Implements the port `RequestTrace`."""

    __slots__ = ("_accounts", "_method", "_routes", "_span", "_stage", "_tracer", "trace_id")

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        method: str,
        routes: Mapping[str, str],
        accounts: Mapping[str, str],
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._method = method
        self._routes = routes
        self._accounts = accounts
        self._stage: Span | None = None
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    @property
    def is_sampled(self) -> bool:
        return self._span.get_span_context().trace_flags.sampled

    def enter(self, stage: str) -> None:
        if not self._span.is_recording():
            return
        if self._stage is not None:
            self._stage.end()
        self._stage = self._tracer.start_span(stage, set_span_in_context(self._span, Context()))

    def call(self, name: str, *, method: str, account: str) -> "_OtelCallSpan":
        return _OtelCallSpan(self._tracer, self._stage or self._span, name, method, account)

    def end(self, facts: Mapping[str, Any]) -> None:
        span, operation = self._span, facts.get("operation", "")
        if not span.is_recording():
            return
        for fact, attribute in _ATTRIBUTES.items():
            if fact in facts:
                span.set_attribute(attribute, facts[fact])
        account = self._accounts.get(facts.get("project", ""))
        if account is not None:
            span.set_attribute(_ACCOUNT, account)
        route = self._routes.get(operation)
        if route is not None:
            span.set_attribute(http_attributes.HTTP_ROUTE, route)
            span.update_name(f"{self._method} {route}")
        failed = facts["status"] >= 500
        if self._stage is not None:
            _end(self._stage, facts.get("error", ""), failed=failed)
        _end(span, facts.get("error", ""), failed=failed)


class _BackgroundTrace:
    """Implements the port `CallTracing`: each call starts a new trace."""

    trace_id = ""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def call(self, name: str, *, method: str, account: str) -> "_OtelCallSpan":
        return _OtelCallSpan(self._tracer, None, name, method, account)


class _OtelCallSpan:
    __slots__ = ("_span", "_status", "headers")

    def __init__(
        self, tracer: Tracer, parent: Span | None, name: str, method: str, account: str
    ) -> None:
        under = Context() if parent is None else set_span_in_context(parent, Context())
        attributes = {http_attributes.HTTP_REQUEST_METHOD: method, _ACCOUNT: account}
        self._span = tracer.start_span(name, under, SpanKind.CLIENT, attributes)
        self._status = 0
        self.headers = _headers(self._span.get_span_context())

    def __enter__(self) -> Self:
        return self

    def set_status(self, status: int) -> None:
        self._span.set_attribute(http_attributes.HTTP_RESPONSE_STATUS_CODE, status)
        self._status = status

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        name = kind.__name__ if kind is not None else ""
        if self._status >= 400:
            name = str(self._status)
        _end(self._span, name, failed=bool(name))


def _end(span: Span, error: str, *, failed: bool) -> None:
    if error:
        span.set_attribute(error_attributes.ERROR_TYPE, error)
    if failed:
        span.set_status(StatusCode.ERROR)
    span.end()


def _parent_context(incoming: TraceContext | None) -> Context:
    if incoming is None:
        return Context()
    remote = SpanContext(
        int(incoming.trace_id, 16),
        int(incoming.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(incoming.flags),
        trace_state=TraceState.from_header([incoming.state]) if incoming.state else None,
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _headers(span: SpanContext) -> Headers:
    state = span.trace_state.to_header()
    return TraceContext(
        f"{span.trace_id:032x}", f"{span.span_id:016x}", int(span.trace_flags) & 0x03, state
    ).headers
