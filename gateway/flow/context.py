"""The context of the current request: context variables and the ports of tracing.

A task inherits the context of the task that creates it. So a call in a single-flight fetch belongs
to the trace of the request that started the fetch, and its log lines have that request's ID.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from gateway.domain.model import Headers
from gateway.domain.trace_context import TraceContext


class CallSpan(Protocol):
    """The span of one call to the cloud."""

    @property
    def headers(self) -> Headers:
        """The trace headers to send with the call."""

    def set_status(self, status: int) -> None:
        """Record the HTTP status of the response."""


class CallTracing(Protocol):
    """Records the calls of one request, or of background work."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; "" if each call starts a new trace."""

    def call(self, name: str, *, method: str, account: str) -> AbstractContextManager[CallSpan]:
        """Record a call while the context is open; of an exception, its type is recorded."""


class RequestTrace(CallTracing, Protocol):
    """The trace of one request."""

    @property
    def is_sampled(self) -> bool:
        """Whether a collector receives the trace."""

    def enter(self, stage: str) -> None:
        """End the current stage and begin the next one."""

    def end(self, facts: Mapping[str, Any]) -> None:
        """End the trace; `facts` are the fields of the request's log line."""


class Tracing(Protocol):
    @property
    def records(self) -> bool:
        """Whether requests without a trace context are also traced."""

    def begin(self, parent: TraceContext | None, method: str) -> RequestTrace | None:
        """Continue the caller's trace, or begin one; None: the request is not traced."""


request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
trace: Final[ContextVar[CallTracing | None]] = ContextVar("trace", default=None)
"""None: not traced."""
