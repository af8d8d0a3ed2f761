"""Processes that ask each other in memory; the contract suite holds them to what Valkey does."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.flow.ports import Heard

Answering = Callable[[bytes], Awaitable[bytes]]


class FakeReplicas:
    """One process of a fleet."""

    def __init__(self, fleet: "list[FakeReplicas]") -> None:
        self._fleet = fleet
        self._answer: Answering | None = None
        self.is_away = False
        fleet.append(self)

    def answer_with(self, answer: Answering) -> None:
        self._answer = answer

    async def ask(self, question: bytes, *, within_s: float) -> Heard:
        answers = []
        for other in self._fleet:
            if other is not self and other._answer is not None and not self.is_away:
                with suppress(ValueError):
                    answers.append(await other._answer(question))
        return Heard(answers, len(self._fleet))


class Alone(FakeReplicas):
    def __init__(self) -> None:
        super().__init__([])
