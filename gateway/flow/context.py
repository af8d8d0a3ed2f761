"""For which request the running task works, told to those whom nobody hands it.

A task inherits this from whoever began it. So a call in a shared flight is part of the trace of
the request that pays for it, and a log line names the request that it is about.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from gateway.domain.model import Headers
from gateway.domain.trace_context import TraceContext


class CallSpan(Protocol):
    @property
    def headers(self) -> Headers:
        """What tells the cloud whose child the call is; it holds what callers sent along."""

    def set_status(self, status: int) -> None: ...


class CallTracing(Protocol):
    """Notes down the calls that are made for one request, or for none."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; "" where each call is a trace of its own."""

    def call(self, name: str, *, method: str, account: str) -> AbstractContextManager[CallSpan]:
        """Note a call down while it lasts; of an error that ends it, the type."""


class RequestTrace(CallTracing, Protocol):
    """One request's trace."""

    @property
    def is_sampled(self) -> bool:
        """Tell whether somebody can look it up."""

    def enter(self, stage: str) -> None:
        """Note down that the stage before has ended and this one begins."""

    def end(self, facts: Mapping[str, Any]) -> None:
        """Note down the end; `facts` are those of the request's log line."""


class Tracing(Protocol):
    @property
    def records(self) -> bool:
        """Whether requests are traced that come without a trace of their caller's."""

    def begin(self, came: TraceContext | None, method: str) -> RequestTrace | None:
        """Begin a request's trace, or go on with its caller's; None: nobody wants to know."""


request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
trace: Final[ContextVar[CallTracing | None]] = ContextVar("trace", default=None)
"""None: nobody wants to know, neither an operator nor the caller."""
