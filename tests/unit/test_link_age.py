"""What is handed out has enough of its life left, however long it takes to put it on record."""

from typing import Any

import pytest

from gateway.errors import DeadlineExceeded
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.gateway import Answered, Asked, Gateway
from gateway.model import (
    CONSOLE_OPEN,
    ConsoleLink,
    LinkSource,
    Permit,
    Principal,
    RuleKind,
    RuleRef,
    Secret,
)
from gateway.ports import AuditRecord
from gateway.rules.catalogue import Catalogue
from gateway.rules.inventory import NO_INVENTORY, Inventory
from gateway.rules.pacing import Pace
from gateway.rules.policy import Policy, Rule
from gateway.settings import built_in_operations
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

ANN = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)
GRANT = Rule(
    RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
    permissions=frozenset({CONSOLE_OPEN}),
    issuer=None,
    users=frozenset({"ann"}),
    groups=frozenset(),
    projects=frozenset(),
    servers=frozenset(),
)
MIN_REMAINING_S = 30.0


class Scene:
    """The pipeline around one link in memory; records take their time."""

    revocations_heard = 0

    def __init__(self, *, left_s: float, record_s: float, new_left_s: float = 300.0) -> None:
        self.clock = FakeClock()
        self.record_s = record_s
        self.new_left_s = new_left_s
        self.held: ConsoleLink | None = self._link("held", left_s)
        self.recorded: list[str] = []
        parts: Any = dict.fromkeys(
            ("identify", "credentials", "policies", "inventories", "consoles", "journal"), self
        )
        nothing: Any = None
        self.gateway = Gateway(
            catalogue=Catalogue(built_in_operations()),
            limits=CallerLimits(Pace(1e6, 1, 1_000_000), nothing, self.clock),
            instances=nothing,
            forwarding=nothing,
            group_weights={},
            clock=self.clock,
            telemetry=RecordingTelemetry(),
            **parts,
        )

    async def asks(self) -> Answered:
        asked = Asked(
            authorization=["Bearer x"],
            x_auth_token=[],
            method="GET",
            target="/v1/p/physicalservers/a0a0a0a0-0000-4000-8000-000000000000/"
            "remote-console-address",
            has_body=False,
            read_body=lambda _: _nothing(),
            fresh=False,
            request_id="r",
            client_address="",
            deadline=self.clock.monotonic() + 60,
            headers=(),
        )
        answered = await self.gateway.answer(asked)
        assert isinstance(answered, Answered)
        return answered

    def plain_jwt(self, *_: object) -> str:
        return "jwt"

    def recall(self, key: str | Permit) -> Principal | ConsoleLink | None:
        if isinstance(key, str):
            return ANN
        link, self.held = self.held, None
        return link

    async def obtain(self, permit: Permit, **_: object) -> tuple[ConsoleLink, LinkSource]:
        return self._link("new", self.new_left_s), LinkSource.UPSTREAM

    def is_good(self, permit: Permit, link: ConsoleLink) -> bool:
        return link.good_until - self.clock.monotonic() >= MIN_REMAINING_S

    def account_of(self, permit: Permit) -> str:
        return "prod"

    def current(self, project: object = None) -> Policy | Inventory:
        return Policy([GRANT], version="v") if project is None else NO_INVENTORY

    async def record(self, record: AuditRecord) -> None:
        await self.clock.advance(self.record_s)
        self.recorded.append(record.link_fingerprint)

    def _link(self, name: str, left_s: float) -> ConsoleLink:
        return ConsoleLink(Secret(f"https://{name}"), name, self.clock.monotonic() + left_s)


async def _nothing() -> bytes:
    return b""


async def test_a_link_that_is_good_enough_when_it_is_on_record_is_handed_out() -> None:
    scene = Scene(left_s=35.0, record_s=4.0)
    answered = await scene.asks()
    assert (answered.link.fingerprint, answered.source) == ("held", LinkSource.LOCAL)
    assert answered.left_s == pytest.approx(31.0)
    assert scene.recorded == ["held"]


async def test_one_that_came_too_near_its_end_meanwhile_makes_room_for_another() -> None:
    scene = Scene(left_s=30.001, record_s=0.005)
    answered = await scene.asks()
    assert (answered.link.fingerprint, answered.source) == ("new", LinkSource.UPSTREAM)
    assert scene.recorded == ["held", "new"]


async def test_where_recording_takes_longer_than_links_live_nobody_tries_for_ever() -> None:
    scene = Scene(left_s=30.001, record_s=2.0, new_left_s=31.0)
    with pytest.raises(DeadlineExceeded):
        await scene.asks()
    assert scene.recorded == ["held", "new"]
