"""Password logins: shared by replicas, and never enough failures to lock the account."""

import asyncio
import json
import logging
import traceback

import pytest

from gateway.config.accounts import Timeouts
from gateway.domain.errors import (
    DeadlineExceeded,
    GatewayError,
    ServiceLoginFailed,
    UpstreamSlow,
    UpstreamUnreachable,
)
from gateway.domain.model import BudgetClass, UpstreamResponse
from gateway.drivers.cloud.upstream import AioUpstream, open_session
from tests.support.clock import FakeClock
from tests.support.logins import (
    DAY_S,
    PASSWORD,
    REQUEST,
    Region,
    iam_error,
    keystone_error,
    stop,
)
from tests.support.scripted_upstream import ok, scripted_upstream
from tests.support.virtual_time import VirtualClock, run_virtually


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
    await stop(loop)


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
    await stop(loop)


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
        await stop(loop)

    run_virtually(scene())
    assert [record.message for record in caplog.records] == ["service_login_failed"]


async def test_short_lived_token_is_not_renewed_continuously(region: Region) -> None:
    region.iam.life_s = 40.0
    (credential,) = region.replica()
    loop = asyncio.ensure_future(credential.run())
    await region.clock.advance(400.0)
    assert 10 <= region.iam.logins <= 25
    await stop(loop)


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
        await stop(loop)


@pytest.mark.parametrize(
    "error",
    [
        iam_error(404, "IAM.0004"),
        keystone_error(404),
        iam_error(403, "IAM.0002"),
        keystone_error(400),
    ],
)
async def test_mistyped_project_closes_only_itself(region: Region, error: UpstreamResponse) -> None:
    region.iam.closed_projects["typo"] = error
    for _ in range(5):  # also over restarts
        good, mistyped = region.replica("good", "typo")
        with pytest.raises(ServiceLoginFailed) as caught:
            await region.token(mistyped)
        assert "project typo" in str(caught.value)
        assert await region.token(good)
    assert region.telemetry.login_refused == {("prod", "good"): False, ("prod", "typo"): True}
    assert region.iam.logins == 2


async def test_unknown_projects_count_as_no_wrong_password(region: Region) -> None:
    typos = [f"typo{i}" for i in range(10)]
    region.iam.closed_projects = dict.fromkeys(typos, iam_error(404, "IAM.0004"))
    *mistyped, good = region.replica(*typos, "good")
    for one in mistyped:
        with pytest.raises(ServiceLoginFailed):
            await region.token(one)
    assert await region.token(good)


async def test_project_without_role_leaves_the_others(region: Region) -> None:
    one, two = region.replica("one", "two")
    region.iam.closed_projects["one"] = keystone_error(401)
    with pytest.raises(ServiceLoginFailed) as caught:
        await region.token(one)
    assert "project one: " in str(caught.value)
    assert "the user has no role in the project" in str(caught.value)
    assert await region.token(two)


async def test_projects_without_role_never_lock_the_account(
    region: Region, caplog: pytest.LogCaptureFixture
) -> None:
    closed = [f"closed{i}" for i in range(6)]
    region.iam.closed_projects = dict.fromkeys(closed, keystone_error(401))
    replicas = [one for _ in range(3) for one in region.replica(*closed, "good")]
    loops = [asyncio.ensure_future(one.run()) for one in replicas]
    await region.clock.advance(4 * 3_600.0)
    assert region.iam.most_failures_in_15_minutes() == 3
    assert region.telemetry.login_refused["prod", "good"] is False
    refused = [one for one in caplog.records if one.message == "service_login_refused"]
    assert {one.project for one in refused} == set(closed)
    for loop in loops:
        await stop(loop)


async def test_locked_account_pauses_every_project(region: Region) -> None:
    region.iam.trouble = iam_error(401, "IAM.0061")
    for one in region.replica("one", "two", "three"):
        with pytest.raises(ServiceLoginFailed) as caught:
            await region.token(one)
        assert "the account is locked" in str(caught.value)
    assert region.iam.logins == 1


async def test_changed_iam_endpoint_is_tried_at_once(region: Region) -> None:
    region.iam.trouble = iam_error(401, "IAM.0062")
    (wrong,) = region.replica()
    with pytest.raises(ServiceLoginFailed):
        await region.token(wrong)
    region.iam.trouble = None
    (corrected,) = region.replica(iam_endpoint="https://iam-2.example")
    assert await region.token(corrected)


async def test_wrong_passwords_in_a_row_never_lock_the_account(region: Region) -> None:
    region.iam.password = "the right one"
    for i in range(12):
        for one in region.replica("p", "q", password=f"wrong {i}"):
            with pytest.raises(ServiceLoginFailed):
                await region.token(one)
        await region.clock.advance(30.0)
    assert region.iam.most_failures_in_15_minutes() == 4


async def test_accounts_of_one_user_share_the_bound(region: Region) -> None:
    region.iam.password = "another"
    for project in "abcdefgh":  # each replica is a separate process
        (one,) = region.replica(project)
        with pytest.raises(ServiceLoginFailed):
            await region.token(one)
    assert region.iam.most_failures_in_15_minutes() == 3


@pytest.mark.parametrize("ahead_s", [-7_200.0, 7_200.0])
async def test_lifetime_does_not_depend_on_iam_clock(region: Region, ahead_s: float) -> None:
    region.iam.ahead_s, region.iam.life_s = ahead_s, 3_600.0
    (credential,) = region.replica()
    began = region.clock.now()
    first = await region.token(credential)
    assert region.telemetry.expires["prod", "p"] == pytest.approx(began + 3_600.0, abs=1.0)
    await region.clock.advance(3_000.0)
    assert await region.token(credential) == first
    await region.clock.advance(560.0)
    assert await region.token(credential) != first


