"""Key pairs and token files: credentials that no login verifies."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.config.accounts import KeyPairLogin, Timeouts, TokenFileLogin
from gateway.domain.errors import GatewayError, ServiceLoginFailed, UpstreamUnreachable
from gateway.domain.model import BudgetClass, Headers, Secret, UpstreamRequest, UpstreamResponse
from gateway.domain.upstream.login_ledger import PAUSES_S
from gateway.drivers.cloud.credential_check import CheckedAccount, CredentialCheck
from gateway.drivers.cloud.credentials import KeyPairCredential, TokenFileCredential
from gateway.drivers.cloud.login_gate import LoginGates
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from gateway.flow.exchange import Upstream
from gateway.flow.single_flight import SingleFlight
from tests.support.clock import FakeClock
from tests.support.logins import REQUEST, Region, iam_error
from tests.support.scripted_upstream import ok, scripted_upstream
from tests.support.telemetry import RecordingTelemetry

WRONG_SIGNATURE = iam_error(401, "APIGW.0301")
OK = UpstreamResponse(200, {}, b"{}")


@dataclass
class Front:
    """The servers API; it records what it is sent."""

    clock: FakeClock
    answers: list[UpstreamResponse | GatewayError] = field(default_factory=lambda: [OK])
    """The last one repeats."""
    sent: list[tuple[UpstreamRequest, Headers]] = field(default_factory=list)

    async def send(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        self.sent.append((request, credential))
        await self.clock.sleep(0.05)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    async def open(
        self, request: UpstreamRequest, *, credential: Headers, timeout_s: float
    ) -> UpstreamResponse:
        raise NotImplementedError


class Site:
    """Processes that share a store and call one servers API with unlogged credentials."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.region = Region(clock)
        self.front = Front(clock)

    @property
    def telemetry(self) -> RecordingTelemetry:
        return self.region.telemetry

    def key_pairs(
        self,
        *projects: str,
        secret: str = "canary-secret-key",
        endpoint: str = "https://clouddc.example",
        upstream: Upstream | None = None,
    ) -> list[KeyPairCredential]:
        """Return the credentials of a new process."""
        login = KeyPairLogin(method="aksk", access_key=Secret("AK"), secret_key=Secret(secret))
        projects = projects or ("p",)
        check = self._check(projects[0], endpoint, upstream or self.front, lockable=True)
        return [
            KeyPairCredential(project, login, endpoint, check=check, clock=self.clock)
            for project in projects
        ]

    def token_file(self, file: Path) -> TokenFileCredential:
        login = TokenFileLogin.model_construct(method="token_file", token_file=file)
        check = self._check("p", "https://clouddc.example", self.front, lockable=False)
        return TokenFileCredential(
            "prod", login, check=check, clock=self.clock, telemetry=self.telemetry
        )

    async def sent(self, credential: KeyPairCredential | TokenFileCredential) -> Headers:
        deadline = self.clock.monotonic() + 60
        return await self.region.passing(credential.headers(REQUEST, deadline=deadline))

    def _check(
        self, project: str, endpoint: str, upstream: Upstream, *, lockable: bool
    ) -> CredentialCheck:
        shared = SingleFlight(self.region.store, self.clock)
        return CredentialCheck(
            CheckedAccount(
                "prod",
                project,
                is_for_all_projects=lockable,
                is_lockable=lockable,
                pauses_s=PAUSES_S if lockable else (30.0, 60.0, 300.0),
            ),
            endpoint=self.region.endpoint(project, endpoint, upstream, BudgetClass.CONSOLE),
            gate=LoginGates(shared, self.clock).of("AK"),
            shared=shared,
            clock=self.clock,
            telemetry=self.telemetry,
        )


@pytest.fixture
def site(clock: FakeClock) -> Site:
    return Site(clock)


async def test_key_pair_signs_requests_and_is_not_renewed(site: Site) -> None:
    (pair,) = site.key_pairs()
    one = await site.sent(pair)
    two = await pair.headers(UpstreamRequest("GET", "/v1/p/other"), deadline=0)
    assert dict(one)["Authorization"] != dict(two)["Authorization"]
    assert "canary" not in str(one)
    assert await pair.renew(one, is_certain=True, deadline=0) is False


async def test_each_request_is_signed_for_its_project(site: Site) -> None:
    one, two = site.key_pairs("p", "q")
    for pair, project in ((one, "p"), (two, "q")):
        sent = dict(await site.sent(pair))
        assert sent["X-Project-Id"] == project
        assert "x-project-id" in sent["Authorization"]


