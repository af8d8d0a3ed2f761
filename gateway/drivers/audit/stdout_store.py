"""The audit log as plain JSON lines on a descriptor, e.g. stdout."""

from collections.abc import Callable, Sequence
from functools import partial

from gateway.drivers.audit.record_format import Committed, opening_body, unavailable
from gateway.drivers.host.worker_thread import WorkerThread
from gateway.drivers.telemetry.line_writer import LineDescriptor
from gateway.flow.clock import Clock


class StdoutStore:
    """Each line is handed to the system before it counts (audit_trail.AuditStore).

    Whoever reads may stall: then a thread waits for it. Of what is refused some lines may be there:
    from a pipe nothing is taken back.
    """

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self._descriptor = LineDescriptor(descriptor)
        self._clock = clock
        self._thread = WorkerThread("audit")
        self._is_open = False

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        del with_checkpoint  # without a chain there is nothing that one could vouch for
        opening = [] if self._is_open else [opening_body(self._clock.now())]
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
            raise unavailable("the reader took too long")
        return Committed(lines, [])

    async def apply_retention(self) -> Committed:
        return Committed([], [])

    async def close(self) -> None:
        self._thread.end()
