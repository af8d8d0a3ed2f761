"""The simulated physical-servers API against upstream-api.md#1 and #2."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.demo.cloud import clock, iam
from gateway.demo.cloud.cloud_errors import CLOUD
from gateway.demo.cloud.simulated_cloud import SimulatedCloud, SimulatedCloudSettings
from gateway.demo.cloud.throttle import SHAPES
from gateway.domain.model import Secret
from gateway.domain.upstream.signing import sign
from tests.support.simulated_cloud import UNLIMITED, fetch_async
from tests.support.stack import Response, console_path

CONSOLE = re.compile(
    r"https://cn-east-3-console\.huaweicloud\.com:443/vnc/bms-[0-9a-f]{8}\.cn-east-3/vnc_auto\.html"
    r"\?token=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}&compression=\d&quality=\d&resize=\w+"
)


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(UNLIMITED) as running:
        yield running


async def console(
    cloud: SimulatedCloud, token: str | None = None, server: str | None = None
) -> Response:
    token = token if token is not None else cloud.iam.issue(cloud.project)[0]
    path = console_path(cloud.project, server or cloud.servers[0])
    return await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})


async def steer(cloud: SimulatedCloud, path: str, **data: Any) -> Any:
    response = await fetch_async(cloud.upstream.url, path, method="POST", body=json.dumps(data))
    assert response.status == 200, response.body
    return response.json


async def test_each_call_returns_a_new_documented_link(cloud: SimulatedCloud) -> None:
    links = [(await console(cloud)).json["url"] for _ in range(3)]
    assert all(CONSOLE.fullmatch(link) for link in links)
    assert len(set(links)) == 3
    assert cloud.upstream.counters()["duplicates"] == {cloud.servers[0]: 2}
    assert (await fetch_async(cloud.upstream.url, "/_box/consoles")).json == {cloud.servers[0]: 3}


async def test_console_base_can_be_changed(cloud: SimulatedCloud) -> None:
    await steer(cloud, "/_box/settings", console_base="http://127.0.0.1:1")
    assert (await console(cloud)).json["url"].startswith("http://127.0.0.1:1/vnc/bms-")


async def test_token_of_60_kb_is_accepted(cloud: SimulatedCloud) -> None:
    cloud.iam.token_bytes = iam.TOKEN_BYTES_MAX
    assert (await console(cloud)).status == 200


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        ("none", "APIGW.0301", "x-auth-token not found"),
        ("garbage", "APIGW.0301", "decrypt token fail"),
        ("revoked", "APIGW.0301", "decrypt token fail"),
        ("expired", "APIGW.0301", "token expires, expires_at: 20"),
        ("outdated", "APIGW.0307", "The token must be updated."),
    ],
)
async def test_invalid_tokens_get_the_documented_errors(
    cloud: SimulatedCloud, spoil: str, code: str, text: str
) -> None:
    token, _ = cloud.iam.issue(cloud.project)
    assert (await console(cloud, token)).status == 200
    match spoil:
        case "garbage":
            token = "MIIgarbage"
        case "revoked":
            await fetch_async(cloud.iam.url, "/_box/revoke", method="POST")
        case "expired":
            body = '{"expired_ago_s": 5}'
            await fetch_async(cloud.iam.url, "/_box/revoke", method="POST", body=body)
        case "outdated":
            cloud.iam.expire_all(ago_s=25 * 3600)
    path = console_path(cloud.project, cloud.servers[0])
    headers = {} if spoil == "none" else {"X-Auth-Token": token}
    response = await fetch_async(cloud.upstream.url, path, headers=headers)
    body = response.json
    assert (response.status, body["error_code"]) == (401, code)
    assert text in body["error_msg"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert cloud.upstream.consoles[cloud.servers[0]] == 1


async def test_token_of_another_project_is_forbidden() -> None:
    async with SimulatedCloud(
        SimulatedCloudSettings(latency_s=(0, 0), other_projects=("b" * 32,))
    ) as cloud:
        assert (await console(cloud, cloud.iam.issue("b" * 32)[0])).status == 403
        assert (await console(cloud, cloud.iam.issue(cloud.project)[0])).status == 200


async def signed(
    cloud: SimulatedCloud,
    *,
    skew_s: float = 0.0,
    secret: str = iam.SECRET_KEY,
    project: str | None = None,
) -> Response:
    """Send a request signed by the gateway's signer; X-Project-Id is `project` or the path's."""
    path = console_path(cloud.project, cloud.servers[0])
    project = cloud.project if project is None else project
    headers = sign(
        method="GET",
        target=path,
        headers={
            "Host": f"127.0.0.1:{cloud.upstream.port}",
            **({"X-Project-Id": project} if project else {}),
        },
        body=b"",
        access_key=Secret(iam.ACCESS_KEY),
        secret_key=Secret(secret),
        at=clock.now() + skew_s,
    )
    return await fetch_async(cloud.upstream.url, path, headers=dict(headers))


async def test_gateway_signature_is_verified(cloud: SimulatedCloud) -> None:
    assert (await signed(cloud)).status == 200
    response = await signed(cloud, secret="another")
    assert response.status == 401
    assert "verify aksk signature fail" in response.json["error_msg"]


@pytest.mark.parametrize("project", ["", "another"])
async def test_signed_request_requires_its_project_id(cloud: SimulatedCloud, project: str) -> None:
    response = await signed(cloud, project=project)
    assert (response.status, response.error_code) == (403, "iMetal.0004")


@pytest.mark.parametrize("form", ["unlisted", "html"])
async def test_401_to_a_revoked_token_has_several_forms(cloud: SimulatedCloud, form: str) -> None:
    text, _ = cloud.iam.issue(cloud.project)
    cloud.iam.revoke_all()
    cloud.upstream.change(revoked_form=form)
    path = console_path(cloud.project, cloud.servers[0])
    response = await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": text})
    assert response.status == 401
    assert (b"<html>" in response.body) == (form == "html")
    with pytest.raises(ValueError, match="unknown form"):
        cloud.upstream.change(revoked_form="x")


@pytest.mark.parametrize("skew_s", [-890, 890])
async def test_clock_skew_of_15_minutes_is_accepted(cloud: SimulatedCloud, skew_s: float) -> None:
    assert (await signed(cloud, skew_s=skew_s)).status == 200
    response = await signed(cloud, skew_s=skew_s * 1.1)
    assert (response.status, response.json["error_code"]) == (401, "APIGW.0303")
    assert "the server and client times" in response.json["error_msg"]


async def test_unknown_servers_paths_and_methods_are_errors(
    cloud: SimulatedCloud,
) -> None:
    unknown = await console(cloud, server="00000000-0000-4000-8000-000000000000")
    assert (unknown.status, unknown.error_code) == (404, "iMetal.0100")
    path = f"/v1/{cloud.project}/physicalserver"
    assert (await fetch_async(cloud.upstream.url, path)).json["error_code"] == "APIGW.0101"
    path = console_path(cloud.project, cloud.servers[0])
    for method in ("POST", "DELETE"):
        response = await fetch_async(cloud.upstream.url, path, method=method)
        assert (response.status, response.json["error_code"]) == (405, "APIGW.0501")
    assert (await fetch_async(cloud.upstream.url, path, method="HEAD")).status == 405
    assert not cloud.upstream.consoles


async def test_invalid_limit_or_marker_is_400(cloud: SimulatedCloud) -> None:
    token, _ = cloud.iam.issue(cloud.project)
    for query in ("limit=many", "marker=nobody"):
        path = f"/v1/{cloud.project}/physicalservers?{query}"
        response = await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})
        assert (response.status, response.error_code) == (400, "iMetal.0001")


async def test_calls_over_the_rate_get_429(cloud: SimulatedCloud) -> None:
    await steer(cloud, "/_box/rate", rate=0.001, burst=3)
    statuses = [(await console(cloud)).status for _ in range(6)]
    assert statuses == [200, 200, 200, 429, 429, 429]
    counters = (await fetch_async(cloud.upstream.url, "/_box/counters")).json
    assert counters["throttled"] == 3
    assert counters["statuses"] == {"200": 3, "429": 3}
    await steer(cloud, "/_box/rate", rate=1000, burst=1000)
    cloud.upstream.bucket.change(1e9, 1000)
    assert (await console(cloud)).status == 200


@pytest.mark.parametrize("shape", SHAPES)
async def test_429_has_each_documented_shape(cloud: SimulatedCloud, shape: str) -> None:
    await steer(cloud, "/_box/rate", rate=5, burst=0, shape=shape, retry_after="7")
    response = await console(cloud)
    text = response.body.decode()
    expected = {
        "apigw": "policy user over ratelimit,limit:5,time:1 second",
        "ip": "policy ip over ratelimit,limit:5,time:1 second",
        "user": "policy user over ratelimit,limit:300,time:1 minute",
        "apig": "policy api over ratelimit,limit:300,time:1 minute",
        "untold": "The throttling threshold has been reached",
        "imetal": "iMetal.0005",
        "string": "Too Many Requests",
        "iam": "Threshold: 5 times per 1 seconds",
        "ces": "ces.0429",
    }[shape]
    assert response.status == 429
    assert expected in text
    assert response.headers["retry-after"] == "7"
    if shape != "string":
        code = response.json["error_code"]
        number = {"apig": "APIG.0308", "apigw": "APIGW.0308"}.get(shape, code)
        assert code == number


@pytest.mark.parametrize("name", CLOUD)
async def test_each_documented_error_can_be_injected(cloud: SimulatedCloud, name: str) -> None:
    await steer(cloud, "/_box/faults", kind=name, times=1, headers={"Retry-After": "3"})
    response = await console(cloud)
    error = CLOUD[name]
    assert (response.status, response.json["error_code"]) == (error.status, error.code)
    assert response.json["error_msg"] == error.message
    assert response.headers["retry-after"] == "3"
    assert (await console(cloud)).status == 200


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("url_missing", lambda response: "url" not in response.json),
        ("url_number", lambda response: response.json["url"] == 7),
        ("url_null", lambda response: response.json["url"] is None),
        ("url_http", lambda response: response.json["url"].startswith("http://")),
        ("url_foreign", lambda response: ".elsewhere.example/" in response.json["url"]),
        ("url_javascript", lambda response: response.json["url"].startswith("javascript:")),
        ("text", lambda response: response.body == b"It works."),
        ("empty", lambda response: response.body == b""),
        ("list", lambda response: response.json == [1, 2]),
        ("malformed", lambda response: response.body == b'{"url": '),
        ("huge", lambda response: len(response.body) > 20_000_000),
    ],
)
async def test_200_can_be_unusable(cloud: SimulatedCloud, kind: str, what: Any) -> None:
    cloud.upstream.fail(kind)
    response = await console(cloud)
    assert response.status == 200
    assert what(response)


async def test_redirect_can_be_injected(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("redirect")
    response = await console(cloud)
    assert (response.status, response.headers["location"]) == (302, "https://elsewhere.example/")
    assert cloud.upstream.calls[-1].status == 302
