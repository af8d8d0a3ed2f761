"""A listener injects faults, records calls, and is controlled from another process."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.demo.cloud.simulated_cloud import SimulatedCloud, SimulatedCloudSettings
from tests.support.simulated_cloud import UNLIMITED, fetch_async
from tests.support.stack import Response, console_path, fetch


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(UNLIMITED) as running:
        yield running


async def console(cloud: SimulatedCloud, server: int = 0) -> Response:
    token, _ = cloud.iam.issue(cloud.project)
    path = console_path(cloud.project, cloud.servers[server])
    return await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the simulated cloud has no event for it
            await asyncio.sleep(0.005)


async def test_reset_aborts_the_connection(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("reset")
    with pytest.raises(ConnectionResetError):
        await console(cloud)
    assert cloud.upstream.calls[-1].status == 0


@pytest.mark.parametrize("kind", ["reset_midway", "truncated"])
async def test_partial_response_is_detected(cloud: SimulatedCloud, kind: str) -> None:
    cloud.upstream.fail(kind)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        await console(cloud)
    cloud.upstream.heal()
    assert (await console(cloud)).status == 200


async def test_response_headers_can_be_huge(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("huge_headers")
    with pytest.raises(http.client.LineTooLong):
        await console(cloud)


async def test_hanging_request_is_served_after_heal(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("hang", times=1)
    waiting = asyncio.ensure_future(console(cloud))
    await until(lambda: cloud.upstream.faults == [])  # the request has used the only fault
    assert (await console(cloud, server=1)).status == 200
    assert not waiting.done()
    response = await fetch_async(cloud.upstream.url, "/_box/faults", method="DELETE")
    assert response.status == 200
    assert (await waiting).status == 200


async def test_hanging_request_ends_with_its_caller(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("hang", times=1)
    _, writer = await asyncio.open_connection("127.0.0.1", cloud.upstream.port)
    writer.write(b"GET /v1/p/physicalservers HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: cloud.upstream.faults == [])  # the request has used the only fault
    assert not cloud.upstream.calls
    writer.close()
    await writer.wait_closed()
    await until(lambda: len(cloud.upstream.calls) == 1)
    assert cloud.upstream.calls[-1].status == 0


async def test_slow_response_is_otherwise_unchanged(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("slow", delay_s=0.04)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await console(cloud)).status == 200
    assert loop.time() - began >= 0.04


async def test_fault_applies_to_path_and_count(
    cloud: SimulatedCloud,
) -> None:
    cloud.upstream.fail("unavailable", path=cloud.servers[1], times=2)
    assert [(await console(cloud)).status for _ in range(2)] == [200, 200]
    assert [(await console(cloud, server=1)).status for _ in range(3)] == [503, 503, 200]


async def test_newest_fault_wins(
    cloud: SimulatedCloud,
) -> None:
    cloud.upstream.fail("unavailable")
    cloud.upstream.fail("forbidden", times=1)
    listed = (await fetch_async(cloud.upstream.url, "/_box/faults")).json["faults"]
    assert [fault["kind"] for fault in listed] == ["forbidden", "unavailable"]
    assert [(await console(cloud)).status for _ in range(2)] == [403, 503]
    await fetch_async(cloud.upstream.url, "/_box/faults", method="DELETE")
    assert (await console(cloud)).status == 200


async def test_calls_are_recorded_with_headers_and_status(cloud: SimulatedCloud) -> None:
    path = console_path(cloud.project, cloud.servers[0]) + "?a=%2F"
    await fetch_async(cloud.upstream.url, path, headers={"X-Probe": "one"})
    response = await fetch_async(cloud.upstream.url, "/_box/calls")
    (call,) = response.json["calls"]
    assert (call["method"], call["path"], call["status"]) == ("GET", path, 401)
    assert call["headers"]["x-probe"] == "one"
    assert response.json["statuses"] == {"401": 1}
    await fetch_async(cloud.upstream.url, "/_box/calls", method="DELETE")
    assert (await fetch_async(cloud.upstream.url, "/_box/calls")).json["calls"] == []


async def test_latency_is_within_its_range() -> None:
    settings = SimulatedCloudSettings(latency_s=(0.03, 0.04))
    loop = asyncio.get_running_loop()
    async with SimulatedCloud(settings) as cloud:
        began = loop.time()
        assert (await console(cloud)).status == 200
        assert loop.time() - began >= 0.03


async def test_taken_port_releases_the_other_ports(cloud: SimulatedCloud) -> None:
    other = SimulatedCloud(SimulatedCloudSettings(cloud_port=cloud.upstream.port))
    with pytest.raises(OSError, match="address already in use"):
        await other.__aenter__()
    with pytest.raises(OSError, match="refused"):
        await fetch_async(other.idp.url, "/jwks")


def test_process_prints_addresses_and_stops_on_sigterm() -> None:
    command = [sys.executable, "-m", "gateway.demo.cloud", "--json", "--servers", "3"]
    command += ["--rate", "50", "--burst", "2", "--latency", "0", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert set(facts) == {
            "issuer",
            "iam",
            "upstream",
            "consoles",
            "consoles_control",
            "project_id",
            "servers",
        }
        assert len(facts["servers"]) == 3
        rate = fetch(facts["upstream"], "POST", "/_box/rate", {}, "{}").json
        assert rate == {"rate": 50.0, "burst": 2.0}
        # A hanging request must not prevent the stop.
        fetch(facts["iam"], "POST", "/_box/faults", {}, '{"kind": "hang"}')
        connection = http.client.HTTPConnection(facts["iam"].removeprefix("http://"))
        connection.request("GET", "/v3/auth/tokens")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        connection.close()
    with pytest.raises(OSError, match="refused"):
        fetch(facts["issuer"], "GET", "/jwks")
