"""An Exchange without a cloud: it answers from a function and remembers what it was asked."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.domain.model import BudgetClass, Demand, UpstreamAnswer, UpstreamRequest
from gateway.domain.upstream.verdicts import Usable
from gateway.flow.attempts import Sendings
from gateway.flow.waiters import Waiters

Answering = Callable[[UpstreamRequest], UpstreamAnswer | bytes]


class FakeExchange:
    """Stands in for flow.exchange.Exchange; a bare body is a 200."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.asked: list[UpstreamRequest] = []
        self.demands: list[Demand] = []
        self.waiters: list[Waiters | None] = []
        self.gate: asyncio.Event | None = None
        """While it is there and not set, nothing is answered."""
        self.streams_max = 8

    async def perform(
        self,
        request: UpstreamRequest,
        *,
        project: str,
        demand: Demand,
        budget: BudgetClass,
        deadline: float,
        sendings: Sendings | None = None,
        waiters: Waiters | None = None,
    ) -> UpstreamAnswer:
        sendings = sendings or Sendings()
        self.asked.append(request)
        self.demands.append(demand)
        self.waiters.append(waiters)
        if self.gate is not None:
            await self.gate.wait()
        sendings.begin()
        answer = self._answering(request)
        if not isinstance(answer, UpstreamAnswer):
            answer = UpstreamAnswer(200, {"content-type": "application/json"}, answer)
        sendings.end(Usable(answer))
        return answer


def as_exchange(fake: FakeExchange) -> Any:
    """Say that it will do where the concrete class is asked for."""
    return fake
