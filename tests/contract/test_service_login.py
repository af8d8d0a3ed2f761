"""Service credentials: logins shared by replicas, and never enough failures to lock the account."""

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gateway.config.accounts import KeyPairLogin, PasswordLogin, Timeouts, TokenFileLogin
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    ServiceLoginFailed,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import (
    BudgetClass,
    QueueRequest,
    Secret,
    UpstreamRequest,
    UpstreamResponse,
)
from gateway.drivers.cloud.credentials import (
    KeyPairCredential,
    PasswordCredential,
    TokenFileCredential,
)
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.flow.single_flight import SingleFlight
from gateway.flow.waiters import Waiters
from tests.support.clock import FakeClock
from tests.support.scripted_upstream import ok, scripted_upstream
from tests.support.shared_store import FakeSharedStore
from tests.support.telemetry import RecordingTelemetry
from tests.support.virtual_time import VirtualClock, run_virtually

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
        self.answer_s = 0.05
        self.trouble: UpstreamResponse | GatewayError | None = None
        self.bad_projects: set[str] = set()
        self.requests: list[UpstreamRequest] = []
        self.refused_at: list[float] = []
        self.in_flight = self.most_in_flight = 0

    @property
    def logins(self) -> int:
        return len(self.requests)

    async def send(
        self, request: UpstreamRequest, *, credential: tuple[tuple[str, str], ...], timeout_s: float
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

    def _judge(self, auth: dict[str, Any]) -> UpstreamResponse:
        project = auth["scope"]["project"]["id"]
        right = auth["identity"]["password"]["user"]["password"] == self.password
        if not right or project in self.bad_projects:
            self.refused_at.append(self.clock.monotonic())
            body = {"error_code": "IAM.0062", "error_msg": f"wrong {PASSWORD}"}
            return UpstreamResponse(401, {}, json.dumps(body).encode())
        ends = datetime.fromtimestamp(self.clock.now() + self.life_s, UTC)
        body = {"token": {"expires_at": ends.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
        token = f"MIIcanary-token-{self.logins}-{project}"
        return UpstreamResponse(201, {"x-subject-token": token}, json.dumps(body).encode())

    def most_failures_in_15_minutes(self) -> int:
        return max(
            (sum(at <= other < at + 900 for other in self.refused_at) for at in self.refused_at),
            default=0,
        )


class NoLimit:
    def __init__(self) -> None:
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
        self.slots.append((account, budget, request.caller))
        return float("inf")

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
        self.budget = NoLimit()
        self.telemetry = RecordingTelemetry()

    def replica(
        self, *projects: str, password: str = PASSWORD, renew_before_s: float = 3_600.0
    ) -> list[PasswordCredential]:
        login = PasswordLogin(
            method="password",
            iam_endpoint="https://iam.example",
            user="gw",
            domain="corp",
            password=Secret(password),
            renew_before_s=renew_before_s,
        )
        shared = SingleFlight(self.store, self.clock)
        return [
            PasswordCredential(
                "prod",
                project,
                login,
                iam=self.iam,
                shared=shared,
                budget=self.budget,
                clock=self.clock,
                telemetry=self.telemetry,
                jitter=lambda: 0.5,
            )
            for project in projects or ("p",)
        ]

    async def token(self, credential: PasswordCredential) -> str:
        work = credential.headers(REQUEST, deadline=self.clock.monotonic() + 60)
        ((name, value),) = await self.passing(work)
        assert name == "X-Auth-Token"
        return value

    async def renewed(self, credential: PasswordCredential, token: str) -> bool:
        refused = (("X-Auth-Token", token),)
        return await self.passing(credential.renew(refused, deadline=self.clock.monotonic() + 60))

    async def passing(self, work: Awaitable[T]) -> T:
        """Advance the clock until the work is done."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.clock.advance(0.05)
        return await task


@pytest.fixture
def region(clock: FakeClock) -> Region:
    return Region(clock)


async def test_login_request_is_keystone_s(region: Region) -> None:
    (credential,) = region.replica()
    await region.token(credential)
    (request,) = region.iam.requests
    assert (request.method, request.path) == ("POST", "/v3/auth/tokens?nocatalog=1")
    assert json.loads(request.body) == {
        "auth": {
            "identity": {
                "methods": ["password"],
                "password": {
                    "user": {"name": "gw", "password": PASSWORD, "domain": {"name": "corp"}}
                },
            },
            "scope": {"project": {"id": "p"}},
        }
    }
    assert region.budget.slots == [("prod", BudgetClass.IAM, "")]


async def test_fifty_concurrent_requests_cost_one_login(region: Region) -> None:
    (credential,) = region.replica()
    tokens = await region.passing(asyncio.gather(*(region.token(credential) for _ in range(50))))
    assert len(set(tokens)) == 1
    assert region.iam.logins == 1


async def test_ten_replicas_cost_one_login(region: Region) -> None:
    replicas = [region.replica()[0] for _ in range(10)]
    tokens = await region.passing(asyncio.gather(*(region.token(one) for one in replicas)))
    assert len(set(tokens)) == 1
    assert region.iam.logins == 1


async def test_each_project_has_its_token(region: Region) -> None:
    one, two = region.replica("p", "q")
    assert await region.token(one) != await region.token(two)
    assert [json.loads(r.body)["auth"]["scope"]["project"]["id"] for r in region.iam.requests] == [
        "p", "q",
    ]  # fmt: skip


async def test_expiry_metric_is_per_project(
    region: Region,
) -> None:
    stuck, renewed = region.replica("p", "q")
    expires = region.telemetry.expires
    assert expires == {("prod", "p"): 0.0, ("prod", "q"): 0.0}
    await region.token(stuck)
    ends = expires["prod", "p"]
    await region.clock.advance(DAY_S / 2)
    await region.token(renewed)
    assert expires["prod", "p"] == ends
    assert expires["prod", "q"] > ends + DAY_S / 3


async def test_expired_token_is_not_sent(region: Region) -> None:
    (credential,) = region.replica()
    first = await region.token(credential)
    await region.clock.advance(DAY_S - 30)
    assert await region.token(credential) != first


async def test_background_renewal_precedes_expiry(region: Region) -> None:
    (credential,) = region.replica()
    loop = asyncio.ensure_future(credential.run())
    await region.clock.advance(1.0)
    first = await region.token(credential)
    await region.clock.advance(DAY_S - 3_000)
    assert region.iam.logins == 2
    region.iam.trouble = UpstreamUnreachable("down", retry_after_s=1.0)
    assert await region.token(credential) != first
    await _stop(loop)


async def test_old_token_serves_while_iam_is_unavailable(region: Region) -> None:
    (credential,) = region.replica()
    first = await region.token(credential)
    region.iam.trouble = UpstreamUnreachable("down", retry_after_s=1.0)
    loop = asyncio.ensure_future(credential.run())
    await region.clock.advance(DAY_S - 1_800)
    assert await region.token(credential) == first
    tries = region.iam.logins
    assert tries > 1
    region.iam.trouble = None
    await region.clock.advance(61.0)
    assert await region.token(credential) != first
    await _stop(loop)


async def test_back_off_resets_after_another_replica_s_login(
    region: Region,
) -> None:
    (one,), (other,) = region.replica(), region.replica()

    async def outage() -> list[float]:
        """Return the back-off pauses of `one` during an outage."""
        region.iam.trouble = UpstreamUnreachable("down", retry_after_s=1.0)
        await region.clock.advance(DAY_S)
        pauses_s = []
        for _ in range(3):
            with pytest.raises(ServiceLoginFailed) as caught:
                await region.token(one)
            pauses_s.append(caught.value.retry_after_s)
            await region.clock.advance(pauses_s[-1])
        region.iam.trouble = None
        await region.token(other)
        await region.token(one)
        return pauses_s

    assert await outage() == await outage() == [1.0, 2.0, 4.0]
    assert region.iam.logins == 8


async def test_back_off_of_unavailable_iam_is_short(region: Region) -> None:
    (credential,) = region.replica()
    region.iam.trouble = UpstreamUnreachable("down", retry_after_s=1.0)
    began = region.clock.monotonic()
    while region.clock.monotonic() < began + 600.0:
        with pytest.raises(ServiceLoginFailed) as caught:
            await region.token(credential)
        assert caught.value.retry_after_s <= 10.0
        await region.clock.advance(caught.value.retry_after_s)
    assert region.iam.logins < 85


def test_one_caller_s_deadline_does_not_cancel_login() -> None:
    async def scene() -> None:
        region = Region(VirtualClock())
        region.iam.answer_s = 2.0
        (credential,) = region.replica()
        began = region.clock.monotonic()
        short, long = (
            asyncio.ensure_future(credential.headers(REQUEST, deadline=began + within_s))
            for within_s in (1.0, 30.0)
        )
        with pytest.raises(DeadlineExceeded):
            await short
        assert await long
        assert region.clock.monotonic() - began == pytest.approx(2.0, abs=0.1)
        assert region.iam.logins == 1

    run_virtually(scene())


def test_short_deadlines_still_cost_one_login() -> None:
    async def scene() -> None:
        region = Region(VirtualClock())
        region.iam.answer_s = 2.0
        (credential,) = region.replica()
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await credential.headers(REQUEST, deadline=region.clock.monotonic() + 0.5)
        await asyncio.sleep(1.5)
        assert await credential.headers(REQUEST, deadline=region.clock.monotonic() + 0.5)
        assert region.iam.logins == 1

    run_virtually(scene())


def test_short_deadlines_do_not_lock_the_account() -> None:
    async def scene() -> None:
        region = Region(VirtualClock())
        region.iam.password, region.iam.answer_s = "another", 2.0
        (credential,) = region.replica()
        for _ in range(100):
            with pytest.raises(GatewayError):
                await credential.headers(REQUEST, deadline=region.clock.monotonic() + 0.5)
            await asyncio.sleep(1.0)
        await asyncio.sleep(5.0)
        assert len(region.iam.refused_at) == region.iam.logins == 1

    run_virtually(scene())


def test_login_timeout_excludes_the_wait_for_turn() -> None:
    async def scene() -> None:
        region = Region(VirtualClock())
        region.iam.answer_s = 10.0
        deadline = region.clock.monotonic() + 30.0
        await asyncio.gather(
            *(one.headers(REQUEST, deadline=deadline) for one in region.replica("p", "q"))
        )
        assert (region.iam.logins, region.iam.most_in_flight) == (2, 1)

    run_virtually(scene())


def test_background_login_backs_off_when_iam_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        region = Region(VirtualClock())
        region.iam.answer_s = 3_600.0
        (credential,) = region.replica()
        loop = asyncio.ensure_future(credential.run())
        await asyncio.sleep(20.0)
        assert region.telemetry.logins == [("prod", "unavailable")]
        await _stop(loop)

    run_virtually(scene())
    assert [record.message for record in caplog.records] == ["service_login_failed"]


async def test_short_lived_token_is_not_renewed_continuously(region: Region) -> None:
    region.iam.life_s = 40.0
    (credential,) = region.replica()
    loop = asyncio.ensure_future(credential.run())
    await region.clock.advance(400.0)
    assert 10 <= region.iam.logins <= 25
    await _stop(loop)


async def test_revoked_token_costs_one_login(region: Region) -> None:
    replicas = [region.replica()[0] for _ in range(3)]
    tokens = [await region.token(one) for one in replicas]
    await region.clock.advance(100.0)
    assert (
        await region.passing(
            asyncio.gather(*(region.renewed(one, tokens[0]) for one in replicas for _ in range(10)))
        )
        == [True] * 30
    )
    assert region.iam.logins == 2
    assert {await region.token(one) for one in replicas} != set(tokens)


async def test_token_rejected_after_renewal_is_not_renewed(
    region: Region,
) -> None:
    (credential,) = region.replica()
    first = await region.token(credential)
    assert await region.renewed(credential, first)
    second = await region.token(credential)
    for _ in range(20):
        assert not await region.renewed(credential, second)
    assert region.iam.logins == 2
    await region.clock.advance(60.0)
    assert await region.renewed(credential, second)


async def test_renew_returns_true_if_already_renewed(region: Region) -> None:
    (credential,) = region.replica()
    await region.token(credential)
    assert await region.renewed(credential, "an-older-token")
    assert region.iam.logins == 1


async def test_wrong_password_never_locks_the_account(region: Region) -> None:
    region.iam.password = "another"
    replicas = [one for _ in range(4) for one in region.replica("p", "q", "r")]
    loops = [asyncio.ensure_future(one.run()) for one in replicas]
    for _ in range(24):
        await region.clock.advance(600.0)
        results = await region.passing(
            asyncio.gather(*(region.token(one) for one in replicas), return_exceptions=True)
        )
        assert all(isinstance(result, ServiceLoginFailed) for result in results)
    assert region.iam.most_failures_in_15_minutes() <= 3
    assert region.iam.most_in_flight == 1
    assert len(region.iam.refused_at) >= 4
    for loop in loops:
        await _stop(loop)


async def test_restart_does_not_repeat_a_wrong_password(region: Region) -> None:
    region.iam.password = "another"
    for _ in range(20):
        (credential,) = region.replica()
        with pytest.raises(ServiceLoginFailed) as caught:
            await region.token(credential)
        assert 200 < caught.value.retry_after_s <= 300
        await region.clock.advance(1.0)
    assert region.iam.logins == 1


async def test_refused_metric_is_set_until_next_token(region: Region) -> None:
    region.iam.password = "another"
    (credential,) = region.replica()
    refused = region.telemetry.login_refused
    assert refused == {("prod", "p"): False}
    with pytest.raises(ServiceLoginFailed):
        await region.token(credential)
    assert refused == {("prod", "p"): True}
    region.iam.password = PASSWORD
    await region.clock.advance(301.0)
    await region.token(credential)
    assert refused == {("prod", "p"): False}


async def test_new_process_exports_an_earlier_refusal(region: Region) -> None:
    region.iam.password = "another"
    for _ in range(2):
        (credential,) = region.replica()
        assert region.telemetry.login_refused == {("prod", "p"): False}
        with pytest.raises(ServiceLoginFailed):
            await region.token(credential)
        assert region.telemetry.login_refused == {("prod", "p"): True}
    assert region.iam.logins == 1


async def test_changed_password_is_tried_at_once(region: Region) -> None:
    region.iam.password = "another"
    (wrong,) = region.replica()
    with pytest.raises(ServiceLoginFailed):
        await region.token(wrong)
    (right,) = region.replica(password="another")
    assert await region.token(right)


async def test_without_redis_a_process_still_backs_off(region: Region) -> None:
    region.store.unavailable = True
    region.iam.password = "another"
    (credential,) = region.replica()
    for _ in range(60):
        with pytest.raises(ServiceLoginFailed):
            await region.token(credential)
        await region.clock.advance(60.0)
    assert region.iam.most_failures_in_15_minutes() <= 3


@pytest.mark.parametrize(
    "trouble",
    [
        UpstreamUnreachable("down", retry_after_s=1.0),
        UpstreamSlow("no answer in time"),
        UpstreamResponse(503, {}, b""),
        UpstreamResponse(500, {}, b"<html>"),
        UpstreamResponse(429, {"retry-after": "3"}, b"slow"),
    ],
)
async def test_unavailable_iam_backs_off_and_recovers(
    region: Region, trouble: UpstreamResponse | GatewayError
) -> None:
    region.iam.trouble = trouble
    (credential,) = region.replica()
    for _ in range(10):
        with pytest.raises(ServiceLoginFailed) as caught:
            await region.token(credential)
        assert caught.value.retry_after_s <= 40
    assert region.iam.logins == 1, "requests during the back-off fail at once"
    region.iam.trouble = None
    await region.clock.advance(2.0)
    assert await region.token(credential)


async def test_iam_429_pauses_its_budget(region: Region) -> None:
    region.iam.trouble = UpstreamResponse(429, {"retry-after": "3"}, b"slow")
    (credential,) = region.replica()
    with pytest.raises(ServiceLoginFailed):
        await region.token(credential)
    assert region.budget.pauses == [3.0]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b'{"token":{"expires_at":"2099-01-01T00:00:00.000000Z"}}'),
        ({"x-subject-token": "t" * 20}, b"{}"),
        ({"x-subject-token": "t" * 20}, b"[]"),
        ({"x-subject-token": "t" * 20}, b'{"token":{"expires_at":"soon"}}'),
        ({"x-subject-token": "t" * 20}, b'{"token":{"expires_at":"2099-01-01T00:00:00"}}'),
        ({"x-subject-token": "t" * 20}, b'{"token":{"expires_at":"2001-01-01T00:00:00Z"}}'),
        ({"x-subject-token": "a b" * 20}, b'{"token":{"expires_at":"2099-01-01T00:00:00Z"}}'),
        ({"x-subject-token": "t" * 70_000}, b'{"token":{"expires_at":"2099-01-01T00:00:00Z"}}'),
    ],
)
async def test_response_201_without_valid_token_is_no_login(
    region: Region, headers: dict[str, str], body: bytes
) -> None:
    region.iam.trouble = UpstreamResponse(201, headers, body)
    (credential,) = region.replica()
    for _ in range(5):
        with pytest.raises(ServiceLoginFailed):
            await region.token(credential)
    assert region.iam.logins == 1


async def test_logs_and_errors_contain_no_secret(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (credential,) = region.replica()
    token = await region.token(credential)
    region.iam.password = "another"
    await region.clock.advance(100.0)
    with pytest.raises(ServiceLoginFailed) as caught:
        await region.renewed(credential, token)
    shown = "".join(traceback.format_exception(caught.value))
    shown += "".join(str(record.__dict__) for record in caplog.records)
    shown += repr(vars(credential))
    assert "canary" not in shown


async def test_login_over_http_accepts_60_kb_token(clock: FakeClock) -> None:
    region = Region(clock)
    token = "MII" + "x" * 60_000
    answer = ok(
        b'{"token":{"expires_at":"2099-01-01T00:00:00.000000Z"}}',
        f"X-Subject-Token: {token}",
        status="201 Created",
    )
    async with (
        scripted_upstream(answer) as iam,
        open_session(Timeouts()) as session,
    ):
        region.iam = AioUpstream(session, iam.url, response_bytes_max=1_048_576)  # type: ignore[assignment]
        (credential,) = region.replica()
        headers = await credential.headers(REQUEST, deadline=clock.monotonic() + 60)
    assert headers == (("X-Auth-Token", token),)
    assert iam.received[0].line == "POST /v3/auth/tokens?nocatalog=1 HTTP/1.1"


def key_pair(clock: FakeClock, endpoint: str = "https://clouddc.example") -> KeyPairCredential:
    login = KeyPairLogin(
        method="aksk", access_key=Secret("AK"), secret_key=Secret("canary-secret-key")
    )
    return KeyPairCredential(login, endpoint, clock=clock)


async def test_key_pair_signs_requests_and_is_not_renewed(clock: FakeClock) -> None:
    pair = key_pair(clock)
    one = await pair.headers(REQUEST, deadline=0)
    two = await pair.headers(UpstreamRequest("GET", "/v1/p/other"), deadline=0)
    assert dict(one)["Authorization"] != dict(two)["Authorization"]
    assert "canary" not in str(one)
    assert await pair.renew(one, deadline=0) is False


async def test_signed_request_arrives_unchanged(clock: FakeClock) -> None:
    async with (
        scripted_upstream(ok()) as cloud,
        open_session(Timeouts()) as session,
    ):
        pair = key_pair(clock, cloud.url)
        signed = await pair.headers(REQUEST, deadline=0)
        upstream = AioUpstream(session, cloud.url, response_bytes_max=1_024)
        await upstream.send(REQUEST, credential=signed, timeout_s=10.0)
    (received,) = cloud.received
    for name, value in signed:
        assert received.header(name) == [value]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("canary-token-one\n")
    return file


def from_file(
    file: Path, clock: FakeClock, telemetry: RecordingTelemetry | None = None
) -> TokenFileCredential:
    login = TokenFileLogin.model_construct(method="token_file", token_file=file)
    telemetry = telemetry or RecordingTelemetry()
    return TokenFileCredential("prod", login, clock=clock, telemetry=telemetry)


async def test_replaced_token_file_is_reloaded(token_file: Path, clock: FakeClock) -> None:
    credential = from_file(token_file, clock)
    assert await credential.headers(REQUEST, deadline=0) == (("X-Auth-Token", "canary-token-one"),)
    other = token_file.with_suffix(".new")
    other.write_text("canary-token-two")
    other.replace(token_file)
    await clock.advance(1.5)
    assert await credential.headers(REQUEST, deadline=0) == (("X-Auth-Token", "canary-token-two"),)


async def test_token_file_renews_only_changed_token(token_file: Path, clock: FakeClock) -> None:
    credential = from_file(token_file, clock)
    refused = await credential.headers(REQUEST, deadline=0)
    assert await credential.renew(refused, deadline=0) is False
    token_file.write_text("canary-token-two")  # noqa: ASYNC240 - some bytes
    assert await credential.renew(refused, deadline=0) is True


@pytest.mark.parametrize("content", ["", "text with spaces is not a token", "short", "é" * 40])
async def test_invalid_token_file_is_no_login(
    token_file: Path, clock: FakeClock, content: str
) -> None:
    token_file.write_text(content, encoding="utf-8")  # noqa: ASYNC240 - some bytes
    with pytest.raises(ServiceLoginFailed):
        await from_file(token_file, clock).headers(REQUEST, deadline=0)


async def test_last_valid_token_serves_while_file_is_missing(
    token_file: Path, clock: FakeClock
) -> None:
    credential = from_file(token_file, clock)
    headers = await credential.headers(REQUEST, deadline=0)
    token_file.unlink()  # noqa: ASYNC240 - some bytes
    await clock.advance(1.5)
    assert await credential.headers(REQUEST, deadline=0) == headers


async def test_invalid_token_file_counts_once_per_second(
    token_file: Path, clock: FakeClock
) -> None:
    telemetry = RecordingTelemetry()
    credential = from_file(token_file, clock, telemetry)
    refused = await credential.headers(REQUEST, deadline=0)
    assert telemetry.logins == []
    token_file.unlink()  # noqa: ASYNC240 - some bytes
    for _ in range(3):
        await clock.advance(1.5)
        for _ in range(20):
            await credential.headers(REQUEST, deadline=0)
            assert await credential.renew(refused, deadline=0) is False
    assert telemetry.logins == [("prod", "unavailable")] * 3


async def test_missing_token_file_counts_as_failed_login(tmp_path: Path, clock: FakeClock) -> None:
    telemetry = RecordingTelemetry()
    credential = from_file(tmp_path / "none", clock, telemetry)
    for _ in range(20):
        with pytest.raises(ServiceLoginFailed):
            await credential.headers(REQUEST, deadline=0)
    assert telemetry.logins == [("prod", "unavailable")]


async def _stop(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
