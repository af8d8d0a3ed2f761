"""A permitted write and the record of what became of it, whoever fails or leaves meanwhile."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.domain.audit.record import AuditRecord, WriteEnded
from gateway.domain.errors import (
    AuditLogUnavailable,
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    UpstreamRefused,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    Operation,
    Principal,
    ProjectId,
    ResolvedCall,
    RuleKind,
    RuleRef,
    ServerId,
    UpstreamResponse,
    WriteOutcome,
)
from gateway.domain.policy.policy import Permit
from gateway.domain.upstream.conversation import NotSent, StepOutcome
from gateway.domain.upstream.verdicts import Refused, Throttled, Usable
from gateway.flow.attempts import Attempts
from gateway.flow.audit_log import BestEffortAuditLog
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit
from gateway.flow.writes import Writes
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

DONE = ForwardedResponse(202, (), b"")
ACCEPTED = Usable(UpstreamResponse(202, {}, b""))
PERMIT = Permit(
    Principal("corp", "olga", frozenset({"ops"}), 0.0, 9e9, None),
    ResolvedCall(
        Operation("Op", "PUT", "/x", "server:power", writes=True),
        ProjectId("p"),
        (ServerId("s"),),
    ),
    RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
    policy_version="v",
)
FULL = AuditLogUnavailable("full", retry_after_s=5.0)


class Scene:
    """The cloud answers when it is told to; the audit log takes a record, or fails, or hangs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.telemetry = RecordingTelemetry()
        self.records: list[AuditRecord] = []
        self.order: list[str] = []
        self.unwritable: dict[str, GatewayError] = {}
        self.hangs = ""
        """On which record."""
        self.queue, self.cloud = asyncio.Event(), asyncio.Event()
        self.queue.set()
        self.cloud.set()
        self.says: list[StepOutcome] = [ACCEPTED]
        self.raises: Exception | None = None
        self.left_s = 60.0
        self.attempts = Attempts()
        self.writes = Writes(
            RequestAudit(self, policies=None, limits=None, clock=self.clock),  # type: ignore[arg-type]
            BestEffortAuditLog(self, self.telemetry),
            self.clock,
        )

    async def record(self, record: AuditRecord) -> None:
        if record.event in self.unwritable:
            raise self.unwritable[record.event]
        self.records.append(record)
        self.order.append(record.event)
        if record.event == self.hangs:
            await asyncio.Event().wait()

    async def send(self) -> ForwardedResponse:
        for outcome in self.says:
            await self.queue.wait()
            self.attempts.begin()
            self.order.append("sent")
            await self.cloud.wait()
            self.attempts.end(outcome)
            await asyncio.sleep(0)
        if self.raises is not None:
            raise self.raises
        return DONE

    def asks(self) -> "asyncio.Task[ForwardedResponse]":
        deadline = self.clock.monotonic() + self.left_s
        asked = RequestContext(request_id="r-1", client_address="192.0.2.7", deadline=deadline)
        return asyncio.create_task(
            self.writes.send_audited(PERMIT, asked, self.attempts, self.send)
        )

    async def hangs_up(self, until: Callable[[], bool]) -> None:
        asking = self.asks()
        await self.settles()
        assert until()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    async def settles(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def ends(self) -> list[tuple[WriteOutcome, int]]:
        found = [one.extra for one in self.records]
        return [(one.outcome, one.status) for one in found if isinstance(one, WriteEnded)]

    @property
    def is_on_its_way(self) -> bool:
        return "sent" in self.order


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_it_is_permitted_sent_and_what_became_of_it_told_in_this_order(scene: Scene) -> None:
    assert await scene.asks() is DONE
    assert scene.order == ["write_permitted", "sent", "write_outcome"]
    permit, outcome = scene.records
    assert outcome.extra == WriteEnded(WriteOutcome.SUCCESS, 202, permit.at)
    assert (permit.decision, permit.rule, permit.policy_version) == (
        "allowed", "policy.yaml:1", "v",
    )  # fmt: skip
    assert (outcome.decision, outcome.rule, outcome.policy_version) == ("", "", "")
    for name in ("request_id", "subject", "groups", "operation", "servers", "client_address"):
        assert getattr(outcome, name) == getattr(permit, name)


async def test_what_is_not_on_record_is_not_sent(scene: Scene) -> None:
    scene.unwritable["write_permitted"] = FULL
    with pytest.raises(AuditLogUnavailable):
        await scene.asks()
    assert scene.order == []


@pytest.mark.parametrize(
    ("says", "raises", "end", "detail"),
    [
        (
            [Refused(404, "iMetal.0100", "none")],
            UpstreamRefused(404, "iMetal.0100", "none"),
            (WriteOutcome.FAILURE, 404),
            "UpstreamRefused: upstream answered 404 iMetal.0100",
        ),
        (
            [],
            BudgetExhausted("full", retry_after_s=1.0),
            (WriteOutcome.NOT_SENT, 0),
            "BudgetExhausted: full",
        ),
        (
            [NotSent(UpstreamUnreachable("reset", retry_after_s=1.0))],
            UpstreamUnreachable("reset", retry_after_s=1.0),
            (WriteOutcome.UNKNOWN, 0),
            "UpstreamUnreachable: reset",
        ),
        ([ACCEPTED], ValueError("a secret"), (WriteOutcome.SUCCESS, 202), "ValueError"),
    ],
)
async def test_what_goes_wrong_is_told_to_the_caller_and_on_record(
    scene: Scene,
    says: list[StepOutcome],
    raises: Exception,
    end: tuple[WriteOutcome, int],
    detail: str,
) -> None:
    scene.says, scene.raises = says, raises
    with pytest.raises(type(raises)):
        await scene.asks()
    assert scene.ends == [end]
    assert scene.records[-1].detail == detail


async def test_an_outcome_that_cannot_be_written_is_missed_and_the_answer_leaves(
    scene: Scene,
) -> None:
    scene.unwritable["write_outcome"] = FULL
    assert await scene.asks() is DONE
    assert scene.telemetry.audit_records_missing == 1
    scene.unwritable.clear()
    scene.attempts = Attempts()
    assert await scene.asks() is DONE
    assert scene.order[-1] == "audit_records_missing"


async def test_a_disk_that_hangs_keeps_no_answer_back_for_long(scene: Scene) -> None:
    scene.hangs = "write_outcome"
    async with asyncio.timeout(2.0):
        assert await scene.asks() is DONE


async def test_who_hangs_up_while_it_is_put_on_record_has_nothing_sent(scene: Scene) -> None:
    scene.hangs = "write_permitted"
    await scene.hangs_up(until=lambda: scene.order == ["write_permitted"])
    await scene.settles()
    assert scene.order == ["write_permitted", "write_outcome"]
    assert scene.ends == [(WriteOutcome.NOT_SENT, 0)]


async def test_nor_has_who_has_no_time_left_for_that(scene: Scene) -> None:
    scene.hangs, scene.left_s = "write_permitted", 0.01
    with pytest.raises(DeadlineExceeded):
        await scene.asks()
    assert scene.order == ["write_permitted", "write_outcome"]
    assert scene.ends == [(WriteOutcome.NOT_SENT, 0)]


async def test_who_hangs_up_in_the_queue_leaves_it(scene: Scene) -> None:
    scene.queue.clear()
    await scene.hangs_up(until=lambda: scene.order == ["write_permitted"])
    await scene.settles()
    scene.queue.set()
    await scene.settles()
    assert not scene.is_on_its_way
    assert scene.ends == [(WriteOutcome.NOT_SENT, 0)]


async def test_what_is_on_its_way_is_waited_for_though_nobody_else_does(scene: Scene) -> None:
    scene.cloud.clear()
    await scene.hangs_up(until=lambda: scene.is_on_its_way)
    await scene.settles()
    assert scene.ends == []
    scene.cloud.set()
    await scene.settles()
    assert scene.ends == [(WriteOutcome.SUCCESS, 202)]
    assert scene.records[-1].detail == "cancelled: the caller disconnected or the process stopped"


async def test_it_is_not_sent_once_more_for_nobody(scene: Scene) -> None:
    scene.says = [Throttled(), ACCEPTED]
    scene.cloud.clear()
    await scene.hangs_up(until=lambda: scene.is_on_its_way)
    scene.cloud.set()
    await scene.settles()
    assert scene.order.count("sent") == 1
    assert scene.ends == [(WriteOutcome.FAILURE, 429)]


async def test_a_process_that_ends_waits_for_what_is_on_its_way(scene: Scene) -> None:
    scene.cloud.clear()
    await scene.hangs_up(until=lambda: scene.is_on_its_way)
    closing = asyncio.create_task(scene.writes.close())
    await scene.settles()
    scene.cloud.set()
    await closing
    assert scene.ends == [(WriteOutcome.SUCCESS, 202)]


async def test_but_not_for_long(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flow.writes._CLOSE_TIMEOUT_S", 0.05)
    scene.cloud.clear()
    await scene.hangs_up(until=lambda: scene.is_on_its_way)
    await scene.writes.close()
    assert scene.ends == [(WriteOutcome.UNKNOWN, 0)]
    await scene.writes.close()
