"""The vendor's SDK works with the simulated cloud."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from huaweicloudsdkclouddc.v1 import (
    CloudDCClient,
    ListServersRequest,
    ShowRemoteConsoleRequest,
    ShowServerRequest,
)
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import (
    ClientRequestException,
    ServerResponseException,
)

from gateway.demo.cloud import iam
from gateway.demo.cloud.simulated_cloud import SimulatedCloud, SimulatedCloudSettings

SERVERS = 25


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    settings = SimulatedCloudSettings(servers=SERVERS, latency_s=(0.0, 0.0), rate=1000, burst=1000)
    async with SimulatedCloud(settings) as running:
        yield running


def client(
    cloud: SimulatedCloud, *, ak: str = iam.ACCESS_KEY, sk: str = iam.SECRET_KEY
) -> CloudDCClient:
    builder = CloudDCClient.new_builder().with_credentials(BasicCredentials(ak, sk, cloud.project))
    made: CloudDCClient = builder.with_endpoint(cloud.upstream.url).build()
    return made


async def console(cloud: SimulatedCloud, server: str, **keys: str) -> Any:
    request = ShowRemoteConsoleRequest(id=server)
    return await asyncio.to_thread(client(cloud, **keys).show_remote_console, request)


async def test_console_url_is_returned(cloud: SimulatedCloud) -> None:
    first, second = [await console(cloud, cloud.servers[0]) for _ in range(2)]
    assert first.url.startswith("https://cn-east-3-console.huaweicloud.com:443/vnc/bms-")
    assert "/vnc_auto.html?token=" in first.url
    assert first.url != second.url
    assert cloud.upstream.consoles[cloud.servers[0]] == 2
    assert cloud.upstream.duplicates == {cloud.servers[0]: 1}


async def test_unknown_server_is_404(cloud: SimulatedCloud) -> None:
    with pytest.raises(ClientRequestException) as caught:
        await console(cloud, "00000000-0000-4000-8000-000000000000")
    assert (caught.value.status_code, caught.value.error_code) == (404, "iMetal.0100")
    assert "00000000-0000-4000-8000-000000000000" in caught.value.error_msg
    assert len(caught.value.request_id) == 32


async def test_unusual_id_is_signed_correctly(cloud: SimulatedCloud) -> None:
    with pytest.raises(ClientRequestException) as caught:
        await console(cloud, "a b~c;d=é")
    assert caught.value.error_code == "iMetal.0100"


async def test_server_not_ready_is_400(cloud: SimulatedCloud) -> None:
    cloud.upstream.change(not_ready=[cloud.servers[0]])
    with pytest.raises(ClientRequestException) as caught:
        await console(cloud, cloud.servers[0])
    assert (caught.value.status_code, caught.value.error_code) == (400, "iMetal.0101")
    assert (await console(cloud, cloud.servers[1])).url


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"sk": "wrong"}, "verify aksk signature fail"),
        ({"ak": "NOSUCHKEY"}, "Get secretKey failed,ak:NOSUCHKEY,err:ak not exist"),
    ],
)
async def test_wrong_key_is_rejected(
    cloud: SimulatedCloud, keys: dict[str, str], text: str
) -> None:
    with pytest.raises(ClientRequestException) as caught:
        await console(cloud, cloud.servers[0], **keys)
    assert (caught.value.status_code, caught.value.error_code) == (401, "APIGW.0301")
    assert text in caught.value.error_msg
    assert not cloud.upstream.consoles


async def test_key_is_locked_after_six_failures(cloud: SimulatedCloud) -> None:
    for _ in range(6):
        with pytest.raises(ClientRequestException, match="verify aksk signature fail"):
            await console(cloud, cloud.servers[0], sk="wrong")
    with pytest.raises(ClientRequestException, match="failed to reach the limit"):
        await console(cloud, cloud.servers[0])


async def test_server_has_every_sdk_field(cloud: SimulatedCloud) -> None:
    request = ShowServerRequest(id=cloud.servers[0])
    shown = await asyncio.to_thread(client(cloud).show_server, request)
    assert (shown.id, shown.project_id) == (cloud.servers[0], cloud.project)
    assert shown.location.dc
    assert shown.hardware_attributes.model
    assert shown.tags[0].key == "env"
    # The SDK turns an unknown enum value into {} (upstream-api.md#1.5).
    for state in (shown.manage_state, shown.power_state, shown.operation_state):
        assert state not in ({}, None)
    assert shown.health_state not in ({}, None)


async def test_pages_end(cloud: SimulatedCloud) -> None:
    seen: list[str] = []
    marker, sizes = None, []
    while True:
        request = ListServersRequest(limit=10, marker=marker)
        page = await asyncio.to_thread(client(cloud).list_servers, request)
        assert page.count == SERVERS
        seen += [server.id for server in page.servers]
        sizes.append(page.page_info.current_count)
        marker = page.page_info.next_marker
        if marker is None:
            break
        assert marker == seen[-1]
    assert sizes == [10, 10, 5]
    assert sorted(seen) == sorted(cloud.servers)


@pytest.mark.parametrize(("limit", "size"), [(None, 10), (1, 10), (20, 20), (5000, SERVERS)])
async def test_limit_is_clamped_to_10_and_1000(
    cloud: SimulatedCloud, limit: int | None, size: int
) -> None:
    page = await asyncio.to_thread(client(cloud).list_servers, ListServersRequest(limit=limit))
    assert len(page.servers) == size


async def test_servers_are_filtered_by_state(cloud: SimulatedCloud) -> None:
    for state, servers in {
        "ready": cloud.servers[2::3],  # servers without an instance
        "in-use": [one for i, one in enumerate(cloud.servers) if i % 3 != 2],
        "offboarding": [],
    }.items():
        request = ListServersRequest(manage_state=state, limit=100)
        page = await asyncio.to_thread(client(cloud).list_servers, request)
        assert [server.id for server in page.servers] == sorted(servers)
        assert page.count == len(servers)


async def test_sdk_loses_the_body_of_a_429(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("throttled", shape="ip")
    with pytest.raises(ClientRequestException) as caught:
        await console(cloud, cloud.servers[0])
    assert caught.value.error_code == "429"


async def test_5xx_raises_server_response_exception(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("internal")
    with pytest.raises(ServerResponseException) as caught:
        await console(cloud, cloud.servers[0])
    assert (caught.value.status_code, caught.value.error_code) == (500, "iMetal.0099")


async def test_unusable_200_is_parsed_as_documented(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("text")
    assert (await console(cloud, cloud.servers[0])).url is None
