"""Trace propagation without recording: calls carry the caller's trace ID (port `Tracing`)."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gateway.domain.model import Headers
from gateway.domain.trace_context import TraceContext


class PropagatedTracing:
    records = False

    def begin(self, incoming: TraceContext | None, method: str) -> "_PropagatedTrace | None":
        del method
        return None if incoming is None else _PropagatedTrace(incoming)


class _PropagatedTrace:
    """Implements the port `RequestTrace`."""

    __slots__ = ("_incoming",)

    def __init__(self, incoming: TraceContext) -> None:
        self._incoming = incoming

    @property
    def trace_id(self) -> str:
        return self._incoming.trace_id

    @property
    def is_sampled(self) -> bool:
        return self._incoming.is_sampled

    def enter(self, stage: str) -> None:
        pass

    @contextmanager
    def call(self, name: str, *, method: str, account: str) -> Iterator["_PropagatedCall"]:
        del name, method, account
        yield _PropagatedCall(self._incoming.child(secrets.token_hex(8)).headers)

    def end(self, facts: Mapping[str, Any]) -> None:
        pass


class _PropagatedCall:
    __slots__ = ("headers",)

    def __init__(self, headers: Headers) -> None:
        self.headers = headers

    def set_status(self, status: int) -> None:
        pass
