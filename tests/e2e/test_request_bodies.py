"""Request bodies through real processes: the cloud acts on what the policy decided on."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stack import CloudProcess, Response, Stack, eventually, fetch


@pytest.fixture(scope="module")
def power() -> Iterator["PowerStates"]:
    made = PowerStates()
    yield made
    made.stack.close()


class PowerStates:
    """Olga may switch the first server only."""

    def __init__(self) -> None:
        self.cloud = cloud = CloudProcess("--rate", "1000", "--burst", "1000")
        self.mine, self.other = cloud.servers[0], cloud.servers[1]
        self.stack = Stack(cloud, start=False)
        self.stack.gateway.write_policy(
            {
                "roles": {"operator": ["server:read", "server:power", "console:open"]},
                "grants": [
                    {
                        "role": "operator",
                        "to": {"users": ["olga"]},
                        "on": {"servers": [self.mine]},
                    }
                ],
            }
        )
        self.stack.gateway.start()
        self._token = cloud.token()

    def switch(self, body: Any, **headers: str) -> Response:
        sent = {"Authorization": f"Bearer {self._token}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        text = body if isinstance(body, str) else json.dumps(body)
        path = f"/v1/{self.cloud.project}/physicalservers/power-state"
        return fetch(self.stack.gateway.url, "PUT", path, sent, text)

    def state(self, server: str) -> str:
        target = f"/_box/fleet?project={self.cloud.project}"
        (project,) = fetch(self.cloud.upstream, "GET", target).json["projects"].values()
        (found,) = [one for one in project["servers"] if one["id"] == server]
        return str(found["power_state"])


def test_cloud_reads_the_body_in_the_encoding_that_was_checked(power: PowerStates) -> None:
    """In UTF-7 the second member is another `server_id_set`, which would replace the first."""
    hidden = f'"+AHM-erver_id_set": ["{power.other}"]'
    body = f'{{"action": "power off", "server_id_set": ["{power.mine}"], {hidden}}}'
    refused = power.switch(body, Content_Type="application/json; charset=utf-7")
    assert (refused.status, refused.error_code) == (415, "CGW.4150")
    assert "application/json" in refused.json["error_msg"]
    assert power.state(power.other) == "on"

    assert power.switch(body, Content_Type="application/json").status == 200
    assert (power.state(power.mine), power.state(power.other)) == ("off", "on")


def test_cloud_receives_the_gateways_own_content_type(power: PowerStates) -> None:
    fetch(power.cloud.upstream, "DELETE", "/_box/calls")
    body = {"action": "power on", "server_id_set": [power.mine]}
    for content_type in ("application/json", 'Application/JSON; charset="UTF-8"'):
        assert power.switch(body, Content_Type=content_type).status == 200
    assert power.switch(body).status == 200, "an undeclared type is JSON"
    calls = power.cloud.calls(power.cloud.upstream)
    assert [call["headers"]["content-type"] for call in calls] == ["application/json"] * 3


@pytest.mark.parametrize(
    "name",
    ["serverIdSet", "server-id-set", "server_id_set\0", "SERVER_ID_SET", "server_\u0131d_set"],
)
def test_cloud_never_sees_a_lookalike_of_the_id_member(power: PowerStates, name: str) -> None:
    body = {"action": "power off", "server_id_set": [power.mine], name: [power.other]}
    refused = power.switch(body)
    assert (refused.status, refused.error_code) == (400, "CGW.4000")
    assert power.state(power.other) == "on"


@pytest.mark.parametrize("status", [202, 299])
def test_success_status_of_write_is_returned(power: PowerStates, status: int) -> None:
    body = '{"job": 1}'
    power.cloud.fail(power.cloud.upstream, "answer", status=status, body=body, times=1)
    response = power.switch({"action": "power on", "server_id_set": [power.mine]})
    assert (response.status, response.body) == (status, body.encode())
    request_id = response.headers["x-request-id"]

    def outcomes() -> list[str]:
        records = power.stack.gateway.audit("write_outcome")
        return [one["outcome"] for one in records if one["request_id"] == request_id]

    eventually(lambda: outcomes() == ["success"], outcomes)  # the response waits for it briefly


def test_first_caller_does_not_choose_the_format_of_a_shared_link(power: PowerStates) -> None:
    """The simulated cloud answers 406 to a caller that does not accept JSON."""
    fetch(power.cloud.upstream, "DELETE", "/_box/calls")
    answer = power.stack.gateway.console(power.cloud.token(), power.mine, Accept="application/xml")
    assert answer.status == 200
    (call,) = power.cloud.calls(power.cloud.upstream)
    assert call["headers"]["accept"] == "application/json"
