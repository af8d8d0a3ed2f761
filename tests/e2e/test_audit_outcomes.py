"""The outcome of a permitted write is recorded, despite failures and disconnects."""

import http.client
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.commands.parser import main
from gateway.flow.writes import _RECORD_TIMEOUT_S
from tests.support.stack import (
    TIMEOUT_S,
    CloudProcess,
    Response,
    RunningGateway,
    Stack,
    eventually,
    fetch,
)

POWER = "power-state"


class Writer:
    """A gateway through which Theo may switch off all servers."""

    def __init__(self, **gateway: Any) -> None:
        self.stack = Stack(CloudProcess("--rate", "1000", "--burst", "1000"), **gateway)
        self.cloud, self.gateway = self.stack.cloud, self.stack.gateway
        self.token = self.cloud.token("theo", groups=[])
        self.path = f"/v1/{self.cloud.project}/physicalservers/{POWER}"
        self.gateway.write_policy(
            {
                "roles": {"switch": ["server:power", "console:open"]},
                "grants": [{"role": "switch", "to": {"users": ["theo"]}, "on": "everything"}],
            }
        )
        eventually(lambda: self.gateway.console(self.token).status == 200)

    def body(self, server: int) -> str:
        return json.dumps({"action": "power off", "server_id_set": [self.cloud.servers[server]]})

    def switch_off(self, server: int = 0, **headers: str) -> Response:
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        return fetch(self.gateway.url, "PUT", self.path, sent, self.body(server))

    def send_hanging(self, server: int = 0) -> http.client.HTTPConnection:
        """Send a write and return when it has arrived at the cloud, which hangs until `heal`."""
        self.cloud.fail(self.cloud.upstream, "hang", path=POWER, times=1)
        connection = self.send(server)
        self.cloud.wait_for_fault(self.cloud.upstream)
        return connection

    def send(self, server: int = 0) -> http.client.HTTPConnection:
        """Send a write and return when it is permitted; the caller may disconnect."""
        before = len(self.gateway.audit("write_permitted"))
        parts = urlsplit(self.gateway.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self.token}"}
        connection.request("PUT", self.path, self.body(server), headers)
        eventually(lambda: len(self.gateway.audit("write_permitted")) > before)
        return connection

    def power(self, server: int) -> str:
        target = f"/_box/fleet?project={self.cloud.project}"
        (project,) = fetch(self.cloud.upstream, "GET", target).json["projects"].values()
        found = {one["id"]: one["power_state"] for one in project["servers"]}
        return str(found[self.cloud.servers[server]])

    def reached(self) -> bool:
        return "PUT" in {call["method"] for call in self.cloud.calls(self.cloud.upstream)}

    def outcomes(self, gateway: RunningGateway | None = None) -> list[tuple[str, int]]:
        """Return outcome and status of each permitted write in order; "" without an outcome."""
        gateway = gateway or self.gateway
        ends = {
            (one["request_id"], one["permitted_at"]): (one["outcome"], one["status"])
            for one in gateway.audit("write_outcome")
        }
        permits = gateway.audit("write_permitted")
        return [ends.get((one["request_id"], one["at"]), ("", 0)) for one in permits]

    def wait_for_outcomes(
        self, *last: tuple[str, int], gateway: RunningGateway | None = None
    ) -> None:
        """Wait until these are the last outcomes: a response waits for its own only briefly."""
        eventually(
            lambda: self.outcomes(gateway)[-len(last) :] == [*last],
            lambda: str(self.outcomes(gateway)),
        )


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    made.stack.close()


