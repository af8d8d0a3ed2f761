"""The box's IAM against section 3 of the dossier."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.demo.cloud import iam
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from tests.support.simulated_cloud import AT_ONCE, fetch_async, login_body
from tests.support.stack import Response

JSON = {"Content-Type": "application/json;charset=utf8"}


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(AT_ONCE) as running:
        yield running


async def log_in(cloud: SimulatedCloud, *, query: str = "?nocatalog=1", **changes: Any) -> Response:
    body = json.dumps(login_body(**changes))
    return await posted(cloud, body, query=query)


async def posted(cloud: SimulatedCloud, body: str, *, query: str = "", **headers: str) -> Response:
    sent = {**JSON, **headers}
    return await fetch_async(
        cloud.iam.url, f"/v3/auth/tokens{query}", method="POST", headers=sent, body=body
    )


async def test_a_login_brings_a_token_and_when_it_ends(cloud: SimulatedCloud) -> None:
    answer = await log_in(cloud)
    assert answer.status == 201
    token = answer.headers["x-subject-token"]
    assert token.startswith("MII")
    assert len(token) == 2_048
    told = answer.json["token"]
    expires = datetime.strptime(told["expires_at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert timedelta(hours=23.9) < expires - datetime.now(UTC) < timedelta(hours=24.1)
    assert told["methods"] == ["password"]
    assert told["project"]["id"] == cloud.project
    assert told["user"]["domain"]["name"] == iam.DOMAIN


async def test_the_catalog_is_dropped_only_when_asked(cloud: SimulatedCloud) -> None:
    assert "catalog" not in (await log_in(cloud, query="?nocatalog=true")).json["token"]
    for query in ("", "?nocatalog="):
        assert (await log_in(cloud, query=query)).json["token"]["catalog"]


async def test_a_token_may_be_60_kb_large(cloud: SimulatedCloud) -> None:
    cloud.iam.token_bytes = 60 * 1024
    answer = await log_in(cloud)
    assert len(answer.headers["x-subject-token"]) == 60 * 1024


async def test_a_new_token_does_not_kill_the_old_one(cloud: SimulatedCloud) -> None:
    tokens = [(await log_in(cloud)).headers["x-subject-token"] for _ in range(2)]
    assert tokens[0] != tokens[1]
    for token in tokens:
        path = f"/v1/{cloud.project}/physicalservers/{cloud.servers[0]}"
        answer = await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})
        assert answer.status == 200


@pytest.mark.parametrize(
    ("scope", "project"),
    [
        ({"project": {"name": "cn-east-3"}}, AT_ONCE.project),
        ({"project": {"id": AT_ONCE.project}, "domain": {"name": "x"}}, AT_ONCE.project),
        ({"domain": {"name": iam.DOMAIN}}, None),
    ],
)
async def test_the_scope_is_a_project_or_a_domain_and_the_project_wins(
    cloud: SimulatedCloud, scope: dict[str, Any], project: str | None
) -> None:
    answer = await log_in(cloud, scope=scope)
    assert answer.status == 201
    assert answer.json["token"].get("project", {}).get("id") == project


@pytest.mark.parametrize("scope", [{"project": {"id": "f" * 32}}, {"project": {"name": "mars"}}])
async def test_an_unknown_project_is_told(cloud: SimulatedCloud, scope: dict[str, Any]) -> None:
    answer = await log_in(cloud, scope=scope)
    assert (answer.status, answer.error_code) == (404, "IAM.0004")


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
async def test_a_body_that_is_not_keystone_s_is_a_400(cloud: SimulatedCloud, body: str) -> None:
    answer = await posted(cloud, body)
    assert answer.status == 400
    assert answer.json["error"]["code"] == 400
    assert cloud.iam.tokens == {}


async def test_a_body_that_is_not_called_json_is_a_400(cloud: SimulatedCloud) -> None:
    answer = await posted(cloud, json.dumps(login_body()), **{"Content-Type": "text/plain"})
    assert answer.status == 400


@pytest.mark.parametrize("wrong", [{"password": "x"}, {"user": "x"}, {"domain": "x"}])
async def test_a_wrong_login_is_told_in_keystone_s_shape(
    cloud: SimulatedCloud, wrong: dict[str, str]
) -> None:
    answer = await log_in(cloud, **wrong)
    assert answer.status == 401
    assert answer.json["error"] == {
        "code": 401,
        "message": "The username or password is wrong.",
        "title": "Unauthorized",
    }
    assert "www-authenticate" not in answer.headers
    assert "x-subject-token" not in answer.headers


async def test_five_failures_lock_the_login_even_with_the_right_password(
    cloud: SimulatedCloud,
) -> None:
    for _ in range(5):
        assert (await log_in(cloud, password="wrong")).json["error"]["code"] == 401
    answer = await log_in(cloud)
    assert (answer.status, answer.error_code) == (401, "IAM.0061")
    counters = (await fetch_async(cloud.iam.url, "/_box/counters")).json
    assert (counters["failures"], counters["locked"], counters["logins"]) == (5, 1, 0)
    assert (await fetch_async(cloud.iam.url, "/_box/unlock", method="POST")).status == 200
    assert (await log_in(cloud)).status == 201


async def test_four_failures_and_a_success_begin_anew(cloud: SimulatedCloud) -> None:
    for _ in range(2):
        for _ in range(4):
            await log_in(cloud, password="wrong")
        assert (await log_in(cloud)).status == 201


async def test_one_user_s_failures_lock_nobody_else(cloud: SimulatedCloud) -> None:
    for _ in range(6):
        await log_in(cloud, user="mallory")
    assert (await log_in(cloud, user="mallory")).error_code == "IAM.0061"
    assert (await log_in(cloud)).status == 201


async def test_iam_throttles_in_its_own_words(cloud: SimulatedCloud) -> None:
    cloud.iam.fail("throttled", times=1)
    answer = await log_in(cloud)
    assert (answer.status, answer.error_code) == (429, "IAM.0012")
    assert "Threshold: 5 times per 1 seconds" in answer.json["error_msg"]
    assert (await log_in(cloud)).status == 201


async def test_the_password_can_be_changed_under_way(cloud: SimulatedCloud) -> None:
    body = json.dumps({"password": "another"})
    answer = await fetch_async(cloud.iam.url, "/_box/settings", method="POST", body=body)
    assert answer.status == 200
    assert (await log_in(cloud)).status == 401
    assert (await log_in(cloud, password="another")).status == 201
