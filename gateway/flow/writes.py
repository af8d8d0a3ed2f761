"""Permitted writes: recorded before they are sent, and again with their outcome.

A permit without an outcome in the audit log means that the outcome is unknown: the process died in
between, or the audit log could not be written.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from gateway.domain.audit.record import AuditRecord, WriteEnded
from gateway.domain.errors import AuditLogUnavailable, GatewayError
from gateway.domain.policy.policy import Permit
from gateway.flow.attempts import Attempts
from gateway.flow.audit_log import AuditLog
from gateway.flow.clock import Clock
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit

_RECORD_TIMEOUT_S = 0.25
"""How long the response of a completed write waits for the record of its outcome."""
_CLOSE_TIMEOUT_S = 2.0
_CANCELLED = "cancelled: the caller disconnected or the process stopped"


class Writes:
    def __init__(self, request_audit: RequestAudit, outcomes: AuditLog, clock: Clock) -> None:
        """`outcomes` must not raise: the write is done, whether or not it is recorded."""
        self._request_audit = request_audit
        self._outcomes = outcomes
        self._clock = clock
        self._in_progress: dict[asyncio.Task[None], asyncio.Task[ForwardedResponse]] = {}
        """Each write, by the task that records its outcome."""

    async def send_audited(
        self,
        permit: Permit,
        context: RequestContext,
        attempts: Attempts,
        send: Callable[[], Coroutine[Any, Any, ForwardedResponse]],
    ) -> ForwardedResponse:
        """Return or raise the result of `send`, which notes its attempts in `attempts`.

        A caller that disconnects leaves the queue; a write that is already sent is awaited and its
        outcome recorded. Raises AuditLogUnavailable and DeadlineExceeded before anything is sent.
        """
        permitted = self._request_audit.allowed("write_permitted", permit, context)
        work = self._record_and_send(permitted, context.deadline, send)
        sent = asyncio.create_task(work)  # noqa: TID251 - close() awaits both
        recorded = asyncio.create_task(self._record(permitted, attempts, sent))  # noqa: TID251
        self._in_progress[recorded] = sent
        recorded.add_done_callback(self._in_progress.pop)
        try:
            await asyncio.wait({sent})
        except asyncio.CancelledError:
            attempts.stop(sent.cancel)
            raise
        await asyncio.wait({recorded}, timeout=_RECORD_TIMEOUT_S)
        return sent.result()

    async def close(self) -> None:
        """Wait a moment for writes in progress, cancel the rest and record all outcomes."""
        if not self._in_progress:
            return
        await asyncio.wait(self._in_progress, timeout=_CLOSE_TIMEOUT_S)
        for sent in self._in_progress.values():
            sent.cancel()
        if self._in_progress:
            await asyncio.wait(self._in_progress)

    async def _record_and_send(
        self,
        permitted: AuditRecord,
        deadline: float,
        send: Callable[[], Coroutine[Any, Any, ForwardedResponse]],
    ) -> ForwardedResponse:
        await self._request_audit.record(permitted, deadline)
        return await send()

    async def _record(
        self, permitted: AuditRecord, attempts: Attempts, sent: "asyncio.Task[ForwardedResponse]"
    ) -> None:
        await asyncio.wait({sent})
        error = None if sent.cancelled() else sent.exception()
        if isinstance(error, AuditLogUnavailable):
            return  # neither recorded nor sent
        outcome, status = attempts.result()
        record = replace(
            permitted,
            event="write_outcome",
            at=self._clock.now(),
            decision="",
            rule="",
            policy_version="",
            detail=_CANCELLED if sent.cancelled() else _describe(error),
            extra=WriteEnded(outcome, status, permitted.at),
        )
        await self._outcomes.record(record)


def _describe(error: BaseException | None) -> str:
    if isinstance(error, GatewayError):  # the text of any other error may quote a secret
        return f"{type(error).__name__}: {error}"
    return "" if error is None else type(error).__name__
