"""Administrators act while they may, and everything is on record as what it was."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    NotAdmin,
    NotAuthenticated,
    Rejection,
)
from gateway.domain.model import Principal
from gateway.flow.admin.action_specs import ActionSpec
from gateway.flow.admin.administration import ActionPlan, AdminAction, Administration, Administrator
from tests.support.clock import FakeClock


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    way: str = "left"
    reason: str = ""


class FakeAuditLog:
    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.when_recorded: Callable[[], None] = lambda: None
        self.is_there = True

    async def record(self, record: AuditRecord) -> None:
        await asyncio.sleep(0)
        if not self.is_there:
            raise AuditLogUnavailable("full", retry_after_s=1.0)
        self.records.append(record)
        self.when_recorded()

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(one.event, one.decision) for one in self.records]


class Wheel:
    """What is steered."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.is_stuck = False

    def plan(self, asked: Turn, _: Administrator) -> ActionPlan:
        if asked.way not in ("left", "right"):
            raise BadRequest("way must be left or right.")

        async def turn() -> Turn:
            if self.is_stuck:
                raise RuntimeError("stuck")
            self.turns.append(asked.way)
            return asked

        return ActionPlan(turn, override_id="0a1b", target="corp:mallory")


class Authority:
    """What proves who asks, until it is gone."""

    def __init__(self) -> None:
        self.is_gone = False

    def check(self) -> None:
        if self.is_gone:
            raise NotAuthenticated(Rejection.REVOKED, issuer="corp")


class Scene:
    def __init__(self, clock: FakeClock) -> None:
        self.wheel, self.audit_log, self.authority = Wheel(), FakeAuditLog(), Authority()
        spec = ActionSpec(
            name="Turn",
            method="POST",
            path="/turn",
            summary="Turn.",
            command="turn",
            request_type=Turn,
            response_type=Turn,
            event="turned",
        )
        self.action = AdminAction(spec, self.wheel.plan)
        self.administration = Administration(
            [self.action],
            groups=frozenset({"admins"}),
            certificates=frozenset({"breakglass"}),
            audit_log=self.audit_log,
            clock=clock,
        )

    def administrator(self, *, groups: frozenset[str] = frozenset({"admins"})) -> Administrator:
        return Administrator(
            Principal("corp", "ada", groups, 0.0, 0.0, None),
            by_certificate=False,
            check=self.authority.check,
            request_id="r1",
            client_address="192.0.2.1",
        )

    async def ask(
        self,
        body: bytes = b'{"way": "right"}',
        who: Administrator | None = None,
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Any:
        async def read() -> bytes:
            await asyncio.sleep(0)
            meanwhile()
            return body

        return await self.administration.perform(self.action, who or self.administrator(), read)

    def lose_authority(self) -> None:
        self.authority.is_gone = True


@pytest.fixture
def scene(clock: FakeClock) -> Scene:
    return Scene(clock)


async def test_action_is_recorded_before_it_is_performed(
    scene: Scene,
) -> None:
    seen: list[list[str]] = []
    scene.audit_log.when_recorded = lambda: seen.append(list(scene.wheel.turns))
    assert await scene.ask() == Turn("right")
    assert (seen, scene.wheel.turns) == ([[]], ["right"])
    (record,) = scene.audit_log.records
    assert (record.event, record.decision, record.target) == ("turned", "allowed", "corp:mallory")
    assert json.loads(record.detail) == {"way": "right", "reason": "", "override_id": "0a1b"}


async def test_right_lost_while_reading_the_body_is_rejected(scene: Scene) -> None:
    with pytest.raises(NotAuthenticated):
        await scene.ask(meanwhile=scene.lose_authority)
    assert scene.wheel.turns == []
    assert scene.audit_log.told == [("admin_refused", "denied")]


async def test_right_lost_while_recording_is_rejected(scene: Scene) -> None:
    scene.audit_log.when_recorded = scene.lose_authority
    with pytest.raises(NotAuthenticated):
        await scene.ask()
    assert scene.wheel.turns == []
    assert scene.audit_log.told == [("turned", "allowed"), ("admin_refused", "denied")]


async def test_unauthorized_request_is_rejected_before_its_body(scene: Scene) -> None:
    reads: list[bool] = []
    nobody = scene.administrator(groups=frozenset({"operators"}))
    with pytest.raises(NotAdmin):
        await scene.ask(b"{", nobody, meanwhile=lambda: reads.append(True))
    assert (reads, scene.audit_log.told) == ([], [("admin_refused", "denied")])
    assert scene.audit_log.records[0].subject == "ada"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "Invalid request"),
        (b'{"wya": "left"}', "Invalid request"),
        (b'{"way": "\xff"}', "not UTF-8"),
        (b'{"wya": ' + b"[" * 60_000, "Invalid request"),
        (b'{"way": "up"}', "way must be"),
    ],
)
async def test_invalid_request_is_recorded_as_refused(scene: Scene, body: bytes, why: str) -> None:
    with pytest.raises(BadRequest):
        await scene.ask(body)
    (record,) = scene.audit_log.records
    assert (record.event, record.decision) == ("admin_refused", "denied")
    assert why in json.loads(record.detail)["refused"]
    assert len(record.detail) < 1_000


async def test_internal_error_is_recorded_as_refused(scene: Scene) -> None:
    scene.wheel.is_stuck = True
    with pytest.raises(RuntimeError):
        await scene.ask()
    await scene.administration.record_failure(scene.action, scene.administrator())
    assert scene.audit_log.told == [("turned", "allowed"), ("admin_refused", "denied")]


async def test_action_requires_a_durable_record(scene: Scene) -> None:
    scene.audit_log.is_there = False
    with pytest.raises(AuditLogUnavailable):
        await scene.ask()
    assert scene.wheel.turns == []


async def test_unauthenticated_records_are_rate_limited(scene: Scene, clock: FakeClock) -> None:
    refusal = NotAuthenticated(Rejection.SIGNATURE, issuer="corp")
    for _ in range(1_000):
        await scene.administration.record_unauthenticated(scene.action, refusal, "r1", "192.0.2.1")
    assert scene.audit_log.told == [("admin_refused", "denied")] * 10
    assert scene.audit_log.records[0].client_address == "192.0.2.1"
    await clock.advance(60)
    scene.audit_log.is_there = False  # whoever proves nothing is told 401, not 503
    await scene.administration.record_unauthenticated(scene.action, refusal, "r1", "192.0.2.1")
