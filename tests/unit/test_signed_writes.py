"""A signed write is accepted once, unless it certainly had no effect."""

import asyncio
import base64
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.config.operations import built_in_operations
from gateway.domain.catalogue.catalogue import Catalogue
from gateway.domain.errors import (
    AuditLogUnavailable,
    BadRequest,
    BudgetExhausted,
    CallerLimited,
    GatewayError,
    KeysUnavailable,
    NotAuthenticated,
    NotPermitted,
    UpstreamSlow,
)
from gateway.domain.model import Principal, ProjectId, RuleKind, RuleRef, Secret, UpstreamRequest
from gateway.domain.policy.inventory import NO_INVENTORY, Inventory
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.queue.pacing import Pace
from gateway.domain.upstream.signing import sign
from gateway.drivers.crypto.issued_keys import SealedKeys
from gateway.drivers.crypto.sealer import Sealer
from gateway.flow.audit_log import BestEffortAuditLog
from gateway.flow.caller_credentials import CallerCredentials
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.forwarding import ForwardedResponse, Forwarding
from gateway.flow.instances import Instances
from gateway.flow.listings import ListBounds, Listings
from gateway.flow.pipeline import Gateway, build_gateway
from gateway.flow.request import ApiRequest
from gateway.flow.request_audit import RequestAudit
from gateway.flow.writes import Writes
from tests.support.clock import FakeClock, settle
from tests.support.exchange import FakeExchange, as_exchange
from tests.support.telemetry import RecordingTelemetry
from tests.support.waiting import until

PROJECT = ProjectId("p")
SERVER = "11111111-2222-4333-8444-555555555555"
HIDDEN = "22222222-2222-4333-8444-555555555555"
OLGA = Principal("corp", "olga", frozenset(), 0.0, 9e9, None)
GRANT = Rule(
    RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
    permissions=frozenset({"server:power", "server:read"}),
    issuer=None,
    users=frozenset({"olga"}),
    groups=frozenset(),
    projects=frozenset({PROJECT}),
    servers=frozenset({SERVER}),
)


