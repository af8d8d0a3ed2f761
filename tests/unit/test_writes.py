"""Permitted writes and the records of their outcome, despite failures and disconnects."""

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
    """A cloud that answers on demand, and an audit log that accepts, fails or hangs."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.telemetry = RecordingTelemetry()
        self.records: list[AuditRecord] = []
        self.events: list[str] = []
        self.failures: dict[str, GatewayError] = {}
        self.hangs_on = ""
        """Event of the record on which the audit log hangs."""
        self.queue, self.cloud = asyncio.Event(), asyncio.Event()
        self.queue.set()
        self.cloud.set()
        self.outcomes: list[StepOutcome] = [ACCEPTED]
        self.raises: Exception | None = None
        self.left_s = 60.0
        self.attempts = Attempts()
        self.writes = Writes(
            RequestAudit(self, policies=None, limits=None, clock=self.clock),  # type: ignore[arg-type]
            BestEffortAuditLog(self, self.telemetry),
            self.clock,
        )

    async def record(self, record: AuditRecord) -> None:
        if record.event in self.failures:
            raise self.failures[record.event]
        self.records.append(record)
        self.events.append(record.event)
        if record.event == self.hangs_on:
            await asyncio.Event().wait()

    async def send(self) -> ForwardedResponse:
        for outcome in self.outcomes:
            await self.queue.wait()
            self.attempts.begin()
            self.events.append("sent")
            await self.cloud.wait()
            self.attempts.end(outcome)
            await asyncio.sleep(0)
        if self.raises is not None:
            raise self.raises
        return DONE

    def start(self) -> "asyncio.Task[ForwardedResponse]":
        deadline = self.clock.monotonic() + self.left_s
        context = RequestContext(request_id="r-1", client_address="192.0.2.7", deadline=deadline)
        return asyncio.create_task(
            self.writes.send_audited(PERMIT, context, self.attempts, self.send)
        )

    async def disconnect(self, until: Callable[[], bool]) -> None:
        request = self.start()
        await self.settle()
        assert until()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    @property
    def results(self) -> list[tuple[WriteOutcome, int]]:
        found = [one.extra for one in self.records]
        return [(one.outcome, one.status) for one in found if isinstance(one, WriteEnded)]

    @property
    def is_sent(self) -> bool:
        return "sent" in self.events


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_write_is_recorded_before_and_after_sending(scene: Scene) -> None:
    assert await scene.start() is DONE
    assert scene.events == ["write_permitted", "sent", "write_outcome"]
    permit, outcome = scene.records
    assert outcome.extra == WriteEnded(WriteOutcome.SUCCESS, 202, permit.at)
    assert (permit.decision, permit.rule, permit.policy_version) == (
        "allowed", "policy.yaml:1", "v",
    )  # fmt: skip
    assert (outcome.decision, outcome.rule, outcome.policy_version) == ("", "", "")
    for name in ("request_id", "subject", "groups", "operation", "servers", "client_address"):
        assert getattr(outcome, name) == getattr(permit, name)


async def test_unrecorded_write_is_not_sent(scene: Scene) -> None:
    scene.failures["write_permitted"] = FULL
    with pytest.raises(AuditLogUnavailable):
        await scene.start()
    assert scene.events == []


@pytest.mark.parametrize(
    ("outcomes", "raises", "result", "detail"),
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
async def test_failed_write_is_recorded_and_raised(
    scene: Scene,
    outcomes: list[StepOutcome],
    raises: Exception,
    result: tuple[WriteOutcome, int],
    detail: str,
) -> None:
    scene.outcomes, scene.raises = outcomes, raises
    with pytest.raises(type(raises)):
        await scene.start()
    assert scene.results == [result]
    assert scene.records[-1].detail == detail


async def test_unwritable_outcome_does_not_fail_the_write(
    scene: Scene,
) -> None:
    scene.failures["write_outcome"] = FULL
    assert await scene.start() is DONE
    assert scene.telemetry.audit_records_missing == 1
    scene.failures.clear()
    scene.attempts = Attempts()
    assert await scene.start() is DONE
    assert scene.events[-1] == "audit_records_missing"


async def test_hanging_disk_delays_the_response_briefly(scene: Scene) -> None:
    scene.hangs_on = "write_outcome"
    async with asyncio.timeout(60):
        assert await scene.start() is DONE


async def test_disconnect_while_recording_sends_nothing(scene: Scene) -> None:
    scene.hangs_on = "write_permitted"
    await scene.disconnect(until=lambda: scene.events == ["write_permitted"])
    await scene.settle()
    assert scene.events == ["write_permitted", "write_outcome"]
    assert scene.results == [(WriteOutcome.NOT_SENT, 0)]


async def test_deadline_while_recording_sends_nothing(scene: Scene) -> None:
    scene.hangs_on, scene.left_s = "write_permitted", 0.01
    with pytest.raises(DeadlineExceeded):
        await scene.start()
    assert scene.events == ["write_permitted", "write_outcome"]
    assert scene.results == [(WriteOutcome.NOT_SENT, 0)]


async def test_disconnect_in_queue_sends_nothing(scene: Scene) -> None:
    scene.queue.clear()
    await scene.disconnect(until=lambda: scene.events == ["write_permitted"])
    await scene.settle()
    scene.queue.set()
    await scene.settle()
    assert not scene.is_sent
    assert scene.results == [(WriteOutcome.NOT_SENT, 0)]


async def test_sent_write_is_awaited_after_disconnect(scene: Scene) -> None:
    scene.cloud.clear()
    await scene.disconnect(until=lambda: scene.is_sent)
    await scene.settle()
    assert scene.results == []
    scene.cloud.set()
    await scene.settle()
    assert scene.results == [(WriteOutcome.SUCCESS, 202)]
    assert scene.records[-1].detail == "cancelled: the caller disconnected or the process stopped"


async def test_write_is_not_retried_after_disconnect(scene: Scene) -> None:
    scene.outcomes = [Throttled(), ACCEPTED]
    scene.cloud.clear()
    await scene.disconnect(until=lambda: scene.is_sent)
    scene.cloud.set()
    await scene.settle()
    assert scene.events.count("sent") == 1
    assert scene.results == [(WriteOutcome.FAILURE, 429)]


async def test_close_waits_for_sent_writes(scene: Scene) -> None:
    scene.cloud.clear()
    await scene.disconnect(until=lambda: scene.is_sent)
    closing = asyncio.create_task(scene.writes.close())
    await scene.settle()
    scene.cloud.set()
    await closing
    assert scene.results == [(WriteOutcome.SUCCESS, 202)]


async def test_close_waits_a_limited_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.flow.writes._CLOSE_TIMEOUT_S", 0.05)
    scene.cloud.clear()
    await scene.disconnect(until=lambda: scene.is_sent)
    await scene.writes.close()
    assert scene.results == [(WriteOutcome.UNKNOWN, 0)]
    await scene.writes.close()
