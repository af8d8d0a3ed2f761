"""Callers that wait for one upstream call, in this process and in others. Pure."""

from collections import Counter
from collections.abc import Sequence

from gateway.domain.model import QueueRequest


class WaiterSet:
    """Each caller counts once, however many of its requests wait."""

    def __init__(self) -> None:
        self._local: Counter[QueueRequest] = Counter()
        self._remote: dict[str, Sequence[QueueRequest]] = {}

    @property
    def local(self) -> tuple[QueueRequest, ...]:
        return tuple(self._local)

    @property
    def all(self) -> tuple[QueueRequest, ...]:
        requests = [*self._local, *(one for some in self._remote.values() for one in some)]
        return tuple({request.caller: request for request in requests}.values())

    def add(self, request: QueueRequest) -> bool:
        """Add a local waiter; return whether `local` changed."""
        self._local[request] += 1
        return self._local[request] == 1

    def remove(self, request: QueueRequest) -> bool:
        """Remove a local waiter; return whether `local` changed."""
        self._local[request] -= 1
        if self._local[request]:
            return False
        del self._local[request]
        return True

    def set_remote(self, source: str, requests: Sequence[QueueRequest]) -> None:
        """Replace the waiters of another process, `source`."""
        self._remote[source] = requests
