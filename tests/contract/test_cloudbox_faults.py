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

from gateway.demo.cloud.simulated_cloud import BoxSettings, CloudBox
from tests.support.box import AT_ONCE, asked
from tests.support.stack import Response, console_path, fetch


@pytest.fixture
async def box() -> AsyncIterator[CloudBox]:
    async with CloudBox(AT_ONCE) as running:
        yield running


async def console(box: CloudBox, server: int = 0) -> Response:
    token, _ = box.iam.issue(box.project)
    path = console_path(box.project, box.servers[server])
    return await asked(box.cloud.url, path, headers={"X-Auth-Token": token})


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - the box has no event for it
            await asyncio.sleep(0.005)


async def test_reset_is_a_reset_and_no_orderly_end(box: CloudBox) -> None:
    box.cloud.fail("reset")
    with pytest.raises(ConnectionResetError):
        await console(box)
    assert box.cloud.calls[-1].status == 0


@pytest.mark.parametrize("kind", ["reset_midway", "truncated"])
async def test_half_an_answer_is_seen_as_half(box: CloudBox, kind: str) -> None:
    box.cloud.fail(kind)
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        await console(box)
    box.cloud.heal()
    assert (await console(box)).status == 200


async def test_headers_can_be_huge(box: CloudBox) -> None:
    box.cloud.fail("huge_headers")
    with pytest.raises(http.client.LineTooLong):
        await console(box)


async def test_what_hangs_is_served_once_it_is_let_go(box: CloudBox) -> None:
    box.cloud.fail("hang", times=1)
    waiting = asyncio.ensure_future(console(box))
    await until(lambda: box.cloud.faults == [])  # the only fault has met its request
    assert (await console(box, server=1)).status == 200
    assert not waiting.done()
    answer = await asked(box.cloud.url, "/_box/faults", method="DELETE")
    assert answer.status == 200
    assert (await waiting).status == 200


async def test_what_hangs_ends_with_its_caller(box: CloudBox) -> None:
    box.cloud.fail("hang", times=1)
    _, writer = await asyncio.open_connection("127.0.0.1", box.cloud.port)
    writer.write(b"GET /v1/p/physicalservers HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: box.cloud.faults == [])  # the only fault has met its request
    assert not box.cloud.calls
    writer.close()
    await writer.wait_closed()
    await until(lambda: len(box.cloud.calls) == 1)
    assert box.cloud.calls[-1].status == 0


async def test_slow_is_late_and_else_as_ever(box: CloudBox) -> None:
    box.cloud.fail("slow", delay_s=0.04)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await console(box)).status == 200
    assert loop.time() - began >= 0.04


async def test_a_fault_hits_its_path_and_so_many_requests_and_no_more(box: CloudBox) -> None:
    box.cloud.fail("unavailable", path=box.servers[1], times=2)
    assert [(await console(box)).status for _ in range(2)] == [200, 200]
    assert [(await console(box, server=1)).status for _ in range(3)] == [503, 503, 200]


async def test_the_newest_fault_wins_and_all_can_be_listed_and_cleared(box: CloudBox) -> None:
    box.cloud.fail("unavailable")
    box.cloud.fail("forbidden", times=1)
    listed = (await asked(box.cloud.url, "/_box/faults")).json["faults"]
    assert [fault["kind"] for fault in listed] == ["forbidden", "unavailable"]
    assert [(await console(box)).status for _ in range(2)] == [403, 503]
    await asked(box.cloud.url, "/_box/faults", method="DELETE")
    assert (await console(box)).status == 200


async def test_each_call_is_remembered_with_its_headers_and_answer(box: CloudBox) -> None:
    path = console_path(box.project, box.servers[0]) + "?a=%2F"
    await asked(box.cloud.url, path, headers={"X-Probe": "one"})
    answer = await asked(box.cloud.url, "/_box/calls")
    (call,) = answer.json["calls"]
    assert (call["method"], call["path"], call["status"]) == ("GET", path, 401)
    assert call["headers"]["x-probe"] == "one"
    assert answer.json["statuses"] == {"401": 1}
    await asked(box.cloud.url, "/_box/calls", method="DELETE")
    assert (await asked(box.cloud.url, "/_box/calls")).json["calls"] == []


async def test_latency_lies_in_the_range_that_is_set() -> None:
    settings = BoxSettings(latency_s=(0.03, 0.04))
    loop = asyncio.get_running_loop()
    async with CloudBox(settings) as box:
        began = loop.time()
        assert (await console(box)).status == 200
        assert loop.time() - began >= 0.03


async def test_a_box_that_finds_a_port_taken_leaves_the_others_free(box: CloudBox) -> None:
    other = CloudBox(BoxSettings(cloud_port=box.cloud.port))
    with pytest.raises(OSError, match="address already in use"):
        await other.__aenter__()
    with pytest.raises(OSError, match="refused"):
        await asked(other.idp.url, "/jwks")


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
