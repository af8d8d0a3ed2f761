"""Authorization and audit records of the admin API."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import pytest

from gateway.domain.admin_permissions import AdminGrants
from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    LoginRequired,
    NotAdmin,
    NotAuthenticated,
    PersonLocked,
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
        self.on_record: Callable[[], None] = lambda: None
        self.is_available = True

    async def record(self, record: AuditRecord) -> None:
        await asyncio.sleep(0)
        if not self.is_available:
            raise AuditLogUnavailable("full", retry_after_s=1.0)
        self.records.append(record)
        self.on_record()

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(one.event, one.decision) for one in self.records]


class Wheel:
    """The target of the action."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.is_stuck = False

    def plan(self, request: Turn, _: Administrator) -> ActionPlan:
        if request.way not in ("left", "right"):
            raise BadRequest("way must be left or right.")

        async def turn() -> Turn:
            if self.is_stuck:
                raise RuntimeError("stuck")
            self.turns.append(request.way)
            return request

        return ActionPlan(turn, override_id="0a1b", target="corp:mallory", permission="lock")


class Authentication:
    """A token that can be revoked."""

    def __init__(self) -> None:
        self.is_revoked = False

    def check(self) -> None:
        if self.is_revoked:
            raise NotAuthenticated(Rejection.REVOKED, issuer="corp")


class Scene:
    def __init__(self, clock: FakeClock) -> None:
        self.wheel, self.audit_log, self.authentication = Wheel(), FakeAuditLog(), Authentication()
        self.locks: dict[str, str] = {}
        spec = ActionSpec(
            name="Turn",
            method="POST",
            path="/turn",
            summary="Turn.",
            command="turn",
            request_type=Turn,
            permissions=("lock", "revoke"),
            response_type=Turn,
            event="turned",
        )
        self.action = AdminAction(spec, self.wheel.plan)
        self.administration = Administration(
            [self.action],
            grants=AdminGrants(
                groups={
                    "admins": frozenset({"lock", "revoke"}),
                    "readers": frozenset({"read"}),
                    "revokers": frozenset({"revoke"}),
                },
                certificates={"breakglass": frozenset({"lock"}), "monitor": frozenset({"read"})},
            ),
            find_lock=lambda principal: self.locks.get(principal.subject),
            audit_log=self.audit_log,
            clock=clock,
        )

    def administrator(self, *, groups: frozenset[str] = frozenset({"admins"})) -> Administrator:
        return Administrator(
            Principal("corp", "ada", groups, 0.0, 0.0, None),
            by_certificate=False,
            check=self.authentication.check,
            request_id="r1",
            client_address="192.0.2.1",
        )

    async def send(
        self,
        body: bytes = b'{"way": "right"}',
        admin: Administrator | None = None,
        *,
        on_read: Callable[[], None] = lambda: None,
    ) -> Any:
        async def read() -> bytes:
            await asyncio.sleep(0)
            on_read()
            return body

        return await self.administration.perform(self.action, admin or self.administrator(), read)

    def revoke(self) -> None:
        self.authentication.is_revoked = True


@pytest.fixture
def scene(clock: FakeClock) -> Scene:
    return Scene(clock)


async def test_action_is_recorded_before_it_is_performed(
    scene: Scene,
) -> None:
    seen: list[list[str]] = []
    scene.audit_log.on_record = lambda: seen.append(list(scene.wheel.turns))
    assert await scene.send() == Turn("right")
    assert (seen, scene.wheel.turns) == ([[]], ["right"])
    (record,) = scene.audit_log.records
    assert (record.event, record.decision, record.target) == ("turned", "allowed", "corp:mallory")
    assert json.loads(record.detail) == {"way": "right", "reason": "", "override_id": "0a1b"}


async def test_right_lost_while_reading_the_body_is_rejected(scene: Scene) -> None:
    with pytest.raises(NotAuthenticated):
        await scene.send(on_read=scene.revoke)
    assert scene.wheel.turns == []
    assert scene.audit_log.outcomes == [("admin_refused", "denied")]


@pytest.mark.parametrize("by_certificate", [False, True])
async def test_locked_administrator_is_rejected_by_name(
    scene: Scene, *, by_certificate: bool
) -> None:
    scene.locks["ada"] = "0a1b"
    admin = replace(scene.administrator(), by_certificate=by_certificate)
    with pytest.raises(PersonLocked):
        await scene.send(admin=admin)
    assert scene.wheel.turns == []
    (record,) = scene.audit_log.records
    assert (record.event, record.subject) == ("admin_refused", "ada")
    assert "lock 0a1b" in record.detail


async def test_right_lost_while_recording_is_rejected(scene: Scene) -> None:
    scene.audit_log.on_record = scene.revoke
    with pytest.raises(NotAuthenticated):
        await scene.send()
    assert scene.wheel.turns == []
    assert scene.audit_log.outcomes == [("turned", "allowed"), ("admin_refused", "denied")]


class BrowserLogin:
    """The session of the administrator's browser."""

    def __init__(self, *, ended: bool) -> None:
        self.ended = ended
        self.looks = 0

    async def recheck(self) -> None:
        self.looks += 1
        if self.ended:
            raise LoginRequired("the session has ended meanwhile")


async def test_session_that_ended_meanwhile_changes_nothing(scene: Scene) -> None:
    login = BrowserLogin(ended=True)
    with pytest.raises(LoginRequired):
        await scene.send(admin=replace(scene.administrator(), recheck=login.recheck))
    assert scene.wheel.turns == []
    assert scene.audit_log.outcomes == [("turned", "allowed"), ("admin_refused", "denied")]


