"""The simulated fleet: initial state, invalid requests, and control paths."""

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.demo.cloud import logs, servers
from gateway.demo.cloud.clouddc import _OPERATIONS
from gateway.demo.cloud.fleet import CloudProject
from gateway.demo.cloud.simulated_cloud import SimulatedCloud
from tests.support.simulated_cloud import UNLIMITED, fetch_async
from tests.support.stack import Response

OTHER = "b" * 32
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
NEW = {
    "name": "new",
    "image_id": "an-image",
    "vpc_id": "a-vpc",
    "network_interfaces": [{"subnet_id": "a-subnet"}],
    "password": "Correct-Horse-7",
}


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(replace(UNLIMITED, servers=8, other_projects=(OTHER,))) as running:
        yield running


async def call(
    cloud: SimulatedCloud,
    method: str,
    path: str,
    body: Any = None,
    *,
    project: str = "",
    text: str = "",
    **headers: str,
) -> Response:
    project = project or cloud.project
    named = {"X-Auth-Token": cloud.iam.issue(project)[0]}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    sent = text or ("" if body is None else json.dumps(body))
    path = f"/v1/{project}{path}"
    return await fetch_async(cloud.upstream.url, path, method=method, headers=named, body=sent)


async def control(cloud: SimulatedCloud, path: str, **data: Any) -> Any:
    response = await fetch_async(cloud.upstream.url, path, method="POST", body=json.dumps(data))
    assert response.status == 200, response.body
    return response.json


async def listed(cloud: SimulatedCloud, project: str = "") -> dict[str, dict[str, Any]]:
    response = await call(cloud, "GET", "/physicalservers?limit=100", project=project)
    return {server["id"]: server for server in response.json["servers"]}


def fleet(cloud: SimulatedCloud) -> CloudProject:
    return cloud.upstream.projects[cloud.project]


async def test_server_properties_follow_from_its_index(cloud: SimulatedCloud) -> None:
    found = await listed(cloud)
    in_order = [found[one] for one in cloud.servers]
    tags = [{tag["key"]: tag["value"] for tag in one["tags"]} for one in in_order]
    assert [one["tier"] for one in tags] == ["web", "db"] * 4
    models = [one["hardware_attributes"]["model"] for one in in_order]
    assert models == ["B1", "B1", "B2", "B2"] * 2
    assert [one["location"]["dc"][-1] for one in in_order] == list("11122211")
    states = [one["manage_state"] for one in in_order]
    assert states == ["in-use", "in-use", "ready"] * 2 + ["in-use"] * 2
    instances = (await call(cloud, "GET", "/instances")).json["instances"]
    assert {one["server_id"] for one in instances} == {
        one["id"] for one in in_order if one["manage_state"] == "in-use"
    }
    async with SimulatedCloud(replace(UNLIMITED, servers=8)) as again:
        assert await listed(again) == found


async def test_ten_thousand_servers_are_paged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = []
    describe = servers.describe
    monkeypatch.setattr(servers, "describe", lambda *about: described.append(1) or describe(*about))
    async with SimulatedCloud(replace(UNLIMITED, servers=10_000)) as cloud:
        seen, marker = [], ""
        for number in range(1, 11):
            path = f"/physicalservers?limit=1000{marker and f'&marker={marker}'}"
            page = (await call(cloud, "GET", path)).json
            seen += [server["id"] for server in page["servers"]]
            assert page["page_info"]["current_count"] == 1000
            before = seen[-2000] if number > 1 else None
            assert page["page_info"]["previous_marker"] == before
            assert len(described) == 1000 * number, "a page describes only its own servers"
            marker = page["page_info"]["next_marker"]
        assert marker is None
        assert seen == sorted(cloud.servers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"server_id_set": []}, (400, "iMetal.0002")),
        ({"action": "explode"}, (400, "iMetal.0001")),
        ({"action": "off"}, (400, "iMetal.0001")),
        ({"action": ["power off"]}, (400, "iMetal.0001")),
        ({"action": "power off", "server_id_set": "all"}, (400, "iMetal.0001")),
        ({"action": "power off", "server_id_set": [7]}, (400, "iMetal.0001")),
        ({"action": "power off", "server_id_set": ["x"] * 51}, (400, "iMetal.0001")),
        (["power off"], (400, "iMetal.0001")),
    ],
)
async def test_invalid_power_action_changes_nothing(
    cloud: SimulatedCloud, body: Any, expected: tuple[int, str]
) -> None:
    response = await call(cloud, "PUT", "/physicalservers/power-state", body)
    assert (response.status, response.error_code) == expected
    assert {one["power_state"] for one in (await listed(cloud)).values()} == {"on"}


