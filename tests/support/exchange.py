"""An Exchange without a cloud: a function makes the responses; requests are recorded."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.domain.model import BudgetClass, QueueRequest, UpstreamRequest, UpstreamResponse
from gateway.domain.upstream.verdicts import Usable
from gateway.flow.attempts import Attempts
from gateway.flow.waiters import Waiters

Answering = Callable[[UpstreamRequest], UpstreamResponse | bytes]


class FakeExchange:
    """Replaces flow.exchange.Exchange; a bare body means 200."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.requested: list[UpstreamRequest] = []
        self.queue_requests: list[QueueRequest] = []
        self.waiters: list[Waiters | None] = []
        self.gate: asyncio.Event | None = None
        """An event that delays every response until it is set."""
        self.streams_max = 8

    def early_entry(self, *_: Any, **__: Any) -> None:
        """Return no entry: a fake store would not make it."""

    async def call(
        self,
        request: UpstreamRequest,
        *,
        project: str,
        queue_request: QueueRequest,
        budget: BudgetClass,
        deadline: float,
        attempts: Attempts | None = None,
        waiters: Waiters | None = None,
        is_finished: bool = False,
    ) -> UpstreamResponse:
        attempts = attempts or Attempts()
        self.requested.append(request)
        self.queue_requests.append(queue_request)
        self.waiters.append(waiters)
        if self.gate is not None:
            await self.gate.wait()
        attempts.begin()
        answer = self._answering(request)
        if not isinstance(answer, UpstreamResponse):
            answer = UpstreamResponse(200, {"content-type": "application/json"}, answer)
        attempts.end(Usable(answer))
        return answer


def as_exchange(fake: FakeExchange) -> Any:
    """Cast to the type of the concrete class."""
    return fake