async def test_write_that_was_done_is_answered(scene: Scene, clock: FakeClock) -> None:
    """The session may end with it: an operator may end the own login."""
    login = BrowserLogin(ended=False)

    async def read() -> bytes:
        await clock.advance(1.0)
        return b"{}"

    admin = replace(scene.administrator(), recheck=login.recheck)
    assert await scene.administration.perform(scene.action, admin, read) == Turn()
    assert (login.looks, scene.wheel.turns) == (1, ["left"])


@pytest.mark.parametrize("kind", [{"method": "GET"}, {"permissions": ("read",)}])
async def test_slow_read_of_a_session_that_ended_shows_nothing(
    scene: Scene, clock: FakeClock, kind: dict[str, Any]
) -> None:
    action = replace(scene.action, spec=replace(scene.action.spec, **kind))
    login = BrowserLogin(ended=True)
    groups = frozenset({"admins", "readers"})
    admin = replace(scene.administrator(groups=groups), recheck=login.recheck)

    async def read(takes_s: float) -> bytes:
        await clock.advance(takes_s)
        return b"{}"

    # Pages poll: a quick one costs no other look at the session.
    assert await scene.administration.perform(action, admin, partial(read, 0.4)) == Turn()
    assert login.looks == 0
    with pytest.raises(LoginRequired):
        await scene.administration.perform(action, admin, partial(read, 0.6))
    assert login.looks == 1
    assert scene.audit_log.outcomes[-1] == ("admin_refused", "denied")


async def test_unauthorized_request_is_rejected_before_its_body(scene: Scene) -> None:
    reads: list[bool] = []
    operator = scene.administrator(groups=frozenset({"operators"}))
    with pytest.raises(NotAdmin):
        await scene.send(b"{", operator, on_read=lambda: reads.append(True))
    assert (reads, scene.audit_log.outcomes) == ([], [("admin_refused", "denied")])
    assert scene.audit_log.records[0].subject == "ada"


async def test_missing_permission_is_named_and_recorded(scene: Scene) -> None:
    """A group that has another permission is as good as no group."""
    reader = scene.administrator(groups=frozenset({"readers", "operators"}))
    with pytest.raises(NotAdmin) as rejected:
        await scene.send(admin=reader)
    assert rejected.value.required == "`lock` or `revoke`"
    (record,) = scene.audit_log.records
    assert (record.event, record.permission) == ("admin_refused", "lock or revoke")
    refused = json.loads(record.detail)["refused"]
    assert refused == "requires the admin permission `lock` or `revoke`"


async def test_request_may_require_one_of_the_permissions(scene: Scene) -> None:
    revoker = scene.administrator(groups=frozenset({"revokers"}))
    with pytest.raises(NotAdmin, match=r"permission `lock`$"):
        await scene.send(admin=revoker)
    assert scene.wheel.turns == []
    (record,) = scene.audit_log.records
    assert (record.event, json.loads(record.detail)["way"]) == ("admin_refused", "right")
    both = scene.administrator(groups=frozenset({"revokers", "admins"}))
    await scene.send(admin=both)
    assert scene.audit_log.records[-1].permission == "lock"


@pytest.mark.parametrize(
    ("subject", "is_allowed"), [("breakglass", True), ("monitor", False), ("admins", False)]
)
async def test_certificate_has_its_own_permissions(
    scene: Scene, subject: str, *, is_allowed: bool
) -> None:
    """The groups of a certificate's principal grant nothing, nor does a group of its name."""
    principal = Principal("certificate", subject, frozenset({"admins"}), 0.0, 0.0, None)
    admin = replace(scene.administrator(), principal=principal, by_certificate=True)
    if is_allowed:
        await scene.send(admin=admin)
    else:
        with pytest.raises(NotAdmin):
            await scene.send(admin=admin)
    assert bool(scene.wheel.turns) is is_allowed


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b"{", "Invalid request"),
        (b'{"wya": "left"}', "Invalid request"),
        (b'{"way": "\xff"}', "not UTF-8"),
        (b'{"wya": ' + b"[" * 60_000, "Invalid request"),
        (b'{"way": "up"}', "way must be"),
    ],
)
async def test_invalid_request_is_recorded_as_refused(
    scene: Scene, body: bytes, refused: str
) -> None:
    with pytest.raises(BadRequest):
        await scene.send(body)
    (record,) = scene.audit_log.records
    assert (record.event, record.decision) == ("admin_refused", "denied")
    assert refused in json.loads(record.detail)["refused"]
    assert len(record.detail) < 1_000


async def test_internal_error_is_recorded_as_refused(scene: Scene) -> None:
    scene.wheel.is_stuck = True
    with pytest.raises(RuntimeError):
        await scene.send()
    await scene.administration.record_failure(scene.action, scene.administrator())
    assert scene.audit_log.outcomes == [("turned", "allowed"), ("admin_refused", "denied")]


async def test_action_requires_a_durable_record(scene: Scene) -> None:
    scene.audit_log.is_available = False
    with pytest.raises(AuditLogUnavailable):
        await scene.send()
    assert scene.wheel.turns == []


async def test_unauthenticated_records_are_rate_limited(scene: Scene, clock: FakeClock) -> None:
    error = NotAuthenticated(Rejection.SIGNATURE, issuer="corp")
    for _ in range(1_000):
        await scene.administration.record_unauthenticated(scene.action, error, "r1", "192.0.2.1")
    assert scene.audit_log.outcomes == [("admin_refused", "denied")] * 10
    assert scene.audit_log.records[0].client_address == "192.0.2.1"
    await clock.advance(60)
    scene.audit_log.is_available = False  # an unauthenticated request gets 401, not 503
    await scene.administration.record_unauthenticated(scene.action, error, "r1", "192.0.2.1")
