"""How a listener of the box breaks, remembers, and is steered from another process."""

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
from tests.support.simulated_cloud import AT_ONCE, fetch_async
from tests.support.stack import Response, console_path, fetch


@pytest.fixture
async def cloud() -> AsyncIterator[SimulatedCloud]:
    async with SimulatedCloud(AT_ONCE) as running:
        yield running


async def console(cloud: SimulatedCloud, server: int = 0) -> Response:
    token, _ = cloud.iam.issue(cloud.project)
    path = console_path(cloud.project, cloud.servers[server])
    return await fetch_async(cloud.upstream.url, path, headers={"X-Auth-Token": token})


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the box has no event for it
            await asyncio.sleep(0.005)


async def test_reset_is_a_reset_and_no_orderly_end(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("reset")
    with pytest.raises(ConnectionResetError):
        await console(cloud)
    assert cloud.upstream.calls[-1].status == 0


@pytest.mark.parametrize("kind", ["reset_midway", "truncated"])
async def test_half_an_answer_is_seen_as_half(cloud: SimulatedCloud, kind: str) -> None:
    cloud.upstream.fail(kind)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        await console(cloud)
    cloud.upstream.heal()
    assert (await console(cloud)).status == 200


async def test_headers_can_be_huge(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("huge_headers")
    with pytest.raises(http.client.LineTooLong):
        await console(cloud)


async def test_what_hangs_is_served_once_it_is_let_go(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("hang", times=1)
    waiting = asyncio.ensure_future(console(cloud))
    await until(lambda: cloud.upstream.faults == [])  # the only fault has met its request
    assert (await console(cloud, server=1)).status == 200
    assert not waiting.done()
    answer = await fetch_async(cloud.upstream.url, "/_box/faults", method="DELETE")
    assert answer.status == 200
    assert (await waiting).status == 200


async def test_what_hangs_ends_with_its_caller(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("hang", times=1)
    _, writer = await asyncio.open_connection("127.0.0.1", cloud.upstream.port)
    writer.write(b"GET /v1/p/physicalservers HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: cloud.upstream.faults == [])  # the only fault has met its request
    assert not cloud.upstream.calls
    writer.close()
    await writer.wait_closed()
    await until(lambda: len(cloud.upstream.calls) == 1)
    assert cloud.upstream.calls[-1].status == 0


async def test_slow_is_late_and_else_as_ever(cloud: SimulatedCloud) -> None:
    cloud.upstream.fail("slow", delay_s=0.04)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await console(cloud)).status == 200
    assert loop.time() - began >= 0.04


async def test_a_fault_hits_its_path_and_so_many_requests_and_no_more(
    cloud: SimulatedCloud,
) -> None:
    cloud.upstream.fail("unavailable", path=cloud.servers[1], times=2)
    assert [(await console(cloud)).status for _ in range(2)] == [200, 200]
    assert [(await console(cloud, server=1)).status for _ in range(3)] == [503, 503, 200]


async def test_the_newest_fault_wins_and_all_can_be_listed_and_cleared(
    cloud: SimulatedCloud,
) -> None:
    cloud.upstream.fail("unavailable")
    cloud.upstream.fail("forbidden", times=1)
    listed = (await fetch_async(cloud.upstream.url, "/_box/faults")).json["faults"]
    assert [fault["kind"] for fault in listed] == ["forbidden", "unavailable"]
    assert [(await console(cloud)).status for _ in range(2)] == [403, 503]
    await fetch_async(cloud.upstream.url, "/_box/faults", method="DELETE")
    assert (await console(cloud)).status == 200


async def test_each_call_is_remembered_with_its_headers_and_answer(cloud: SimulatedCloud) -> None:
    path = console_path(cloud.project, cloud.servers[0]) + "?a=%2F"
    await fetch_async(cloud.upstream.url, path, headers={"X-Probe": "one"})
    answer = await fetch_async(cloud.upstream.url, "/_box/calls")
    (call,) = answer.json["calls"]
    assert (call["method"], call["path"], call["status"]) == ("GET", path, 401)
    assert call["headers"]["x-probe"] == "one"
    assert answer.json["statuses"] == {"401": 1}
    await fetch_async(cloud.upstream.url, "/_box/calls", method="DELETE")
    assert (await fetch_async(cloud.upstream.url, "/_box/calls")).json["calls"] == []


async def test_latency_lies_in_the_range_that_is_set() -> None:
    settings = SimulatedCloudSettings(latency_s=(0.03, 0.04))
    loop = asyncio.get_running_loop()
    async with SimulatedCloud(settings) as cloud:
        began = loop.time()
        assert (await console(cloud)).status == 200
        assert loop.time() - began >= 0.03


async def test_a_box_that_finds_a_port_taken_leaves_the_others_free(cloud: SimulatedCloud) -> None:
    other = SimulatedCloud(SimulatedCloudSettings(cloud_port=cloud.upstream.port))
    with pytest.raises(OSError, match="address already in use"):
        await other.__aenter__()
    with pytest.raises(OSError, match="refused"):
        await fetch_async(other.idp.url, "/jwks")


def test_a_box_in_a_process_of_its_own_tells_where_it_is_and_ends_when_told() -> None:
    command = [sys.executable, "-m", "gateway.demo.cloud", "--json", "--servers", "3"]
    command += ["--rate", "50", "--burst", "2", "--latency", "0", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert set(facts) == {"issuer", "iam", "upstream", "project_id", "servers"}
        assert len(facts["servers"]) == 3
        rate = fetch(facts["upstream"], "POST", "/_box/rate", {}, "{}").json
        assert rate == {"rate": 50.0, "burst": 2.0}
        # Somebody hangs: that must not keep it.
        fetch(facts["iam"], "POST", "/_box/faults", {}, '{"kind": "hang"}')
        connection = http.client.HTTPConnection(facts["iam"].removeprefix("http://"))
        connection.request("GET", "/v3/auth/tokens")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
        connection.close()
    with pytest.raises(OSError, match="refused"):
        fetch(facts["issuer"], "GET", "/jwks")