async def test_invalid_json_is_400(cloud: SimulatedCloud) -> None:
    for text in ("{", "[" * 100_000):
        response = await call(cloud, "PUT", "/physicalservers/power-state", text=text)
        assert (response.status, response.error_code) == (400, "iMetal.0001")


async def test_body_is_read_in_its_charset_and_by_lenient_names(cloud: SimulatedCloud) -> None:
    one, other = cloud.servers[:2]
    text = f'{{"action": "power off", "server_id_set": ["{one}"], "+AHM-erverIdSet": ["{other}"]}}'
    path = "/physicalservers/power-state"
    utf7 = "application/json; charset=utf-7"
    assert (await call(cloud, "PUT", path, text=text, Content_Type=utf7)).status == 200
    states = await listed(cloud)
    assert (states[one]["power_state"], states[other]["power_state"]) == ("on", "off")
    unknown = "application/json; charset=none-such"
    assert (await call(cloud, "PUT", path, text=text, Content_Type=unknown)).status == 400


async def test_answer_in_json_needs_a_caller_that_accepts_it(cloud: SimulatedCloud) -> None:
    path = f"/physicalservers/{cloud.servers[0]}"
    assert (await call(cloud, "GET", path, Accept="application/xml")).status == 406
    assert (await call(cloud, "GET", path, Accept="text/html, */*;q=0.1")).status == 200


async def test_unknown_server_fails_the_whole_power_action(cloud: SimulatedCloud) -> None:
    body = {"action": "power off", "server_id_set": [cloud.servers[0], UNKNOWN_ID, "?"]}
    response = await call(cloud, "PUT", "/physicalservers/power-state", body)
    assert (response.status, response.error_code) == (404, "iMetal.0100")
    assert f"[{UNKNOWN_ID}, ?]" in response.json["error_msg"]
    assert cloud.servers[0] not in response.json["error_msg"]
    assert {one["power_state"] for one in (await listed(cloud)).values()} == {"on"}


async def test_absent_server_set_means_the_whole_project(
    cloud: SimulatedCloud,
) -> None:
    response = await call(cloud, "PUT", "/physicalservers/power-state", {"action": "power off"})
    switched = [one["id"] for one in response.json["physical_servers"]]
    assert switched == sorted(cloud.servers)
    assert {one["power_state"] for one in (await listed(cloud)).values()} == {"off"}
    assert {one["power_state"] for one in (await listed(cloud, OTHER)).values()} == {"on"}
    again = {"action": "rebooting", "server_id_set": []}
    await call(cloud, "PUT", "/physicalservers/power-state", again)
    states = {
        (one["power_state"], one["operation_state"]) for one in (await listed(cloud)).values()
    }
    assert states == {("on", "reboot-succeed")}


async def test_literal_segments_match_before_ids(cloud: SimulatedCloud) -> None:
    assert "server_status" in (await call(cloud, "GET", "/physicalservers/status")).json
    assert "alarms" in (await call(cloud, "GET", "/physicalservers/alarms")).json
    assert "events" in (await call(cloud, "GET", "/physicalservers/events")).json
    unread = await call(cloud, "GET", "/physicalservers/power-state")
    assert (unread.status, unread.error_code) == (404, "iMetal.0100")


