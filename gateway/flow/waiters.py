"""The waiters of one upstream call, and the notification of its queue when they change."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gateway.domain.model import QueueRequest
from gateway.domain.queue.waiters import WaiterSet


class Waiters:
    def __init__(self, request: QueueRequest) -> None:
        self.request = request
        """The request that creates this object; it waits for a call in flight with the others."""
        self.on_change: Callable[[], None] = lambda: None
        """Set by the queue in which the call waits; called when `all` has changed."""
        self._waiters = WaiterSet()

    @property
    def local(self) -> tuple[QueueRequest, ...]:
        """The callers in this process."""
        return self._waiters.local

    @property
    def all(self) -> tuple[QueueRequest, ...]:
        """The callers in all processes, each once."""
        return self._waiters.all

    @contextmanager
    def attached(self, request: QueueRequest) -> Iterator[None]:
        """Count `request` as a waiter while the context is open."""
        if self._waiters.add(request):
            self.on_change()
        try:
            yield
        finally:
            if self._waiters.remove(request):
                self.on_change()

    def set_remote(self, source: str, requests: Sequence[QueueRequest]) -> None:
        """Replace the waiters that the process `source` has reported."""
        self._waiters.set_remote(source, requests)
        self.on_change()
