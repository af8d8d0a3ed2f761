"""The box's physical-servers API against sections 1 and 2 of the dossier."""

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
from tests.support.simulated_cloud import AT_ONCE, fetch_async
from tests.support.stack import Response, console_path

CONSOLE = re.compile(
    r"https://cn-east-3-console\.huaweicloud\.com:443/vnc/bms-[0-9a-f]{8}\.cn-east-3/vnc_auto\.html"
    r"\?token=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}&compression=\d&quality=\d&resize=\w+"
)


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(AT_ONCE) as running:
        yield running


async def console(
    cloud: SimulatedCloud, token: str | None = None, server: str | None = None
) -> Response:
    token = token if token is not None else cloud.iam.issue(cloud.project)[0]
    path = console_path(cloud.project, server or cloud.servers[0])
    return await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})


async def steer(cloud: SimulatedCloud, path: str, **data: Any) -> Any:
    answer = await fetch_async(cloud.upstream.url, path, method="POST", body=json.dumps(data))
    assert answer.status == 200, answer.body
    return answer.json


async def test_each_call_brings_a_new_link_of_the_documented_form(cloud: SimulatedCloud) -> None:
    links = [(await console(cloud)).json["url"] for _ in range(3)]
    assert all(CONSOLE.fullmatch(link) for link in links)
    assert len(set(links)) == 3
    assert cloud.upstream.counters()["duplicates"] == {cloud.servers[0]: 2}
    assert (await fetch_async(cloud.upstream.url, "/_box/consoles")).json == {cloud.servers[0]: 3}


async def test_the_console_host_and_scheme_can_be_changed(cloud: SimulatedCloud) -> None:
    await steer(cloud, "/_box/settings", console_base="http://127.0.0.1:1")
    assert (await console(cloud)).json["url"].startswith("http://127.0.0.1:1/vnc/bms-")


async def test_a_token_of_a_60_kb_size_is_taken(cloud: SimulatedCloud) -> None:
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
async def test_each_wrong_token_is_told_in_the_front_s_words(
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
    answer = await fetch_async(cloud.upstream.url, path, headers=headers)
    told = answer.json
    assert (answer.status, told["error_code"]) == (401, code)
    assert text in told["error_msg"]
    assert told["request_id"] == answer.headers["x-request-id"]
    assert cloud.upstream.consoles[cloud.servers[0]] == 1


async def test_a_token_of_another_project_opens_nothing() -> None:
    async with SimulatedCloud(
        SimulatedCloudSettings(latency_s=(0, 0), other_projects=("b" * 32,))
    ) as cloud:
        assert (await console(cloud, cloud.iam.issue("b" * 32)[0])).status == 403
        assert (await console(cloud, cloud.iam.issue(cloud.project)[0])).status == 200


async def signed(
    cloud: SimulatedCloud, *, skew_s: float = 0.0, secret: str = iam.SECRET_KEY
) -> Response:
    """Ask as the gateway asks with an access key."""
    path = console_path(cloud.project, cloud.servers[0])
    headers = sign(
        method="GET",
        target=path,
        headers={"Host": f"127.0.0.1:{cloud.upstream.port}"},
        body=b"",
        access_key=Secret(iam.ACCESS_KEY),
        secret_key=Secret(secret),
        at=clock.now() + skew_s,
    )
    return await fetch_async(cloud.upstream.url, path, headers=dict(headers))


async def test_the_gateway_s_signature_is_taken_and_a_wrong_one_not(cloud: SimulatedCloud) -> None:
    assert (await signed(cloud)).status == 200
    answer = await signed(cloud, secret="another")
    assert answer.status == 401
    assert "verify aksk signature fail" in answer.json["error_msg"]


@pytest.mark.parametrize("skew_s", [-890, 890])
async def test_a_clock_may_differ_by_15_minutes(cloud: SimulatedCloud, skew_s: float) -> None:
    assert (await signed(cloud, skew_s=skew_s)).status == 200
    answer = await signed(cloud, skew_s=skew_s * 1.1)
    assert (answer.status, answer.json["error_code"]) == (401, "APIGW.0303")
    assert "the server and client times" in answer.json["error_msg"]


async def test_wrong_servers_paths_and_methods_are_told_as_the_cloud_tells_them(
    cloud: SimulatedCloud,
) -> None:
    unknown = await console(cloud, server="00000000-0000-4000-8000-000000000000")
    assert (unknown.status, unknown.error_code) == (404, "iMetal.0100")
    path = f"/v1/{cloud.project}/physicalserver"
    assert (await fetch_async(cloud.upstream.url, path)).json["error_code"] == "APIGW.0101"
    path = console_path(cloud.project, cloud.servers[0])
    for method in ("POST", "DELETE"):
        answer = await fetch_async(cloud.upstream.url, path, method=method)
        assert (answer.status, answer.json["error_code"]) == (405, "APIGW.0501")
    assert (await fetch_async(cloud.upstream.url, path, method="HEAD")).status == 405
    assert not cloud.upstream.consoles


async def test_a_wrong_limit_or_marker_is_a_400(cloud: SimulatedCloud) -> None:
    token, _ = cloud.iam.issue(cloud.project)
    for query in ("limit=many", "marker=nobody"):
        path = f"/v1/{cloud.project}/physicalservers?{query}"
        answer = await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})
        assert (answer.status, answer.error_code) == (400, "iMetal.0001")