async def test_signed_request_arrives_unchanged(site: Site) -> None:
    async with (
        scripted_upstream(ok()) as cloud,
        open_session(Timeouts()) as session,
    ):
        upstream = AioUpstream(session, cloud.url, response_bytes_max=1_024)
        (pair,) = site.key_pairs(endpoint=cloud.url, upstream=upstream)
        deadline = site.clock.monotonic() + 60
        signed = await pair.headers(REQUEST, deadline=deadline)
        await upstream.send(REQUEST, credential=signed, timeout_s=10.0)
    check, received = cloud.received
    assert check.line == "GET /v1/p/physicalservers?limit=10 HTTP/1.1"
    for name, value in signed:
        assert received.header(name) == [value]


async def test_key_pair_is_checked_once_by_one_read(site: Site) -> None:
    processes = [site.key_pairs("p", "q") for _ in range(4)]
    await asyncio.gather(*(site.sent(pair) for pairs in processes for pair in pairs))
    (pair,) = site.key_pairs()  # after a restart
    await site.sent(pair)
    assert [request.path for request, _ in site.front.sent] == ["/v1/p/physicalservers?limit=10"]
    assert site.region.budget.slots == [("prod", BudgetClass.CONSOLE, "")]


@pytest.mark.parametrize("status", [200, 400, 403, 404])
async def test_response_behind_the_front_accepts_the_key(site: Site, status: int) -> None:
    site.front.answers = [UpstreamResponse(status, {}, b"{}")]
    (pair,) = site.key_pairs()
    assert await site.sent(pair)


async def test_wrong_secret_never_locks_the_access_key(site: Site) -> None:
    site.front.answers = [WRONG_SIGNATURE]
    for _ in range(20):  # also over restarts
        for pair in site.key_pairs("p", "q"):
            with pytest.raises(ServiceLoginFailed) as caught:
                await site.sent(pair)
            assert 200 < caught.value.retry_after_s <= 300
    assert len(site.front.sent) == 1
    assert site.telemetry.login_refused["prod", "p"] is True
    (pair,) = site.key_pairs()
    for _ in range(120):
        with pytest.raises(ServiceLoginFailed):
            await site.sent(pair)
        await site.clock.advance(60.0)
    assert len(site.front.sent) <= 1 + 5


async def test_changed_secret_is_tried_at_once(site: Site) -> None:
    site.front.answers = [WRONG_SIGNATURE, OK]
    (wrong,) = site.key_pairs(secret="wrong")
    with pytest.raises(ServiceLoginFailed):
        await site.sent(wrong)
    (right,) = site.key_pairs()
    assert await site.sent(right)


async def test_rejected_call_is_followed_by_a_check(site: Site) -> None:
    (pair,) = site.key_pairs()
    sent = await site.sent(pair)
    await site.clock.advance(60.0)
    site.front.answers = [WRONG_SIGNATURE]
    pair.report(sent, accepted=False)
    for _ in range(40):
        with pytest.raises(ServiceLoginFailed):
            await site.sent(pair)
    assert len(site.front.sent) == 2
    (restarted,) = site.key_pairs()
    with pytest.raises(ServiceLoginFailed):
        await site.sent(restarted)
    assert len(site.front.sent) == 2


async def test_rejected_request_does_not_pause_a_valid_key(site: Site) -> None:
    (pair,) = site.key_pairs()
    sent = await site.sent(pair)
    await site.clock.advance(60.0)
    for _ in range(10):
        pair.report(sent, accepted=False)
        assert await site.sent(pair)
    assert len(site.front.sent) == 2


async def test_wrong_clock_pauses_only_its_own_process(site: Site) -> None:
    clocks = b'{"error_code":"APIGW.0303","error_msg":"the server and client times differ"}'
    site.front.answers = [UpstreamResponse(401, {}, clocks), OK]
    (one,), (other,) = site.key_pairs(), site.key_pairs()
    with pytest.raises(ServiceLoginFailed) as caught:
        await site.sent(one)
    assert "the clocks differ" in str(caught.value)
    assert await site.sent(other)
    await site.clock.advance(2.0)
    assert await site.sent(one)