async def test_lifetime_without_issued_at_uses_date(region: Region) -> None:
    region.iam.trouble = UpstreamResponse(
        201,
        {"x-subject-token": "t" * 20, "date": "Fri, 15 Jan 2027 04:00:00 GMT"},
        b'{"token":{"expires_at":"2027-01-15T05:00:00Z"}}',
    )
    (credential,) = region.replica()
    began = region.clock.now()
    await region.token(credential)
    assert region.telemetry.expires["prod", "p"] == pytest.approx(began + 3_600.0, abs=1.0)


async def test_requests_wait_for_a_renewal(region: Region) -> None:
    (credential,) = region.replica()
    first = await region.token(credential)
    region.budget.closed = True
    deadline = region.clock.monotonic() + 60
    renewing = asyncio.ensure_future(
        credential.renew((("X-Auth-Token", first),), is_certain=False, deadline=deadline)
    )
    await region.clock.advance(1.0)
    waiting = [
        asyncio.ensure_future(credential.headers(REQUEST, deadline=deadline)) for _ in range(10)
    ]
    await region.clock.advance(1.0)
    assert not any(one.done() for one in (renewing, *waiting))
    region.budget.closed = False
    await region.clock.advance(1.0)
    assert await renewing
    assert {await one for one in waiting} != {(("X-Auth-Token", first),)}
    assert region.iam.logins == 2


def test_requests_wait_although_the_first_caller_left() -> None:
    async def scene() -> None:
        region = Region(VirtualClock())
        (credential,) = region.replica()
        deadline = region.clock.monotonic() + 60
        first = await credential.headers(REQUEST, deadline=deadline)
        region.iam.answer_s = 2.0
        with pytest.raises(DeadlineExceeded):
            await credential.renew(first, is_certain=False, deadline=region.clock.monotonic() + 0.5)
        assert await credential.headers(REQUEST, deadline=deadline) != first
        assert region.iam.logins == 2

    run_virtually(scene())


async def test_dead_token_is_not_sent_while_iam_is_unavailable(region: Region) -> None:
    (credential,) = region.replica()
    first = await region.token(credential)
    region.iam.trouble = UpstreamUnreachable("down", retry_after_s=1.0)
    for _ in range(2):
        with pytest.raises(ServiceLoginFailed):
            await region.renewed(credential, first)
        with pytest.raises(ServiceLoginFailed):
            await region.token(credential)


async def test_token_in_doubt_serves_while_iam_is_unavailable(region: Region) -> None:
    (credential,) = region.replica()
    first = await region.token(credential)
    region.iam.trouble = UpstreamUnreachable("down", retry_after_s=1.0)
    with pytest.raises(ServiceLoginFailed):
        await region.renewed(credential, first, is_certain=False)
    assert await region.token(credential) == first


async def test_lasting_401_costs_ever_fewer_logins(region: Region) -> None:
    (credential,) = region.replica()
    for _ in range(3_600):
        token = await region.token(credential)
        await region.renewed(credential, token, is_certain=False)
        await region.clock.advance(1.0)
    assert region.iam.logins <= 10
    credential.report((("X-Auth-Token", token),), accepted=True)
    await region.clock.advance(1_800.0)
    token = await region.token(credential)
    assert await region.renewed(credential, token, is_certain=False)
    token = await region.token(credential)
    await region.clock.advance(31.0)
    assert await region.renewed(credential, token, is_certain=False), "the brake is short again"


@pytest.mark.parametrize("byte", ["\udcff", "\x80", "é"])
async def test_token_with_foreign_byte_is_no_login(region: Region, byte: str) -> None:
    body = b'{"token":{"expires_at":"2099-01-01T00:00:00Z"}}'
    region.iam.trouble = UpstreamResponse(201, {"x-subject-token": f"MII{byte}" + "x" * 20}, body)
    (credential,) = region.replica()
    with pytest.raises(ServiceLoginFailed) as caught:
        await region.token(credential)
    assert "201 without a valid token" in str(caught.value)
    region.iam.trouble = None
    await region.clock.advance(2.0)
    assert await region.token(credential)


async def test_token_with_foreign_byte_over_http_is_no_login(clock: FakeClock) -> None:
    region = Region(clock)
    body = b'{"token":{"expires_at":"2099-01-01T00:00:00Z"}}'
    head = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n" % len(body)
    answer = head + b"X-Subject-Token: MII\xffxxxxxxxxxxxxxxxxxxxx\r\n\r\n" + body
    async with scripted_upstream([answer]) as iam, open_session(Timeouts()) as session:
        region.iam = AioUpstream(session, iam.url, response_bytes_max=1_024)  # type: ignore[assignment]
        (credential,) = region.replica()
        with pytest.raises(ServiceLoginFailed):
            await credential.headers(REQUEST, deadline=clock.monotonic() + 60)


async def test_iam_redirect_is_named(region: Region) -> None:
    region.iam.trouble = UpstreamResponse(301, {"location": "https://iam.example/v3?x"}, b"")
    (credential,) = region.replica()
    with pytest.raises(ServiceLoginFailed) as caught:
        await region.token(credential)
    assert "301, redirects to https://iam.example;" in str(caught.value)


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
