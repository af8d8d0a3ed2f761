"""Which records share a commit."""

import asyncio
from collections.abc import Callable, Sequence

from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.audit.store import Committed
from tests.support.clock import FakeClock, settle
from tests.support.telemetry import RecordingTelemetry


class SlowStore:
    """An AuditStore whose commits end when a test says so."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.may_end = asyncio.Semaphore(0)

    def commit_at_once(self, bodies: Sequence[bytes]) -> None:
        pass

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        if bodies:
            self.batches.append([*bodies])
            await self.may_end.acquire()
        return Committed([], [])

    async def apply_retention(self) -> Committed:
        return Committed([], [])

    async def close(self) -> None:
        pass


async def test_batch_takes_in_requests_that_have_arrived() -> None:
    store, loop = SlowStore(), asyncio.get_running_loop()
    telemetry = RecordingTelemetry()
    audit_log = GroupCommitAuditLog(
        store, clock=FakeClock(), telemetry=telemetry, checkpoint_s=60.0
    )

    def submit(body: bytes, *then: bytes) -> None:
        """Submit a record; submit others in the turn of the loop after it is durable."""
        audit_log.submit(
            "e", 0.0, body, lambda _: [loop.call_soon(submit, one) for one in then] and None
        )

    submit(b"1", b"3", b"4")
    await settle()
    assert store.batches == [[b"1"]]  # at once
    submit(b"2")
    await settle()
    assert store.batches == [[b"1"]]
    store.may_end.release()
    await settle()
    assert store.batches == [[b"1"], [b"2", b"3", b"4"]]
    store.may_end.release()
    await audit_log.close()
    assert telemetry.audit_events["e"] == 4