@pytest.mark.parametrize("operation", _OPERATIONS, ids=lambda row: f"{row[0]} {row[1]}")
async def test_every_operation_requires_a_token(
    cloud: SimulatedCloud, operation: tuple[str, str, Any]
) -> None:
    method, template, _ = operation
    path = f"/v1/{cloud.project}{template}".replace("{", "").replace("}", "")
    response = await fetch_async(cloud.upstream.url, path, method=method)
    assert (response.status, response.json["error_code"]) == (401, "APIGW.0301")


@pytest.mark.parametrize("operation", _OPERATIONS, ids=lambda row: f"{row[0]} {row[1]}")
async def test_unexpected_bodies_cause_no_server_error(
    cloud: SimulatedCloud, operation: tuple[str, str, Any]
) -> None:
    method, template, _ = operation
    if method == "GET":
        return
    found = {
        "{id}": cloud.servers[0]
        if "physicalservers" in template
        else next(iter(fleet(cloud).racks)),
        "{irack_id}": next(iter(fleet(cloud).racks)),
        "{resource_type}": "physicalservers",
        "{resource_id}": cloud.servers[0],
    }
    for place, value in found.items():
        template = template.replace(place, value)
    wrong = [1, "x", None, [None], {}, {"tags": [None], "placement": [], "name": 1, "action": {}}]
    wrong += [{"placement": {"server_id": 1}, **NEW}, {"placement": {"server_id_set": [1]}, **NEW}]
    wrong += [{**NEW, "network_interfaces": [1]}, {"instance_id_set": [1]}, {"nics": 1}]
    for body in wrong:
        response = await call(cloud, method, template, text=json.dumps(body))
        assert response.status < 500, (body, response.body)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, (400, "iMetal.0002")),
        ({"password": None}, (400, "iMetal.0002")),
        ({"name": "x" * 64}, (400, "iMetal.0001")),
        ({"password": "short"}, (400, "iMetal.0001")),
        ({"password": "onlysmallletters"}, (400, "iMetal.0001")),
        ({"network_interfaces": []}, (400, "iMetal.0001")),
        ({"placement": {"server_id": UNKNOWN_ID}}, (404, "iMetal.0100")),
    ],
)
async def test_invalid_instance_is_not_created(
    cloud: SimulatedCloud, change: dict[str, Any], expected: tuple[int, str]
) -> None:
    response = await call(cloud, "POST", "/instances", {**NEW, **change})
    assert (response.status, response.error_code) == expected
    assert (await call(cloud, "GET", "/instances")).json["count"] == 6


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=1.5", "marker=nobody"])
@pytest.mark.parametrize("path", ["/physicalservers", "/instances", "/iracks", "/idcs"])
async def test_invalid_page_is_400(cloud: SimulatedCloud, path: str, query: str) -> None:
    response = await call(cloud, "GET", f"{path}?{query}")
    assert (response.status, response.error_code) == (400, "iMetal.0001")


@pytest.mark.parametrize(
    "target",
    [
        "alarms?from=5&to=4",
        "alarms?offset=-1",
        "alarms?resource_id=" + "x," * 101,
        "alarms/trend?from=4&to=4",
        "events?from=1&to=2592000002",
        "events?event_level=worst",
        "events/0x99999999",
    ],
)
async def test_invalid_alarm_or_event_query_is_400(cloud: SimulatedCloud, target: str) -> None:
    response = await call(cloud, "GET", f"/physicalservers/{target}")
    assert (response.status, response.error_code) == (400, "iMetal.0001")


