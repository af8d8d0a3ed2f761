"""The simulated IAM against upstream-api.md#3."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.demo.cloud import clock, iam
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from tests.support.simulated_cloud import UNLIMITED, fetch_async, login_body
from tests.support.stack import Response

JSON = {"Content-Type": "application/json;charset=utf8"}


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(UNLIMITED) as running:
        yield running


async def log_in(cloud: SimulatedCloud, *, query: str = "?nocatalog=1", **changes: Any) -> Response:
    body = json.dumps(login_body(**changes))
    return await post(cloud, body, query=query)


async def post(cloud: SimulatedCloud, body: str, *, query: str = "", **headers: str) -> Response:
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await fetch_async(
        cloud.iam.url, f"/v3/auth/tokens{query}", method="POST", headers=sent, body=body
    )


async def test_login_returns_token_and_expiry(cloud: SimulatedCloud) -> None:
    response = await log_in(cloud)
    assert response.status == 201
    token = response.headers["x-subject-token"]
    assert token.startswith("MII")
    assert len(token) == 2_048
    body = response.json["token"]
    expires = datetime.strptime(body["expires_at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert timedelta(hours=23.9) < expires - datetime.now(UTC) < timedelta(hours=24.1)
    assert body["methods"] == ["password"]
    assert body["project"]["id"] == cloud.project
    assert body["user"]["domain"]["name"] == iam.DOMAIN


async def test_catalog_is_omitted_only_with_nocatalog(cloud: SimulatedCloud) -> None:
    assert "catalog" not in (await log_in(cloud, query="?nocatalog=true")).json["token"]
    for query in ("", "?nocatalog="):
        assert (await log_in(cloud, query=query)).json["token"]["catalog"]


async def test_token_can_have_60_kb(cloud: SimulatedCloud) -> None:
    cloud.iam.token_bytes = 60 * 1024
    response = await log_in(cloud)
    assert len(response.headers["x-subject-token"]) == 60 * 1024


async def test_new_token_keeps_the_old_one_valid(cloud: SimulatedCloud) -> None:
    tokens = [(await log_in(cloud)).headers["x-subject-token"] for _ in range(2)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        path = f"/v1/{cloud.project}/physicalservers/{cloud.servers[0]}"
        response = await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})
        assert response.status == 200


@pytest.mark.parametrize(
    ("scope", "project"),
    [
        ({"project": {"name": "cn-east-3"}}, UNLIMITED.project),
        ({"project": {"id": UNLIMITED.project}, "domain": {"name": "x"}}, UNLIMITED.project),
        ({"domain": {"name": iam.DOMAIN}}, None),
    ],
)
async def test_project_scope_wins_over_domain_scope(
    cloud: SimulatedCloud, scope: dict[str, Any], project: str | None
) -> None:
    response = await log_in(cloud, scope=scope)
    assert response.status == 201
    assert response.json["token"].get("project", {}).get("id") == project


@pytest.mark.parametrize("scope", [{"project": {"id": "f" * 32}}, {"project": {"name": "mars"}}])
async def test_unknown_project_is_404(cloud: SimulatedCloud, scope: dict[str, Any]) -> None:
    response = await log_in(cloud, scope=scope)
    assert (response.status, response.error_code) == (404, "IAM.0004")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        json.dumps({"auth": {"identity": {"methods": ["password"]}}}),
        json.dumps(login_body(user="")),
        json.dumps(login_body(domain=None)),
        json.dumps(login_body(password=7)),
        json.dumps(login_body(scope={})),
        json.dumps(login_body(scope={"project": {}})),
        json.dumps(login_body()).replace('["password"]', '["token"]'),
    ],
)
async def test_invalid_keystone_body_is_400(cloud: SimulatedCloud, body: str) -> None:
    response = await post(cloud, body)
    assert response.status == 400
    assert response.json["error"]["code"] == 400
    assert cloud.iam.tokens == {}


async def test_wrong_content_type_is_400(cloud: SimulatedCloud) -> None:
    response = await post(cloud, json.dumps(login_body()), **{"Content-Type": "text/plain"})
    assert response.status == 400


@pytest.mark.parametrize("wrong", [{"password": "x"}, {"user": "x"}, {"domain": "x"}])
async def test_wrong_login_has_keystone_shape(cloud: SimulatedCloud, wrong: dict[str, str]) -> None:
    response = await log_in(cloud, **wrong)
    assert response.status == 401
    assert response.json["error"] == {
        "code": 401,
        "message": "The username or password is wrong.",
        "title": "Unauthorized",
    }
    assert "www-authenticate" not in response.headers
    assert "x-subject-token" not in response.headers


async def test_project_without_role_looks_like_a_wrong_password(cloud: SimulatedCloud) -> None:
    cloud.iam.change(no_role=[cloud.project])
    response = await log_in(cloud)
    assert (response.status, response.json["error"]["code"]) == (401, 401)
    assert cloud.iam.failures == 1


async def test_clock_of_iam_may_differ(cloud: SimulatedCloud) -> None:
    cloud.iam.change(clock_ahead_s=-7_200.0)
    token = (await log_in(cloud)).json["token"]
    issued_at, expires_at = (
        datetime.fromisoformat(token[name]).timestamp() for name in ("issued_at", "expires_at")
    )
    assert issued_at == pytest.approx(clock.now() - 7_200.0, abs=5.0)
    assert expires_at - issued_at == pytest.approx(cloud.iam.token_life_s, abs=1.0)


async def test_five_failures_lock_the_login(
    cloud: SimulatedCloud,
) -> None:
    for _ in range(5):
        assert (await log_in(cloud, password="wrong")).json["error"]["code"] == 401
    response = await log_in(cloud)
    assert (response.status, response.error_code) == (401, "IAM.0061")
    counters = (await fetch_async(cloud.iam.url, "/_box/counters")).json
    assert (counters["failures"], counters["locked"], counters["logins"]) == (5, 1, 0)
    assert (await fetch_async(cloud.iam.url, "/_box/unlock", method="POST")).status == 200
    assert (await log_in(cloud)).status == 201


async def test_successful_login_resets_failures(cloud: SimulatedCloud) -> None:
    for _ in range(2):
        for _ in range(4):
            await log_in(cloud, password="wrong")
        assert (await log_in(cloud)).status == 201


async def test_lockout_affects_one_user_only(cloud: SimulatedCloud) -> None:
    for _ in range(6):
        await log_in(cloud, user="mallory")
    assert (await log_in(cloud, user="mallory")).error_code == "IAM.0061"
    assert (await log_in(cloud)).status == 201


async def test_throttled_login_has_iam_shape(cloud: SimulatedCloud) -> None:
    cloud.iam.fail("throttled", times=1)
    response = await log_in(cloud)
    assert (response.status, response.error_code) == (429, "IAM.0012")
    assert "Threshold: 5 times per 1 seconds" in response.json["error_msg"]
    assert (await log_in(cloud)).status == 201


async def test_password_can_be_changed_at_runtime(cloud: SimulatedCloud) -> None:
    body = json.dumps({"password": "another"})
    response = await fetch_async(cloud.iam.url, "/_box/settings", method="POST", body=body)
    assert response.status == 200
    assert (await log_in(cloud)).status == 401
    assert (await log_in(cloud, password="another")).status == 201


async def assume(cloud: SimulatedCloud, token: str, **changes: str) -> Response:
    body = {
        "auth": {
            "identity": {
                "methods": ["assume_role"],
                "assume_role": {
                    "domain_name": changes.get("domain", iam.AGENCY_DOMAIN),
                    "xrole_name": changes.get("name", iam.AGENCY_NAME),
                },
            },
            "scope": {"project": {"id": changes.get("project", cloud.project)}},
        }
    }
    return await post(cloud, json.dumps(body), query="?nocatalog=1", X_Auth_Token=token)


async def user_token(cloud: SimulatedCloud) -> str:
    found = await log_in(cloud, scope={"domain": {"name": iam.DOMAIN}})
    return found.headers["x-subject-token"]


async def test_agency_token_reaches_projects_of_the_other_account(cloud: SimulatedCloud) -> None:
    cloud.iam.agency_projects = [cloud.project]
    assert (await log_in(cloud)).status == 401
    found = await assume(cloud, await user_token(cloud))
    assert found.status == 201
    body = found.json["token"]
    assert body["methods"] == ["assume_role"]
    assert body["user"]["domain"]["name"] == iam.AGENCY_DOMAIN
    assert body["assumed_by"]["user"]["domain"]["name"] == iam.DOMAIN
    path = f"/v1/{cloud.project}/physicalservers/{cloud.servers[0]}"
    headers = {"X-Auth-Token": found.headers["x-subject-token"]}
    assert (await fetch_async(cloud.upstream.url, path, headers=headers)).status == 200


async def test_agency_demands_token_permission_and_name(cloud: SimulatedCloud) -> None:
    cloud.iam.agency_projects = [cloud.project]
    user = await user_token(cloud)
    for changes, status in (
        ({"domain": "other"}, 404),
        ({"name": "other"}, 404),
        ({"project": "0" * 32}, 404),
    ):
        assert (await assume(cloud, user, **changes)).status == status
    of_agency = (await assume(cloud, user)).headers["x-subject-token"]
    assert (await assume(cloud, of_agency)).status == 401
    assert (await assume(cloud, "made up")).status == 401
    cloud.iam.agent_operator = False
    assert (await assume(cloud, user)).status == 403
    cloud.iam.revoke_all()
    assert (await assume(cloud, user)).status == 401
