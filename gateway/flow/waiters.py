"""Who waits for one call, here and in other processes. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gateway.domain.model import QueueRequest


class Waiters:
    """Each caller counts once, however often they ask."""

    def __init__(self, request: QueueRequest) -> None:
        self.request = request
        """Of the caller who brings this, and who waits with others if the call is under way."""
        self.on_change: Callable[[], None] = lambda: None
        """Whoever has the call in a queue puts in what is to be done when others wait."""
        self._local: Counter[QueueRequest] = Counter()
        self._remote: dict[str, Sequence[QueueRequest]] = {}

    @property
    def local(self) -> tuple[QueueRequest, ...]:
        return tuple(self._local)

    @property
    def all(self) -> tuple[QueueRequest, ...]:
        requests = [*self._local, *(one for some in self._remote.values() for one in some)]
        return tuple({request.caller: request for request in requests}.values())

    @contextmanager
    def attached(self, request: QueueRequest) -> Iterator[None]:
        self._local[request] += 1
        if self._local[request] == 1:
            self.on_change()
        try:
            yield
        finally:
            self._local[request] -= 1
            if not self._local[request]:
                del self._local[request]
                self.on_change()

    def set_remote(self, source: str, requests: Sequence[QueueRequest]) -> None:
        """Take note of who waits there now, and nobody else does."""
        self._remote[source] = requests
        self.on_change()