async def test_invalid_tags_set_none(cloud: SimulatedCloud) -> None:
    path = f"/physicalservers/{cloud.servers[0]}/tags/create"
    before = fleet(cloud).servers[cloud.servers[0]].tags.copy()
    for key, code in {
        "": "iMetal.0001",
        " x": "iMetal.0001",
        "_sys_x": "iMetal.0001",
        "k" * 129: "iMetal.0001",
    }.items():
        tags = [{"key": "good", "value": ""}, {"key": key, "value": "v"}]
        response = await call(cloud, "POST", path, {"tags": tags})
        assert (response.status, response.error_code) == (400, code)
    valueless = await call(cloud, "POST", path, {"tags": [{"key": "k"}]})
    assert (valueless.status, valueless.error_code) == (400, "iMetal.0002")
    assert fleet(cloud).servers[cloud.servers[0]].tags == before


async def start_export(cloud: SimulatedCloud, size: int) -> tuple[str, str]:
    await control(cloud, "/_box/settings", log_bytes=size)
    path = f"/physicalservers/{cloud.servers[0]}/logs/exports"
    export_id = (await call(cloud, "POST", path)).json["export_id"]
    return f"{path}/{export_id}/content", export_id


async def test_large_log_is_streamed_with_headers(cloud: SimulatedCloud) -> None:
    path, export_id = await start_export(cloud, 30_000_001)
    response = await call(cloud, "GET", path)
    assert response.body == b"".join(logs.content(export_id, 0, 30_000_001))
    assert response.headers["content-length"] == "30000001"
    assert response.headers["content-type"] == "application/octet-stream;charset=UTF-8"
    sn = cloud.servers[0][-12:]
    assert response.headers["content-disposition"] == f"attachment; filename={sn}-dump.tar.gz"
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("range_header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=70000-", 70_000, 200_000),
        ("bytes=65530-131080", 65_530, 131_081),
        ("bytes=199999-999999", 199_999, 200_000),
        ("bytes=-5", 199_995, 200_000),
    ],
)
async def test_log_range_is_served(
    cloud: SimulatedCloud, range_header: str, start: int, stop: int
) -> None:
    path, export_id = await start_export(cloud, 200_000)
    response = await call(cloud, "GET", path, Range=range_header)
    assert response.status == 206
    assert response.body == b"".join(logs.content(export_id, 0, 200_000))[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/200000"


async def test_log_range_beyond_the_end_is_416(cloud: SimulatedCloud) -> None:
    path, _ = await start_export(cloud, 10)
    for range_header in ("bytes=10-", "bytes=-0"):
        response = await call(cloud, "GET", path, Range=range_header)
        assert (response.status, response.headers["content-range"]) == (416, "bytes */10")


async def test_matching_etag_is_304(cloud: SimulatedCloud) -> None:
    path, _ = await start_export(cloud, 10)
    tag = (await call(cloud, "GET", path)).headers["etag"]
    again = await call(cloud, "GET", path, If_None_Match=f'"other", W/{tag}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    whole = await call(cloud, "GET", path, Range="bytes=0-1", If_Range='"other"')
    assert (whole.status, len(whole.body)) == (200, 10)


async def test_gzip_requires_setting_and_accept_encoding(cloud: SimulatedCloud) -> None:
    plain = await call(cloud, "GET", "/physicalservers", Accept_Encoding="gzip, deflate")
    assert "content-encoding" not in plain.headers
    await control(cloud, "/_box/settings", gzip=True)
    coded = await call(cloud, "GET", "/physicalservers", Accept_Encoding="gzip, deflate")
    assert coded.headers["content-encoding"] == "gzip"
    assert gzip.decompress(coded.body) == plain.body
    assert int(coded.headers["content-length"]) == len(coded.body)
    refused = await call(cloud, "GET", f"/physicalservers/{UNKNOWN_ID}", Accept_Encoding="gzip")
    assert (refused.status, refused.headers["content-encoding"]) == (404, "gzip")
    assert "content-encoding" not in (await call(cloud, "GET", "/physicalservers")).headers


async def test_unknown_members_can_be_added(cloud: SimulatedCloud) -> None:
    assert "box_extra" not in str((await call(cloud, "GET", "/physicalservers")).json)
    await control(cloud, "/_box/settings", extra=True)
    page = (await call(cloud, "GET", "/physicalservers")).json
    assert page["box_extra"]["since"]
    assert all(server["box_extra"] == page["box_extra"] for server in page["servers"])
    shown = (await call(cloud, "GET", f"/physicalservers/{cloud.servers[0]}")).json
    assert shown["box_extra"] == page["box_extra"]


async def test_calls_record_path_headers_and_body(cloud: SimulatedCloud) -> None:
    body = {"action": "power on", "server_id_set": [cloud.servers[0]]}
    await call(cloud, "PUT", "/physicalservers/power-state?a=%2f", body, X_Own="Own")
    await call(cloud, "PUT", "/iracks/x", {"description": "x" * 100_000})
    first, second = (await fetch_async(cloud.upstream.url, "/_box/calls")).json["calls"]
    assert (first["method"], first["status"]) == ("PUT", 200)
    assert first["path"] == f"/v1/{cloud.project}/physicalservers/power-state?a=%2f"
    assert json.loads(first["body"]) == body
    assert first["headers"]["x-own"] == "Own"
    assert len(second["body"]) == 65_536


async def test_servers_can_be_added_changed_and_removed(cloud: SimulatedCloud) -> None:
    new = (await control(cloud, "/_box/servers", tags={"env": "prod", "tier": "db"}))["id"]
    assert new in await listed(cloud)
    await control(cloud, "/_box/servers", id=new, tags={}, model="B9", power_state="off", dc="dc-7")
    shown = (await listed(cloud))[new]
    assert (shown["tags"], shown["power_state"], shown["location"]["dc"]) == ([], "off", "dc-7")
    assert shown["hardware_attributes"]["model"] == "B9"
    await control(cloud, "/_box/servers", id=cloud.servers[0], remove=True)
    assert set(await listed(cloud)) == {*cloud.servers[1:], new}
    instances = (await call(cloud, "GET", "/instances")).json["instances"]
    assert cloud.servers[0] not in {one["server_id"] for one in instances}


async def test_server_is_added_to_its_project_only(cloud: SimulatedCloud) -> None:
    await control(cloud, "/_box/servers", id=UNKNOWN_ID, project=OTHER)
    assert UNKNOWN_ID in await listed(cloud, OTHER)
    assert UNKNOWN_ID not in await listed(cloud)


@pytest.mark.parametrize(
    "data",
    [
        {"colour": "red"},
        {"tags": {"a": 1}},
        {"tags": ["a"]},
        {"model": 7},
        {"id": "no-uuid"},
        {"id": UNKNOWN_ID, "remove": True},
        {"project": "unknown"},
    ],
)
async def test_invalid_fleet_change_is_rejected(
    cloud: SimulatedCloud, data: dict[str, Any]
) -> None:
    response = await fetch_async(
        cloud.upstream.url, "/_box/servers", method="POST", body=json.dumps(data)
    )
    assert response.status == 400
    assert response.json["error"]
    assert set(await listed(cloud)) == set(cloud.servers)


async def test_whole_fleet_can_be_read(cloud: SimulatedCloud) -> None:
    whole = (await fetch_async(cloud.upstream.url, "/_box/fleet")).json["projects"]
    assert set(whole) == {cloud.project, OTHER}
    own = whole[cloud.project]
    assert [one["id"] for one in own["servers"]] == cloud.servers
    assert own["servers"][1]["tags"]["tier"] == "db"
    assert [one["server_id"] for one in own["instances"][:2]] == cloud.servers[:2]
    assert own["instances"][0]["password_changes"] == 0
    assert (len(own["racks"]), len(own["rooms"])) == (16, 2)
    one = (await fetch_async(cloud.upstream.url, f"/_box/fleet?project={OTHER}")).json["projects"]
    assert len(one[OTHER]["servers"]) == 3
