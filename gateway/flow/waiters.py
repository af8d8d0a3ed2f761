"""Who waits for one call, here and in other processes. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gateway.domain.model import Demand


class Waiters:
    """Each caller counts once, however often they ask."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        """Of the caller who brings this, and who waits with others if the call is under way."""
        self.changed: Callable[[], None] = lambda: None
        """Whoever has the call in a queue puts in what is to be done when others wait."""
        self._here: Counter[Demand] = Counter()
        self._elsewhere: dict[str, Sequence[Demand]] = {}

    @property
    def here(self) -> tuple[Demand, ...]:
        return tuple(self._here)

    @property
    def all(self) -> tuple[Demand, ...]:
        demands = [*self._here, *(one for some in self._elsewhere.values() for one in some)]
        return tuple({demand.caller: demand for demand in demands}.values())

    @contextmanager
    def joined_by(self, demand: Demand) -> Iterator[None]:
        self._here[demand] += 1
        if self._here[demand] == 1:
            self.changed()
        try:
            yield
        finally:
            self._here[demand] -= 1
            if not self._here[demand]:
                del self._here[demand]
                self.changed()

    def wait_elsewhere(self, where: str, demands: Sequence[Demand]) -> None:
        """Take note of who waits there now, and nobody else does."""
        self._elsewhere[where] = demands
        self.changed()
