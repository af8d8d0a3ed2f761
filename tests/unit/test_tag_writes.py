"""A write of tags changes permissions, so the inventory is refreshed, whatever the result."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import (
    AuditLogUnavailable,
    GatewayError,
    NotPermitted,
    UpstreamBusy,
    UpstreamSlow,
)
from gateway.domain.model import PERMISSIONS, Principal, ProjectId, RuleKind, RuleRef
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.queue.pacing import Pace
from gateway.flow.audit_log import BestEffortAuditLog
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.forwarding import ForwardedResponse
from gateway.flow.pipeline import build_gateway
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from gateway.flow.writes import Writes
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

PROJECT = ProjectId("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
SERVER = "/physicalservers/11111111-2222-4333-8444-555555555555"
THEO = Principal("corp", "theo", frozenset(), 0.0, 9e9, None)
ALL = Rule(
    ref=RuleRef(RuleKind.GRANT, "policy.yaml", 1, "rule"),
    permissions=PERMISSIONS,
    issuer=None,
    users=frozenset({"theo"}),
    groups=frozenset(),
    projects=frozenset(),
    servers=frozenset(),
)


class Parts:
    """Minimal fakes of all stages but decide; `cloud` is the error of the cloud."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.looks: list[ProjectId] = []
        self.audit_record_missing: GatewayError | None = None
        self.cloud: BaseException | None = None

    def current(self, project: ProjectId | None = None) -> Policy | Inventory:
        return self.policy if project is None else NO_INVENTORY

    def refresh_soon(self, project: ProjectId) -> None:
        self.looks.append(project)

    def unsigned_jwt(self, *_: object) -> str:
        return "jwt"

    revocations_version = 0

    def check(self, _: Principal) -> None:
        return None

    async def identify_by_deadline(self, _: str, deadline: float) -> Principal:
        return THEO

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        return {}

    async def record(self, _: object) -> None:
        if self.audit_record_missing is not None:
            raise self.audit_record_missing

    async def forward(self, *_: object, **__: object) -> ForwardedResponse:
        if self.cloud is not None:
            raise self.cloud
        return ForwardedResponse(204, (), b"")


async def send(parts: Parts, method: str, path: str, body: bytes = b"") -> ForwardedResponse:
    clock, part, every = FakeClock(), dict.fromkeys(_FROM_PARTS, parts), cast("Any", parts)
    limits = CallerLimits(Pace(1e6, 1, 1_000_000), parts, clock)
    request_audit = RequestAudit(every, policies=every, limits=limits, clock=clock)
    writes = Writes(request_audit, BestEffortAuditLog(every, RecordingTelemetry()), clock)
    stages: Any = {**part, "limits": limits, "request_audit": request_audit, "writes": writes}
    gateway = build_gateway(
        catalogue=Catalogue(built_in_operations()),
        group_weights={},
        clock=clock,
        telemetry=RecordingTelemetry(),
        **stages,
    )

    async def read_body(_: int) -> bytes:
        return body

    answer = await gateway.handle(
        ApiRequest(
            authorization=["Bearer token"],
            x_auth_token=[],
            method=method,
            target=f"/v1/{PROJECT}{path}",
            has_body=bool(body),
            read_body=read_body,
            fresh=False,
            request_id="r",
            client_address="",
            deadline=1e9,
            headers=(),
        )
    )
    assert isinstance(answer, ForwardedResponse)
    return answer


_FROM_PARTS = (
    "identify", "credentials", "policies", "inventories", "links", "instances", "forwarding",
)  # fmt: skip


async def write(parts: Parts) -> ForwardedResponse:
    return await send(parts, "POST", f"{SERVER}/tags/create", b'{"tags": [{"key": "env"}]}')


@pytest.mark.parametrize(
    "received",
    [
        None,
        UpstreamSlow("no answer in time"),
        # A lost first attempt may have had an effect, although the retry was rejected.
        UpstreamBusy("the cloud returned 429", retry_after_s=1.0),
        asyncio.CancelledError(),
    ],
)
async def test_write_of_tags_refreshes_inventory_whatever_its_result(
    received: BaseException | None,
) -> None:
    parts = Parts(Policy([ALL], version="v"))
    parts.cloud = received
    if received is None:
        assert (await write(parts)).status == 204
    else:
        with pytest.raises(type(received)):
            await write(parts)
    assert parts.looks == [PROJECT]


async def test_unsent_write_of_tags_refreshes_nothing() -> None:
    parts = Parts(Policy([ALL], version="v"))
    parts.audit_record_missing = AuditLogUnavailable("full", retry_after_s=1.0)
    with pytest.raises(AuditLogUnavailable):
        await write(parts)
    parts.policy, parts.audit_record_missing = Policy([], version="v"), None
    with pytest.raises(NotPermitted):
        await write(parts)
    assert parts.looks == []


async def test_other_calls_refresh_nothing() -> None:
    parts = Parts(Policy([ALL], version="v"))
    await send(parts, "GET", SERVER)
    assert parts.looks == []
