"""A permitted write: on record before it is sent, and what became of it after.

A permit without an outcome on record says that the process died in between, or that the trail
could not be written: nobody knows then.
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

_ANSWER_WAITS_S = 0.25
"""It is done, so its answer must not wait for a disk that hangs."""
_CLOSING_S = 2.0
"""Whoever ends the process does not wait long."""


class Writes:
    def __init__(self, request_audit: RequestAudit, outcomes: AuditLog, clock: Clock) -> None:
        """`outcomes` raises nothing, and tells itself what it loses: what is done is done."""
        self._request_audit = request_audit
        self._outcomes = outcomes
        self._clock = clock
        self._under_way: dict[asyncio.Task[None], asyncio.Task[ForwardedResponse]] = {}
        """Each write, by the task that puts on record what became of it."""

    async def send_audited(
        self,
        permit: Permit,
        asked: RequestContext,
        attempts: Attempts,
        send: Callable[[], Coroutine[Any, Any, ForwardedResponse]],
    ) -> ForwardedResponse:
        """Return what `send` returns, or raise it; what it sends it notes down in `attempts`.

        Whoever hangs up leaves the queue, but does not keep off the record what became of a write
        that is on its way. Raises JournalUnavailable and DeadlineExceeded before anything is sent.
        """
        permitted = self._request_audit.allowed("write_permitted", permit, asked)
        work = self._send_on_record(permitted, asked.deadline, send)
        sent = asyncio.create_task(work)  # noqa: TID251 - close() awaits both
        recorded = asyncio.create_task(self._record(permitted, attempts, sent))  # noqa: TID251
        self._under_way[recorded] = sent
        recorded.add_done_callback(self._under_way.pop)
        try:
            await asyncio.wait({sent})
        except asyncio.CancelledError:
            attempts.stop(sent.cancel)
            raise
        await asyncio.wait({recorded}, timeout=_ANSWER_WAITS_S)
        return sent.result()

    async def close(self) -> None:
        """Put on record what became of the writes that nobody waits for any more."""
        if not self._under_way:
            return
        await asyncio.wait(self._under_way, timeout=_CLOSING_S)
        for sent in self._under_way.values():
            sent.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _send_on_record(
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
            return  # no permit is on record, and nothing was sent
        outcome, status = attempts.result()
        record = replace(
            permitted,
            event="write_outcome",
            at=self._clock.now(),
            decision="",
            rule="",
            policy_version="",
            detail="nobody waited for it any more" if sent.cancelled() else _told_of(error),
            extra=WriteEnded(outcome, status, permitted.at),
        )
        await self._outcomes.record(record)


def _told_of(error: BaseException | None) -> str:
    if isinstance(error, GatewayError):  # the text of any other may quote a secret
        return f"{type(error).__name__}: {error}"
    return "" if error is None else type(error).__name__
