"""The audit log as plain JSON lines on a descriptor such as stdout."""

from collections.abc import Callable, Sequence
from functools import partial

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

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        del with_checkpoint  # plain lines form no chain that a checkpoint could confirm
        opening = [] if self._is_open else [chain_opened_body(self._clock.now())]
        lines = [*opening, *bodies]
        if not lines:
            return Committed([], [])
        try:
            if left := self._descriptor.begin(lines):
                await self._thread.do(partial(self._descriptor.finish, left))
        except OSError as error:
            raise unavailable(error.strerror or type(error).__name__) from error
        self._is_open = True
        if not confirm():
            raise unavailable("the reader of stdout does not keep up")
        return Committed(lines, [])

    async def apply_retention(self) -> Committed:
        return Committed([], [])

    async def close(self) -> None:
        self._thread.end()
