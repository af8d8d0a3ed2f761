"""Issued credentials are recorded first and count in the caller's limit."""

import base64
import os
from typing import Any

import pytest

from gateway.domain.audit.record import AuditRecord, CredentialIssued
from gateway.domain.errors import (
    AuditLogUnavailable,
    CallerLimited,
    GatewayError,
    NotAuthenticated,
    Rejection,
)
from gateway.domain.identity.sdk_signature import IncomingRequest
from gateway.domain.model import Operation, Principal, ProjectId, ResolvedCall, Secret
from gateway.domain.policy.policy import Policy
from gateway.domain.queue.pacing import Pace
from gateway.drivers.crypto.issued_keys import SealedKeys
from gateway.drivers.crypto.sealer import Sealer
from gateway.flow.caller_limits import CallerLimits
from gateway.flow.federation import Federation, FederationRequest
from gateway.flow.request_audit import RequestAudit
from tests.support.clock import FakeClock
from tests.support.telemetry import RecordingTelemetry

OLGA = Principal("corp", "olga", frozenset({"ops"}), 0.0, 9e9, None)
LIFE_S = 7_200.0


class Scene:
    """Olga's JWT is valid until it is revoked; other JWTs are rejected."""

    def __init__(self, *, burst: int = 1_000) -> None:
        self.clock = FakeClock()
        self.records: list[AuditRecord] = []
        self.is_revoked = False
        self.unwritable: GatewayError | None = None
        self.keys = SealedKeys(Sealer([Secret(base64.b64encode(os.urandom(32)).decode())]))
        itself: Any = self
        limits = CallerLimits(Pace(1, 3600, burst), itself, self.clock)
        self.federation = Federation(
            identify=itself,
            credentials=itself,
            keys=self.keys,
            limits=limits,
            request_audit=RequestAudit(itself, policies=itself, limits=limits, clock=self.clock),
            projects=(),
            has_any_permission=lambda *_: True,
            clock=self.clock,
            telemetry=RecordingTelemetry(),
        )

    async def identify_by_deadline(self, token: str, deadline: float) -> Principal:
        if token != "olga's":
            raise NotAuthenticated(Rejection.SIGNATURE, issuer="corp")
        if self.is_revoked:
            raise NotAuthenticated(Rejection.REVOKED, issuer="corp", principal=OLGA)
        return OLGA

    def expiry(self, _: Principal) -> float:
        return self.clock.now() + LIFE_S

    async def jwt_of(self, *_: object) -> str:
        return "olga's"

    def current(self) -> Policy:
        return Policy([], version="v")

    async def record(self, record: AuditRecord) -> None:
        if self.unwritable is not None:
            raise self.unwritable
        self.records.append(record)

    def request(self, operation: str = "Op") -> FederationRequest:
        call = ResolvedCall(Operation(operation, "POST", "/x", ""), ProjectId(""), ())
        incoming = IncomingRequest("POST", "/x", ())
        return FederationRequest(
            request_id="r-1",
            client_address="192.0.2.7",
            deadline=self.clock.monotonic() + 60,
            call=call,
            incoming=incoming,
        )

    async def log_in(self, token: str = "olga's") -> str:
        return (await self.federation.subject_token(self.request(), token)).text.reveal()

    async def fetch_keys(self, subject_token: str, *, for_s: float = 900.0) -> str:
        return (await self.federation.key_pair(self.request(), subject_token, for_s)).pair.access


async def test_issued_credential_is_recorded_without_secrets() -> None:
    scene = Scene()
    subject_token = await scene.log_in()
    access = await scene.fetch_keys(subject_token)
    logged_in, keyed = scene.records
    for record in scene.records:
        assert (record.event, record.decision) == ("credential_issued", "allowed")
        assert (record.subject, record.groups) == ("olga", frozenset({"ops"}))
        assert (record.request_id, record.client_address) == ("r-1", "192.0.2.7")
        assert subject_token not in repr(record)
        assert "olga's" not in repr(record)
    assert (logged_in.access_key, keyed.access_key) == ("", access)
    assert logged_in.extra == CredentialIssued(scene.clock.now() + LIFE_S)
    assert keyed.extra == CredentialIssued(scene.clock.now() + 900.0)


async def test_record_has_the_earlier_expiry() -> None:
    scene = Scene()
    await scene.fetch_keys(await scene.log_in(), for_s=86_400.0)
    assert scene.records[-1].extra == CredentialIssued(scene.clock.now() + LIFE_S)


@pytest.mark.parametrize("step", ["log in", "fetch keys"])
async def test_unrecorded_credential_is_not_issued(step: str) -> None:
    scene = Scene()
    subject_token = await scene.log_in()
    scene.unwritable = AuditLogUnavailable("full", retry_after_s=5.0)
    with pytest.raises(AuditLogUnavailable):
        await (scene.log_in() if step == "log in" else scene.fetch_keys(subject_token))


async def test_revoked_caller_is_recorded_up_to_the_limit() -> None:
    scene = Scene(burst=4)
    subject_token = await scene.log_in()
    scene.is_revoked = True
    for _ in range(3):
        for send in (
            scene.log_in,
            lambda: scene.fetch_keys(subject_token),
            lambda: scene.federation.projects(scene.request(), None),
        ):
            with pytest.raises(NotAuthenticated):
                await send()
    rejected = scene.records[1:]
    assert [(one.event, one.subject, one.detail) for one in rejected] == [
        ("refused", "olga", "revoked")
    ] * 4, "as often as the limit's burst, which their own calls are not counted in"
    assert {one.operation for one in rejected} == {"Op"}


async def test_unauthenticated_caller_is_not_recorded() -> None:
    scene = Scene()
    for send in (scene.log_in, scene.fetch_keys):
        with pytest.raises(NotAuthenticated):
            await send("made up")
    assert scene.records == []


async def test_federation_request_counts_once_in_the_limit() -> None:
    scene = Scene(burst=2)
    await scene.fetch_keys(await scene.log_in())
    with pytest.raises(CallerLimited):
        await scene.log_in()
    assert len(scene.records) == 2