class Store:
    """A shared replay cache that counts its calls."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.requested = 0

    async def use(self, key: str, *, ttl_s: float) -> bool:
        self.requested += 1
        await asyncio.sleep(0)
        is_first = key not in self.used
        self.used.add(key)
        return is_first

    async def undo_use(self, key: str) -> None:
        self.used.discard(key)


class Scene:
    """The pipeline; this object is a minimal fake of every other part."""

    def __init__(self, *, pace: Pace | None = None) -> None:
        self.clock = FakeClock()
        self.store = Store()
        self.keys = SealedKeys(Sealer([Secret(base64.b64encode(os.urandom(32)).decode())]))
        self.pair = self.keys.key_pair(Secret("a.b.c"), expires_at=self.clock.now() + 3_600)
        self.failure: GatewayError | None = None
        """The error of the cloud."""
        self.stage_failure: dict[str, GatewayError] = {}
        self.exchange = FakeExchange(self._cloud)
        self.bodies_read = 0
        self.pace = pace or Pace(1e6, 1, 1_000_000)
        self.gateway, self.other_replica = self._a_gateway(), self._a_gateway()

    def _a_gateway(self) -> Gateway:
        telemetry = RecordingTelemetry()
        exchanges = {PROJECT: as_exchange(self.exchange)}
        listings = Listings(exchanges, ListBounds(5.0, 10, 1_000_000), self.clock)
        limits = CallerLimits(self.pace, self, self.clock)  # type: ignore[arg-type]
        itself: Any = self
        request_audit = RequestAudit(itself, policies=itself, limits=limits, clock=self.clock)
        parts: Any = {
            "identify": self,
            "policies": self,
            "inventories": _NoInventories(),
            "links": self,
            "limits": limits,
            "request_audit": request_audit,
            "writes": Writes(request_audit, BestEffortAuditLog(itself, telemetry), self.clock),
        }
        return build_gateway(
            credentials=CallerCredentials(
                self.keys, self.store, self.clock, telemetry, skew_s=900.0
            ),
            catalogue=Catalogue(built_in_operations()),
            instances=Instances(exchanges, self.clock),
            forwarding=Forwarding(exchanges, listings),
            group_weights={},
            clock=self.clock,
            telemetry=telemetry,
            **parts,
        )

    def _cloud(self, _: UpstreamRequest) -> bytes:
        if self.failure is not None:
            raise self.failure
        return b"{}"

    revocations_version = 0

    def check(self, _: Principal) -> None:
        return None

    async def identify_by_deadline(self, _: str, deadline: float) -> Principal:
        if "identify" in self.stage_failure:
            raise self.stage_failure["identify"]
        return OLGA

    def current(self) -> Policy:
        return Policy([GRANT], version="v")

    async def record(self, _: object) -> None:
        if "record" in self.stage_failure:
            raise self.stage_failure["record"]

    async def spend(self, requests: Mapping[str, int], *, interval_s: float) -> Mapping[str, float]:
        return {}

    def requested(
        self,
        server: str = SERVER,
        *,
        method: str = "PUT",
        path: str = "/physicalservers/power-state",
        body: bytes | None = None,
    ) -> ApiRequest:
        """Return a signed request: equal bytes for equal arguments."""
        target = f"/v1/{PROJECT}{path}"
        sent = b'{"server_id_set": ["%s"]}' % server.encode() if body is None else body
        headers = sign(
            method=method,
            target=target,
            headers={
                "Host": "gw.example",
                "X-Security-Token": self.pair.security_token.reveal(),
            },
            body=sent,
            access_key=Secret(self.pair.access),
            secret_key=self.pair.secret,
            at=self.clock.now(),
        )

        async def read_body(_: int) -> bytes:
            self.bodies_read += 1
            return sent

        named = {name.lower(): value for name, value in headers}
        return ApiRequest(
            authorization=[named["authorization"]],
            x_auth_token=[],
            method=method,
            target=target,
            has_body=bool(sent),
            read_body=read_body,
            fresh=False,
            request_id="r",
            client_address="",
            deadline=1e9,
            headers=headers,
            x_security_token=[named["x-security-token"]],
        )

    async def send(self, requested: ApiRequest | None = None) -> int:
        answered = await self.gateway.handle(requested or self.requested())
        assert isinstance(answered, ForwardedResponse)
        return answered.status


class _NoInventories:
    def current(self, _: ProjectId) -> Inventory:
        return NO_INVENTORY


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_sent_write_uses_its_signature(scene: Scene) -> None:
    assert await scene.send() == 200
    assert len(scene.store.used) == 1
    with pytest.raises(NotAuthenticated):
        await scene.send()
    assert len(scene.exchange.requested) == 1


async def test_read_uses_no_signature(scene: Scene) -> None:
    path = f"/physicalservers/{SERVER}"
    for _ in range(3):
        assert await scene.send(scene.requested(method="GET", path=path, body=b"")) == 200
    assert not scene.store.requested


@pytest.mark.parametrize(
    ("requested", "refusal"),
    [
        ({"server": HIDDEN}, NotPermitted),
        ({"body": b"no json"}, BadRequest),
        ({"body": b'{"server_id_set": ["x"]}'}, BadRequest),
    ],
)
async def test_rejected_write_uses_no_signature(
    scene: Scene, requested: dict[str, Any], refusal: type[GatewayError]
) -> None:
    for _ in range(2):
        with pytest.raises(refusal):
            await scene.send(scene.requested(**requested))
    assert not scene.store.requested


async def test_rate_limited_write_uses_no_signature() -> None:
    scene = Scene(pace=Pace(1, 60, 1))
    assert await scene.send() == 200
    await scene.clock.advance(1)
    with pytest.raises(CallerLimited):
        await scene.send()
    assert (scene.store.requested, len(scene.store.used)) == (1, 1)


async def test_unavailable_issuer_keys_use_no_signature(scene: Scene) -> None:
    requested = scene.requested()
    scene.stage_failure["identify"] = KeysUnavailable("away", retry_after_s=1.0)
    with pytest.raises(KeysUnavailable):
        await scene.send(requested)
    assert not scene.store.requested
    scene.stage_failure.clear()
    assert await scene.send(requested) == 200


@pytest.mark.parametrize("stage", ["record", "cloud"])
async def test_write_without_effect_may_be_repeated(scene: Scene, stage: str) -> None:
    if stage == "record":
        scene.stage_failure["record"] = AuditLogUnavailable("full", retry_after_s=1.0)
    else:
        scene.failure = BudgetExhausted("used up", retry_after_s=1.0)
    with pytest.raises((AuditLogUnavailable, BudgetExhausted)):
        await scene.send()
    assert scene.store.requested
    assert not scene.store.used
    scene.stage_failure.clear()
    scene.failure = None
    assert await scene.send() == 200


async def test_write_with_possible_effect_stays_used(scene: Scene) -> None:
    scene.failure = UpstreamSlow("no answer in time")
    with pytest.raises(UpstreamSlow):
        await scene.send()
    scene.failure = None
    with pytest.raises(NotAuthenticated):
        await scene.send()
    assert len(scene.exchange.requested) == 1


async def test_concurrent_copies_are_sent_once_over_replicas(scene: Scene) -> None:
    scene.exchange.gate = asyncio.Event()
    ways = [scene.gateway, scene.gateway, scene.other_replica, scene.other_replica]
    tasks = [asyncio.create_task(way.handle(scene.requested())) for way in ways]
    await until(lambda: scene.exchange.requested)
    await settle()
    scene.exchange.gate.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert (
        sorted(type(end).__name__ for end in ends)
        == ["ForwardedResponse"] + ["NotAuthenticated"] * 3
    )
    assert len(scene.exchange.requested) == 1


async def assert_rejected_without_body(scene: Scene, requested: ApiRequest) -> None:
    with pytest.raises(NotAuthenticated):
        await scene.send(requested)
    assert not scene.bodies_read


async def test_forged_access_key_reads_no_body(scene: Scene) -> None:
    requested = scene.requested()
    for name, value in (("authorization", "CGWmadeup"), ("x_security_token", "cgwkey_madeup")):
        headers = tuple(
            (one, text.replace(scene.pair.access, value) if name == "authorization" else value)
            if one.lower().replace("-", "_") == name
            else (one, text)
            for one, text in requested.headers
        )
        named = {one.lower().replace("-", "_"): [text] for one, text in headers}
        changed = replace(requested, headers=headers, **{name: named[name]})
        await assert_rejected_without_body(scene, changed)


async def test_expired_pair_or_date_reads_no_body(scene: Scene) -> None:
    requested = scene.requested()
    await scene.clock.advance(901)
    await assert_rejected_without_body(scene, requested)
    await scene.clock.advance(3_600)
    await assert_rejected_without_body(scene, scene.requested())
