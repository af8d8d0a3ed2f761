"""Which records share a commit."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from gateway.drivers.audit import group_commit
from gateway.drivers.audit.group_commit import GroupCommitAuditLog
from gateway.drivers.audit.store import Committed
from tests.support.clock import FakeClock, settle
from tests.support.telemetry import RecordingTelemetry


class SlowStore:
    """An AuditStore whose commits end when a test says so."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.may_end = asyncio.Semaphore(0)
        self._begun = asyncio.Condition()

    async def has(self, batches: int) -> None:
        """Return when so many batches have begun."""
        async with self._begun:
            await self._begun.wait_for(lambda: len(self.batches) >= batches)

    def commit_at_once(self, bodies: Sequence[bytes]) -> None:
        pass

    async def commit(
        self, bodies: Sequence[bytes], *, with_checkpoint: bool, confirm: Callable[[], bool]
    ) -> Committed:
        if bodies:
            async with self._begun:
                self.batches.append([*bodies])
                self._begun.notify_all()
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


async def test_batch_waits_for_callers_that_were_just_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = SlowStore()
    monkeypatch.setattr(group_commit, "_GATHER_S", 60.0)
    audit_log = GroupCommitAuditLog(
        store, clock=FakeClock(), telemetry=RecordingTelemetry(), checkpoint_s=60.0
    )
    late: list[bytes] = []

    def submit(body: bytes) -> None:
        audit_log.submit("e", 0.0, body, lambda _: late.append(body))

    submit(b"first")
    await settle()
    for _ in range(16):
        submit(b"of a caller")
    store.may_end.release()
    await settle()
    assert [len(batch) for batch in store.batches] == [1, 16]
    store.may_end.release()
    await settle()
    assert len(late) == 17
    for count in (5, 7):  # after more turns of the loop than another batch would wait
        assert len(store.batches) == 2
        for _ in range(count):
            submit(b"the next one")
        await asyncio.sleep(0)
    await settle()
    assert [len(batch) for batch in store.batches] == [1, 16, 12]

    monkeypatch.setattr(group_commit, "_GATHER_S", 0.001)
    store.may_end.release()
    submit(b"a lone one")  # not forever: the others may never come
    async with asyncio.timeout(60):
        await store.has(4)
    assert [len(batch) for batch in store.batches] == [1, 16, 12, 1]
    store.may_end.release()
    await audit_log.close()
