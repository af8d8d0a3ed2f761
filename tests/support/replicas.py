"""In-memory port `Replicas`; the contract suite runs against it and against Valkey."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.flow.admin.cluster_query import QueryResult

Respond = Callable[[bytes], Awaitable[bytes]]


class FakeReplicas:
    """One process of a fleet."""

    def __init__(self, fleet: "list[FakeReplicas]") -> None:
        self._fleet = fleet
        self._respond: Respond | None = None
        self.is_unavailable = False
        fleet.append(self)

    def on_query(self, respond: Respond) -> None:
        self._respond = respond

    async def query(self, query: bytes, *, timeout_s: float) -> QueryResult:
        responses = []
        for other in self._fleet:
            if other is not self and other._respond is not None and not self.is_unavailable:
                with suppress(ValueError):
                    responses.append(await other._respond(query))
        return QueryResult(responses, len(self._fleet))


class Alone(FakeReplicas):
    def __init__(self) -> None:
        super().__init__([])