def test_write_outcome_is_recorded_before_the_response(
    writer: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    answer = writer.switch_off()
    waited_s = time.monotonic() - began
    assert answer.status == 200
    assert writer.gateway.audit("write_outcome") or waited_s >= _RECORD_TIMEOUT_S
    writer.wait_for_outcomes(("success", 200))
    assert writer.power(0) == "off"
    (permit,), (outcome,) = map(writer.gateway.audit, ("write_permitted", "write_outcome"))
    assert (outcome["outcome"], outcome["status"]) == ("success", 200)
    assert outcome["permitted_at"] == permit["at"] <= outcome["at"]
    for name in (
        "request_id", "issuer", "subject", "groups", "operation", "permission", "project",
        "servers", "client_address", "trace_id",
    ):  # fmt: skip
        assert outcome[name] == permit[name]
    assert outcome["request_id"] == answer.headers["x-request-id"]
    assert outcome["decision"] == "", "the outcome contains no decision"
    audit_log = str(writer.gateway.directory / "audit")
    assert main(["audit", "search", audit_log, "--request-id", outcome["request_id"]]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "  write_permitted  allowed  corp/theo  ChangeServerPowerState  " in first
    assert "  write_outcome  success  corp/theo  ChangeServerPowerState  " in second
    assert "  status 200" in second
    assert main(["audit", "verify", audit_log]) == 0
    recorded = 'gateway_audit_records_total{event="write_outcome"}'
    eventually(lambda: writer.gateway.metric(recorded) == 1)


@pytest.mark.parametrize(
    ("kind", "details", "response_status", "outcome"),
    [
        ("answer", {"status": 404, "body": '{"error_code": "x", "error_msg": "y"}'}, 404,
         ("failure", 404)),
        ("answer", {"status": 403, "body": '{"error_code": "x", "error_msg": "y"}'}, 502,
         ("failure", 403)),
        ("throttled", {}, 503, ("failure", 429)),
        ("answer", {"status": 500}, 503, ("unknown", 500)),
        ("reset", {}, 503, ("unknown", 0)),
        ("truncated", {}, 502, ("unknown", 0)),
    ],
)  # fmt: skip
def test_write_outcome_follows_the_cloud_response(
    writer: Writer,
    kind: str,
    details: dict[str, Any],
    response_status: int,
    outcome: tuple[str, int],
) -> None:
    writer.cloud.fail(writer.cloud.upstream, kind, path=POWER, **details)
    assert writer.switch_off().status == response_status
    writer.wait_for_outcomes(outcome)
    assert len(writer.outcomes()) == 1


def test_outcome_of_a_write_without_response_is_unknown() -> None:
    writer = Writer(account={"timeouts": {"connect_s": 2, "read_s": 2, "total_s": 2}})
    try:
        writer.cloud.fail(writer.cloud.upstream, "hang", path=POWER)
        assert writer.switch_off().status == 504
        writer.wait_for_outcomes(("unknown", 0))
        assert len(writer.outcomes()) == 1
    finally:
        writer.stack.close()


def test_write_to_unreachable_cloud_is_not_sent(writer: Writer) -> None:
    config = writer.gateway.config
    config["accounts"][0]["endpoint"] = "http://127.0.0.1:1"
    gateway = writer.stack.replica(start=False)
    gateway.config["accounts"] = config["accounts"]
    gateway.write_config()
    gateway.write_policy(json.loads(writer.gateway.policy_file.read_text()))
    gateway.start()
    headers = {"Authorization": f"Bearer {writer.token}"}
    assert fetch(gateway.url, "PUT", writer.path, headers, writer.body(0)).status == 503
    writer.wait_for_outcomes(("not_sent", 0), gateway=gateway)
    assert len(writer.outcomes(gateway)) == 1


def test_write_with_queue_timeout_is_not_sent() -> None:
    console = {"requests": 1, "per_s": 3, "burst": 1}
    writer = Writer(account={"budget": {"console": console, "wait_max_s": 15}})
    try:
        # On a busy machine, the time to the first write may be enough for it.
        eventually(lambda: writer.switch_off(Prefer="wait=1").status == 429)
        writer.wait_for_outcomes(("not_sent", 0))
        record = writer.gateway.audit("write_outcome")[-1]
        assert record["detail"].startswith("BudgetExhausted")
        again = writer.switch_off()  # a retry by the caller is a new attempt
        assert again.status == 200
        writer.wait_for_outcomes(("not_sent", 0), ("success", 200))
    finally:
        writer.stack.close()


def test_disconnect_does_not_prevent_the_outcome_record() -> None:
    writer = Writer()
    try:
        writer.send_hanging().close()
        eventually(lambda: writer.gateway.log_lines("request")[-1]["status"] == 499)
        assert writer.gateway.audit("write_outcome") == []
        writer.cloud.heal()
        eventually(lambda: writer.outcomes() == [("success", 200)])
        assert writer.power(0) == "off"
        (record,) = writer.gateway.audit("write_outcome")
        assert record["detail"] == "cancelled: the caller disconnected or the process stopped"
    finally:
        writer.stack.close()


def test_disconnect_in_queue_sends_no_write() -> None:
    console = {"requests": 1, "per_s": 100, "burst": 1}
    writer = Writer(
        account={"budget": {"console": console, "wait_max_s": 200}},
        change={"request": {"deadline_s": 200}},
    )
    try:
        connection = writer.send()
        queued = 'gateway_budget_queue_length{account="prod",budget="console"}'
        eventually(lambda: writer.gateway.metric(queued) == 1)
        connection.close()
        eventually(lambda: writer.outcomes() == [("not_sent", 0)])
        eventually(lambda: writer.gateway.metric(queued) == 0)
        assert not writer.reached()
    finally:
        writer.stack.close()


def test_stopped_process_records_known_outcomes() -> None:
    timeout = {"connect_s": 2, "read_s": 60, "total_s": 60}
    request = {"deadline_s": 60, "drain_s": 1}
    writer = Writer(account={"timeouts": timeout}, change={"request": request})
    try:
        writer.send_hanging(0).close()
        still_there = writer.send_hanging(1)
        assert writer.gateway.stop() == 0
        still_there.close()
        assert writer.outcomes() == [("unknown", 0), ("unknown", 0)]
        details = {one["detail"] for one in writer.gateway.audit("write_outcome")}
        assert details == {"cancelled: the caller disconnected or the process stopped"}
        assert main(["audit", "verify", str(writer.gateway.directory / "audit")]) == 0
    finally:
        writer.stack.close()


def test_permit_remains_after_a_crash(writer: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    connection = writer.send_hanging()
    (worker,) = writer.gateway.workers()
    os.kill(worker, signal.SIGKILL)
    connection.close()
    eventually(lambda: [worker] != writer.gateway.workers() != [])
    eventually(lambda: writer.gateway.ready() == 200)
    assert writer.outcomes() == [("", 0)]
    audit_log = str(writer.gateway.directory / "audit")
    assert main(["audit", "verify", audit_log]) == 0
    capsys.readouterr()
    assert main(["audit", "search", audit_log, "--subject", "theo",
                 "--server", writer.cloud.servers[0],
                 "--event", "write_permitted"]) == 0  # fmt: skip
    assert capsys.readouterr().out.count("\n") == 1


def test_full_disk_loses_outcome_but_not_response(
    writer: Writer,
) -> None:
    gateway = writer.gateway
    for _ in range(20):  # until the segment is longer than the log file
        assert gateway.console(writer.token).status == 200
    connection = writer.send_hanging()
    (segment,) = Path(gateway.directory / "audit").glob("chain-1/segment-*")
    (worker,) = gateway.workers()
    before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (segment.stat().st_size, before[1]))
    writer.cloud.heal()
    assert connection.getresponse().status == 200
    connection.close()
    assert writer.power(0) == "off"
    eventually(lambda: gateway.metric("gateway_audit_records_missing_total") == 1)
    assert gateway.metric("gateway_audit_durable") == 0
    assert writer.switch_off(1).status == 503, "a write that cannot be recorded is not sent"
    resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
    assert writer.switch_off(1).status == 200
    writer.wait_for_outcomes(("", 0), ("success", 200))
    assert len(writer.outcomes()) == 2
    eventually(lambda: gateway.audit("audit_records_missing"))
    (response_status,) = gateway.audit("audit_records_missing")
    assert response_status["detail"].startswith("missing records: 1, from ")
    assert main(["audit", "verify", str(gateway.directory / "audit")]) == 0