async def test_over_the_rate_each_call_is_refused(cloud: SimulatedCloud) -> None:
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
async def test_a_429_comes_in_each_shape_of_the_dossier(cloud: SimulatedCloud, shape: str) -> None:
    await steer(cloud, "/_box/rate", rate=5, burst=0, shape=shape, retry_after="7")
    answer = await console(cloud)
    text = answer.body.decode()
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
    assert answer.status == 429
    assert expected in text
    assert answer.headers["retry-after"] == "7"
    if shape != "string":
        code = answer.json["error_code"]
        number = {"apig": "APIG.0308", "apigw": "APIGW.0308"}.get(shape, code)
        assert code == number


@pytest.mark.parametrize("name", CLOUD)
async def test_each_refusal_of_the_dossier_can_be_had(cloud: SimulatedCloud, name: str) -> None:
    await steer(cloud, "/_box/faults", kind=name, times=1, headers={"Retry-After": "3"})
    answer = await console(cloud)
    refusal = CLOUD[name]
    assert (answer.status, answer.json["error_code"]) == (refusal.status, refusal.code)
    assert answer.json["error_msg"] == refusal.message
    assert answer.headers["retry-after"] == "3"
    assert (await console(cloud)).status == 200


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("url_missing", lambda answer: "url" not in answer.json),
        ("url_number", lambda answer: answer.json["url"] == 7),
        ("url_null", lambda answer: answer.json["url"] is None),
        ("url_http", lambda answer: answer.json["url"].startswith("http://")),
        ("url_foreign", lambda answer: ".elsewhere.example/" in answer.json["url"]),
        ("url_javascript", lambda answer: answer.json["url"].startswith("javascript:")),
        ("text", lambda answer: answer.body == b"It works."),
        ("empty", lambda answer: answer.body == b""),
        ("list", lambda answer: answer.json == [1, 2]),
        ("malformed", lambda answer: answer.body == b'{"url": '),
        ("huge", lambda answer: len(answer.body) > 20_000_000),
    ],
)
async def test_a_200_can_be_worthless_in_many_ways(
    cloud: SimulatedCloud, kind: str, what: Any
) -> None:
    cloud.upstream.fail(kind)
    answer = await console(cloud)
    assert answer.status == 200
    assert what(answer)


async def test_a_redirect_leads_elsewhere(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("redirect")
    answer = await console(cloud)
    assert (answer.status, answer.headers["location"]) == (302, "https://elsewhere.example/")
    assert cloud.upstream.calls[-1].status == 302
