"""Replicas that log in to one IAM and share one store, on the test's clock."""

import asyncio
import json
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar

from gateway.config.accounts import PasswordLogin
from gateway.domain.errors import GatewayError, UpstreamSlow
from gateway.domain.model import (
    BudgetClass,
    Headers,
    QueueRequest,
    Secret,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.drivers.cloud.credentials import PasswordCredential
from gateway.drivers.cloud.iam_login import IamLogin
from gateway.drivers.cloud.login_endpoint import LoginEndpoint
from gateway.drivers.cloud.login_gate import LoginGates
from gateway.flow.exchange import Upstream
from gateway.flow.shared_queue import EarlyEntry
from gateway.flow.single_flight import SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.clock import FakeClock, settle
from tests.support.shared_store import FakeSharedStore
from tests.support.telemetry import RecordingTelemetry
from tests.support.virtual_time import VirtualClock

REQUEST = UpstreamRequest("GET", "/v1/p/physicalservers/a")
T = TypeVar("T")
DAY_S = 86_400.0
PASSWORD = "canary-password"


class Iam:
    """IAM on the test's clock; it counts the failures that lock an account."""

    def __init__(self, clock: FakeClock | VirtualClock) -> None:
        self.clock = clock
        self.password = PASSWORD
        self.life_s = DAY_S
        self.ahead_s = 0.0
        """IAM's clock, from that of the replicas."""
        self.answer_s = 0.05
        self.trouble: UpstreamResponse | GatewayError | None = None
        self.closed_projects: dict[str, UpstreamResponse] = {}
        """The response to a login to a project, whatever the password."""
        self.requests: list[UpstreamRequest] = []
        self.refused_at: list[float] = []
        self.in_flight = self.most_in_flight = 0

    @property
    def logins(self) -> int:
        return len(self.requests)

    async def send(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.clock.sleep(min(self.answer_s, timeout_s))
        finally:
            self.in_flight -= 1
        if self.answer_s > timeout_s:
            raise UpstreamSlow("no answer in time")
        if isinstance(self.trouble, GatewayError):
            raise self.trouble
        return self.trouble or self._judge(json.loads(request.body)["auth"])

    async def open(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        raise NotImplementedError

    def _judge(self, auth: dict[str, Any]) -> UpstreamResponse:
        project = auth["scope"]["project"]["id"]
        closed = self.closed_projects.get(project)
        if auth["identity"]["password"]["user"]["password"] != self.password:
            error = {"error_code": "IAM.0062", "error_msg": f"wrong {PASSWORD}"}
            closed = UpstreamResponse(401, {}, json.dumps(error).encode())
        if closed is not None:
            if closed.status == 401:
                self.refused_at.append(self.clock.monotonic())
            return closed
        now = self.clock.now() + self.ahead_s
        body = {"token": {"expires_at": _zulu(now + self.life_s), "issued_at": _zulu(now)}}
        token = f"MIIcanary-token-{self.logins}-{project}"
        return UpstreamResponse(201, {"x-subject-token": token}, json.dumps(body).encode())

    def most_failures_in_15_minutes(self) -> int:
        return max(
            (sum(at <= other < at + 900 for other in self.refused_at) for at in self.refused_at),
            default=0,
        )


def keystone_error(status: int) -> UpstreamResponse:
    """Return an error in Keystone's form, which has no code of IAM."""
    error = {"code": status, "message": "The request you have made requires authentication."}
    return UpstreamResponse(status, {}, json.dumps({"error": error}).encode())


def iam_error(status: int, code: str) -> UpstreamResponse:
    return UpstreamResponse(status, {}, json.dumps({"error_code": code, "error_msg": "x"}).encode())


class NoLimit:
    def __init__(self, clock: FakeClock | VirtualClock) -> None:
        self.clock = clock
        self.closed = False
        """No slot is free."""
        self.slots: list[tuple[str, BudgetClass, str]] = []
        self.pauses: list[float | None] = []

    async def admit(
        self,
        account: str,
        budget: BudgetClass,
        request: QueueRequest,
        *,
        deadline: float,
        requeued: bool = False,
        waiters: Waiters | None = None,
    ) -> float:
        while self.closed:
            await self.clock.sleep(0.1)
        self.slots.append((account, budget, request.caller))
        return float("inf")

    def early_entry(self, *_: object, **__: object) -> EarlyEntry:
        raise NotImplementedError  # logins share no fetch that makes entries

    def throttled(
        self, account: str, budget: BudgetClass, *, pause_s: float | None, named_rate: float | None
    ) -> None:
        self.pauses.append(pause_s)


class Region:
    """Replicas of the gateway that share one IAM and one store."""

    def __init__(self, clock: FakeClock | VirtualClock) -> None:
        self.clock = clock
        self.iam = Iam(clock)
        self.store = FakeSharedStore(clock)
        self.budget = NoLimit(clock)
        self.telemetry = RecordingTelemetry()

    def replica(
        self,
        *projects: str,
        password: str = PASSWORD,
        renew_before_s: float = 3_600.0,
        iam_endpoint: str = "https://iam.example",
    ) -> list[PasswordCredential]:
        login = PasswordLogin(
            method="password",
            iam_endpoint=iam_endpoint,
            user="gw",
            domain="corp",
            password=Secret(password),
            renew_before_s=renew_before_s,
        )
        shared = SingleFlight(self.store, self.clock)
        gate = LoginGates(shared, self.clock).of("user", iam_endpoint, "corp", "gw")

        def credential(project: str) -> PasswordCredential:
            iam = IamLogin(
                "prod",
                project,
                login,
                endpoint=self.endpoint(project, iam_endpoint, self.iam, BudgetClass.IAM),
                gate=gate,
                clock=self.clock,
                telemetry=self.telemetry,
            )
            return PasswordCredential(
                "prod",
                project,
                login,
                iam=iam,
                shared=shared,
                clock=self.clock,
                telemetry=self.telemetry,
                jitter=lambda: 0.5,
            )

        return [credential(project) for project in projects or ("p",)]

    def endpoint(
        self, project: str, address: str, upstream: Upstream, budget_class: BudgetClass
    ) -> LoginEndpoint:
        return LoginEndpoint(
            "prod",
            project,
            address,
            upstream=upstream,
            budget=self.budget,
            budget_class=budget_class,
            clock=self.clock,
            telemetry=self.telemetry,
            jitter=lambda: 0.5,
        )

    async def token(self, credential: PasswordCredential) -> str:
        work = credential.headers(REQUEST, deadline=self.clock.monotonic() + 60)
        ((name, value),) = await self.passing(work)
        assert name == "X-Auth-Token"
        return value

    async def renewed(
        self, credential: PasswordCredential, token: str, *, is_certain: bool = True
    ) -> bool:
        refused = (("X-Auth-Token", token),)
        deadline = self.clock.monotonic() + 60
        return await self.passing(
            credential.renew(refused, is_certain=is_certain, deadline=deadline)
        )

    async def passing(self, work: Awaitable[T]) -> T:
        """Advance the clock until the work is done.

        Not while the work waits for a thread, which takes real time.
        """
        assert isinstance(self.clock, FakeClock)
        task = asyncio.ensure_future(work)
        while not task.done():
            await settle()
            if self.clock.has_sleepers:
                await self.clock.advance(0.05)
            elif not task.done():
                await asyncio.sleep(0.001)
        return await task


def _zulu(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def stop(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