@pytest.mark.parametrize(
    "trouble",
    [UpstreamUnreachable("down", retry_after_s=1.0), UpstreamResponse(503, {}, b"")],
)
async def test_unavailable_cloud_says_nothing_of_the_key(
    site: Site, trouble: UpstreamResponse | GatewayError
) -> None:
    site.front.answers = [trouble, OK]
    (pair,) = site.key_pairs()
    with pytest.raises(ServiceLoginFailed) as caught:
        await site.sent(pair)
    assert caught.value.retry_after_s <= 10
    await site.clock.advance(2.0)
    assert await site.sent(pair)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("canary-token-one\n")
    return file


async def test_replaced_token_file_is_reloaded(token_file: Path, site: Site) -> None:
    credential = site.token_file(token_file)
    assert await credential.headers(REQUEST, deadline=0) == (("X-Auth-Token", "canary-token-one"),)
    other = token_file.with_suffix(".new")
    other.write_text("canary-token-two")
    other.replace(token_file)
    await site.clock.advance(1.5)
    assert await credential.headers(REQUEST, deadline=0) == (("X-Auth-Token", "canary-token-two"),)


async def test_token_file_renews_only_changed_token(token_file: Path, site: Site) -> None:
    credential = site.token_file(token_file)
    refused = await credential.headers(REQUEST, deadline=0)
    assert await credential.renew(refused, is_certain=True, deadline=0) is False
    token_file.write_text("canary-token-two")  # noqa: ASYNC240 - some bytes
    assert await credential.renew(refused, is_certain=True, deadline=0) is True


@pytest.mark.parametrize("content", ["", "text with spaces is not a token", "short", "é" * 40])
async def test_invalid_token_file_is_no_login(token_file: Path, site: Site, content: str) -> None:
    token_file.write_text(content, encoding="utf-8")  # noqa: ASYNC240 - some bytes
    with pytest.raises(ServiceLoginFailed):
        await site.token_file(token_file).headers(REQUEST, deadline=0)


async def test_last_valid_token_serves_while_file_is_missing(token_file: Path, site: Site) -> None:
    credential = site.token_file(token_file)
    headers = await credential.headers(REQUEST, deadline=0)
    token_file.unlink()  # noqa: ASYNC240 - some bytes
    await site.clock.advance(1.5)
    assert await credential.headers(REQUEST, deadline=0) == headers


async def test_invalid_token_file_counts_once_per_second(token_file: Path, site: Site) -> None:
    credential = site.token_file(token_file)
    refused = await credential.headers(REQUEST, deadline=0)
    assert site.telemetry.logins == []
    token_file.unlink()  # noqa: ASYNC240 - some bytes
    for _ in range(3):
        await site.clock.advance(1.5)
        for _ in range(20):
            await credential.headers(REQUEST, deadline=0)
            assert await credential.renew(refused, is_certain=True, deadline=0) is False
    assert site.telemetry.logins == [("prod", "unavailable")] * 3


async def test_missing_token_file_counts_as_failed_login(tmp_path: Path, site: Site) -> None:
    credential = site.token_file(tmp_path / "none")
    for _ in range(20):
        with pytest.raises(ServiceLoginFailed):
            await credential.headers(REQUEST, deadline=0)
    assert site.telemetry.logins == [("prod", "unavailable")]


async def test_token_file_with_bom_is_read(token_file: Path, site: Site) -> None:
    token_file.write_text("\ufeffcanary-token-one\r\n", encoding="utf-8")  # noqa: ASYNC240
    assert await site.sent(site.token_file(token_file)) == (("X-Auth-Token", "canary-token-one"),)


async def test_rejected_token_file_backs_off(token_file: Path, site: Site) -> None:
    site.front.answers = [iam_error(401, "APIGW.0301")]
    processes = [site.token_file(token_file) for _ in range(3)]
    for one in processes:
        one.report(await site.sent(one), accepted=False)
        for _ in range(40):
            with pytest.raises(ServiceLoginFailed) as caught:
                await site.sent(one)
            assert caught.value.retry_after_s <= 30
    assert len(site.front.sent) == 1
    token_file.write_text("canary-token-two")  # noqa: ASYNC240 - some bytes
    await site.clock.advance(1.5)
    for one in processes:
        assert await site.sent(one) == (("X-Auth-Token", "canary-token-two"),)


async def test_rejected_request_does_not_pause_a_valid_token_file(
    token_file: Path, site: Site
) -> None:
    credential = site.token_file(token_file)
    for _ in range(10):
        credential.report(await site.sent(credential), accepted=False)
    assert len(site.front.sent) == 1
