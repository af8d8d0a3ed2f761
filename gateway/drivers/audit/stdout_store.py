"""The audit log as plain JSON lines on a descriptor such as stdout."""

from collections.abc import Callable, Sequence
from functools import partial

from gateway.domain.errors import AuditLogUnavailable
from gateway.drivers.audit.store import Committed, chain_opened_body, unavailable
from gateway.drivers.host.worker_thread import WorkerThread
from gateway.drivers.telemetry.line_writer import LineDescriptor
from gateway.flow.clock import Clock


class StdoutStore:
    """Implements AuditStore: a line counts when the operating system has accepted it.

    A thread waits for a reader that stalls. A batch that fails may leave some of its lines: what
    is written to a pipe cannot be undone.
    """

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self._descriptor = LineDescriptor(descriptor)
        self._clock = clock
        self._thread = WorkerThread("audit")
        self._is_open = False
        self._remaining: list[bytes] | None = None
        """What `commit_at_once` could not write of its lines."""

    def commit_at_once(self, bodies: Sequence[bytes]) -> Committed | None:
        if not self._is_open:
            return None
        try:
            self._remaining = self._descriptor.begin(bodies) or None
        except OSError as error:
            raise _unwritten(error) from error
        return None if self._remaining else Committed([*bodies], [])

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        del with_checkpoint  # plain lines form no chain that a checkpoint could confirm
        opening = [] if self._is_open else [chain_opened_body(self._clock.now())]
        lines = [*opening, *bodies]
        if not lines:
            return Committed([], [])
        remaining, self._remaining = self._remaining, None
        try:
            if remaining is None:
                remaining = self._descriptor.begin(lines)
            if remaining:
                await self._thread.do(partial(self._descriptor.finish, remaining))
        except OSError as error:
            raise _unwritten(error) from error
        self._is_open = True
        if not confirm():
            raise unavailable("the reader of stdout does not keep up")
        return Committed(lines, [])

    async def apply_retention(self) -> Committed:
        return Committed([], [])

    async def close(self) -> None:
        self._thread.end()


def _unwritten(error: OSError) -> AuditLogUnavailable:
    return unavailable(error.strerror or type(error).__name__)
