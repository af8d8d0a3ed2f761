"""Replicas with access requests in tests: one store, one audit log, many replicas."""

import itertools
from collections.abc import Callable
from typing import Any

from gateway.domain.audit.record import AuditRecord
from gateway.domain.errors import AuditLogUnavailable, NotAuthenticated, Rejection
from gateway.domain.model import (
    CONSOLE_OPEN,
    Operation,
    Principal,
    ProjectId,
    ResolvedCall,
)
from gateway.domain.overrides import Override, OverrideSet
from gateway.domain.policy.policy import Policy
from gateway.domain.requests.model import AccessRequest, decode_request, encode_request
from gateway.domain.requests.wanted import Wanted
from gateway.flow.clock import Clock
from gateway.flow.request import RequestContext
from gateway.flow.request_audit import RequestAudit
from gateway.flow.requests.access_requests import AccessRequests, RequestBounds
from gateway.flow.requests.active_requests import ActiveRequests
from gateway.flow.requests.request_telemetry import RequestStep
from gateway.flow.requests.requested_policies import RequestedPolicies
from gateway.flow.snapshot_file import SnapshotFile
from tests.support.access_requests import ANN, PROJECT, SERVER, a_request_policy, a_request_rule
from tests.support.request_store import FakeRequestStore

KEEP_S = 86_400.0


class PlainSeal:
    """Seals nothing."""

    def seal(self, request: AccessRequest) -> bytes:
        return encode_request(request)

    def open(self, request_id: str, sealed: bytes) -> AccessRequest | None:
        try:
            return decode_request(sealed)
        except ValueError:
            return None

    def is_current(self, _: bytes) -> bool:
        return True


class RecordedSteps:
    """The audit log of all replicas; `before` runs in each write."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.is_unavailable = False
        self.before: Callable[[AuditRecord], None] = lambda _: None

    async def record(self, record: AuditRecord) -> None:
        if self.is_unavailable:
            raise AuditLogUnavailable("the disk is full", retry_after_s=1.0)
        self.before(record)
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        return [one.event.removeprefix("access_request_") for one in self.records]


class Ends:
    """Overrides of one or several replicas, without a store."""

    def __init__(self) -> None:
        self.overrides = OverrideSet()
        self.is_loaded = True
        self.reaches_all = True

    @property
    def ended_requests(self) -> frozenset[str] | None:
        return self.overrides.ended_requests if self.is_loaded else None

    async def add(self, override: Override) -> bool:
        self.overrides = self.overrides.merge([override], override.created_at)
        return self.reaches_all


class RequestWorld:
    """What the replicas share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.store = FakeRequestStore()
        self.audit_log = RecordedSteps()
        self.ends = Ends()
        self.policy: Policy = a_request_policy(a_request_rule())
        self.refused: set[str] = set()
        self.steps: list[RequestStep] = []
        self._ids = itertools.count()

    def current(self) -> Policy:
        return self.policy

    def check(self, principal: Principal) -> None:
        if principal.subject in self.refused:
            raise NotAuthenticated(Rejection.REVOKED, principal=principal)

    def request_step(self, step: RequestStep) -> None:
        self.steps.append(step)

    def replica(self, file: SnapshotFile | None = None, **more: Any) -> "RequestReplica":
        return RequestReplica(self, file, **more)

    def new_id(self) -> str:
        return f"{next(self._ids):032x}"


class RequestReplica:
    def __init__(
        self,
        world: RequestWorld,
        file: SnapshotFile | None,
        *,
        stored_max: int = 100,
        person_pending_max: int = 3,
        pending_s: float = 86_400.0,
    ) -> None:
        every: Any = world
        audit = RequestAudit(world.audit_log, policies=world, limits=every, clock=world.clock)
        self.world = world
        self.active = ActiveRequests(
            world.store, file, PlainSeal(), world.clock, keep_s=KEEP_S, stored_max=stored_max
        )
        self.requests = AccessRequests(
            requests=self.active,
            policies=world,
            ends=world.ends,
            identify=every,
            audit=audit,
            bounds=RequestBounds(pending_s, person_pending_max),
            clock=world.clock,
            telemetry=world,
            new_id=world.new_id,
        )
        self.policies = RequestedPolicies(
            world,
            lambda: self.active.started,
            lambda: world.ends.ended_requests,
            world.clock,
        )

    async def make(self, person: Principal = ANN, **more: Any) -> AccessRequest:
        return await self.requests.create(wanted(**more), person, self.context())

    async def approve(
        self, request: AccessRequest, person: Principal, content_hash: str | None = None
    ) -> AccessRequest:
        shown = request.content_hash if content_hash is None else content_hash
        return await self.requests.approve(request.id, person, self.context(), shown)

    def context(self) -> RequestContext:
        call = ResolvedCall(Operation("AccessRequest", "POST", "/", ""), ProjectId(""), ())
        deadline = self.world.clock.monotonic() + 30.0
        return RequestContext(request_id="r", client_address="", deadline=deadline, call=call)

    def is_allowed(self, person: Principal = ANN, permission: str = CONSOLE_OPEN) -> bool:
        policy = self.policies.current()
        return policy.decide(person, permission, PROJECT, SERVER, self.world.clock.now()).allowed


def wanted(**more: Any) -> Wanted:
    stored: dict[str, Any] = {
        "role": "op",
        "rule": None,
        "project": PROJECT,
        "servers": (SERVER,),
        "duration_s": 3_600.0,
        "reason": "a disk is replaced",
        **more,
    }
    return Wanted(**stored)
