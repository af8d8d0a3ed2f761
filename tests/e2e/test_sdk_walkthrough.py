"""Unchanged SDK programs of an operator, a viewer and an outsider."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import CloudProcess, Stack, eventually, fetch

SERVERS = 33
_PROGRAM = str(Path(__file__).with_name("sdk_walkthrough.py"))


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    cloud = CloudProcess("--rate", "1000", "--burst", "1000", servers=SERVERS)
    running = Stack(cloud, account={"region": "cn-east-3"})
    running.gateway.write_policy(
        {
            "roles": {
                "operator": [
                    *("console:open", "server:read", "server:power"),
                    *("instance:read", "instance:reinstall"),
                ],
                "viewer": ["server:read"],
            },
            "grants": [
                {
                    "role": "operator",
                    "to": {"groups": ["operators"]},
                    "on": {"servers": cloud.servers[:12]},
                },
                {
                    "role": "viewer",
                    "to": {"groups": ["viewers"]},
                    "on": {"servers": cloud.servers[5:25]},
                },
            ],
        }
    )
    target = f"/v1/{cloud.project}/physicalservers"
    headers = {"Authorization": f"Bearer {cloud.token('v', groups=['viewers'])}"}
    eventually(lambda: fetch(running.gateway.url, "GET", target, headers).json.get("count") == 20)
    yield running
    running.close()


@pytest.fixture
def program(stack: Stack, tmp_path: Path) -> "Program":
    return Program(stack, tmp_path / "token")


class Program:
    def __init__(self, stack: Stack, token_file: Path) -> None:
        self.stack, self.cloud, self._token_file = stack, stack.cloud, token_file

    def __call__(self, person: str, step: str, *arguments: str) -> dict[str, Any]:
        groups = {"operator": ["operators"], "viewer": ["viewers"]}.get(person, [])
        self._token_file.write_text(self.cloud.token(person, groups=groups, life_s=7_200))
        environ = {
            **os.environ,
            "HUAWEICLOUD_SDK_REGION_CLOUDDC_CN_EAST_3": self.stack.gateway.url,
            "HUAWEICLOUD_SDK_IAM_ENDPOINT": self.stack.gateway.url,
            "HUAWEICLOUD_SDK_IDP_ID": "corp",
            "HUAWEICLOUD_SDK_ID_TOKEN_FILE": str(self._token_file),
            "HUAWEICLOUD_SDK_PROJECT_ID": self.cloud.project,
        }
        ran = subprocess.run(
            [sys.executable, _PROGRAM, step, *arguments],
            env=environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        output: dict[str, Any] = json.loads(ran.stdout)
        return output


def check_rejected(output: dict[str, Any], status: int, code: str, text: str) -> None:
    kind = "ClientRequestException" if status < 500 else "ServerResponseException"
    assert output.pop("request_id")
    assert text in output.pop("error_msg")
    assert output == {"exception": kind, "status": status, "error_code": code}


def test_operator_uses_the_granted_operations(program: Program) -> None:
    own = program.cloud.servers[:12]
    assert program("operator", "walk", "10") == {"servers": sorted(own), "counts": [12]}
    assert program("operator", "show", own[0])["id"] == own[0]
    assert program("operator", "power", "power off", *own[:2]) == {"done": "power off"}
    assert program("operator", "show", own[1])["power_state"] == "off"
    assert program("operator", "console", own[0])["url"].startswith("https://")
    seen = program("operator", "watch")
    assert set(seen["alarms"]) == set(seen["events"]) == set(own)
    assert seen["counts"] == [len(seen["alarms"]), len(seen["events"])]
    listed = program("operator", "instances")
    assert set(listed["servers"]) < set(own)
    assert listed["count"] == len(listed["servers"])


def test_viewer_reads_but_changes_nothing(program: Program) -> None:
    seen = program.cloud.servers[5:25]
    assert program("viewer", "walk", "7") == {"servers": sorted(seen), "counts": [20]}
    assert program("viewer", "show", seen[0])["tags"] == 2
    check_rejected(
        program("viewer", "show", program.cloud.servers[0]), 403, "CGW.4030", "Not permitted"
    )
    check_rejected(program("viewer", "console", seen[0]), 403, "CGW.4030", "Not permitted")
    output = program("viewer", "power", "power off", *seen[:2], program.cloud.servers[0])
    assert seen[0] in output["error_msg"]
    assert program.cloud.servers[0] not in output["error_msg"]
    check_rejected(output, 403, "CGW.4030", seen[1])
    check_rejected(program("viewer", "instances"), 403, "CGW.4030", "Not permitted")
    check_rejected(program("viewer", "status"), 403, "CGW.4030", "Not permitted")


def test_outsider_is_rejected(program: Program) -> None:
    server = program.cloud.servers[0]
    for step in (("walk", "10"), ("show", server), ("power", "power on", server), ("watch",)):
        check_rejected(program("outsider", *step), 403, "CGW.4030", "Not permitted")


def test_power_action_without_servers_is_rejected(program: Program) -> None:
    check_rejected(program("operator", "power", "power off"), 403, "CGW.4031", "at least one")


def test_instances_of_other_people_are_rejected(program: Program) -> None:
    target = f"/_box/fleet?project={program.cloud.project}"
    fleet = fetch(program.cloud.upstream, "GET", target).json["projects"][program.cloud.project]
    own_servers = program.cloud.servers[:12]
    own = [one["id"] for one in fleet["instances"] if one["server_id"] in own_servers]
    foreign = [one["id"] for one in fleet["instances"] if one["server_id"] not in own_servers]
    check_rejected(
        program("operator", "reinstall", own[0], foreign[0]), 403, "CGW.4030", "Not permitted"
    )
    assert program("operator", "reinstall", *own[:2]) == {"done": "reinstall"}


def test_errors_raise_the_expected_sdk_exceptions(program: Program) -> None:
    server = program.cloud.servers[0]
    check_rejected(program("operator", "power", "fly", server), 400, "iMetal.0001", "")
    program.cloud.fail(program.cloud.upstream, "internal", times=50)
    try:
        check_rejected(program("operator", "show", server), 503, "CGW.5032", "Retry-After")
    finally:
        program.cloud.heal()
    rejected = program("operator", "show", "no-id")
    check_rejected(rejected, 400, "CGW.4000", "UUID")
