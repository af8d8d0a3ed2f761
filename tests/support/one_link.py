"""The pipeline around one link with fake stages; a test hooks into each await."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.config.operations import built_in_operations
from gateway.domain.audit.record import AuditRecord
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import NotAuthenticated, Rejection
from gateway.domain.model import (
    CONSOLE_OPEN,
    ConsoleLink,
    LinkSource,
    Principal,
    QueueRequest,
    RuleKind,
    RuleRef,
    Secret,
)
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
from gateway.domain.policy.policy import Permit, Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.queue.pacing import Pace
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.console_links import IssuedLink
from gateway.flow.pipeline import build_gateway
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

ANN = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)
GRANT_END = 8e9
GRANT = Rule(
    RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
    permissions=frozenset({CONSOLE_OPEN}),
    issuer=None,
    users=frozenset({"ann"}),
    groups=frozenset(),
    projects=frozenset(),
    servers=frozenset(),
    valid_until=GRANT_END,
)
MIN_REMAINING_S = 30.0


ALLOWED = Policy([GRANT], version="v1")
FORBIDDEN = Policy([], version="v2")


def _nothing_happens() -> None:
    pass


class OneLink:
    """One link may be cached, another can be fetched; records are delayed."""

    def __init__(
        self,
        *,
        left_s: float = 300.0,
        record_s: float = 0.0,
        new_left_s: float = 300.0,
        burst: int = 1_000_000,
        deadline_s: float = 60.0,
    ) -> None:
        self.clock = FakeClock()
        self.record_s = record_s
        self.new_left_s = new_left_s
        self.cached_value: ConsoleLink | None = self._link("held", left_s)
        self.records: list[AuditRecord] = []
        self.policy = ALLOWED
        self.revocations_version = 0
        self.is_revoked = False
        self.is_disk_hung = False
        self._deadline_s = deadline_s
        self.while_obtained: Callable[[], None] = _nothing_happens
        self.while_recorded: Callable[[], None] = _nothing_happens
        parts: Any = dict.fromkeys(
            ("identify", "credentials", "policies", "inventories", "links"), self
        )
        nothing: Any = None
        itself: Any = self
        limits = CallerLimits(Pace(1, 1, burst), nothing, self.clock)
        self.gateway = build_gateway(
            catalogue=Catalogue(built_in_operations()),
            limits=limits,
            request_audit=RequestAudit(itself, policies=itself, limits=limits, clock=self.clock),
            writes=nothing,
            instances=nothing,
            forwarding=nothing,
            group_weights={},
            clock=self.clock,
            telemetry=RecordingTelemetry(),
            **parts,
        )

    @property
    def recorded(self) -> list[str]:
        """Fingerprints of the recorded links, and other recorded events."""
        return [one.link_fingerprint or one.event for one in self.records]

    def revoke(self) -> None:
        self.is_revoked = True
        self.revocations_version += 1

    def forbid(self) -> None:
        self.policy = FORBIDDEN

    def end_grant(self) -> None:
        self.clock.step_wall(GRANT_END - self.clock.now())

    async def request_link(self) -> IssuedLink:
        requested = ApiRequest(
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
            deadline=self.clock.monotonic() + self._deadline_s,
            headers=(),
        )
        answered = await self.gateway.handle(requested)
        assert isinstance(answered, IssuedLink)
        return answered

    def unsigned_jwt(self, *_: object) -> str:
        return "jwt"

    def cached_link(self, permit: Permit) -> ConsoleLink | None:
        link, self.cached_value = self.cached_value, None
        return link

    async def identify_by_deadline(self, token: str, deadline: float) -> Principal:
        self.check(ANN)
        return ANN

    def is_expired(self, principal: Principal) -> bool:
        return False

    def check(self, principal: Principal) -> None:
        if self.is_revoked:
            raise NotAuthenticated(Rejection.REVOKED, principal=principal)

    async def obtain(
        self, permit: Permit, queue_request: QueueRequest, **_: object
    ) -> tuple[ConsoleLink, LinkSource]:
        self.while_obtained()
        return self._link("new", self.new_left_s), LinkSource.UPSTREAM

    def is_usable(self, permit: Permit, link: ConsoleLink) -> bool:
        return link.good_until - self.clock.monotonic() >= MIN_REMAINING_S

    def account_of(self, permit: Permit) -> str:
        return "prod"

    def current(self, project: object = None) -> Policy | Inventory:
        return self.policy if project is None else NO_INVENTORY

    async def record(self, record: AuditRecord) -> None:
        self.while_recorded()
        if self.is_disk_hung:
            await asyncio.Event().wait()
        await self.clock.advance(self.record_s)
        self.records.append(record)

    def _link(self, name: str, left_s: float) -> ConsoleLink:
        return ConsoleLink(Secret(f"https://{name}"), name, self.clock.monotonic() + left_s)


async def _nothing() -> bytes:
    return b""
