"""Invariant 5 on real processes that are killed, and on a disk that is full."""

import json
import os
import resource
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.commands.parser import main
from gateway.domain.model import Secret
from gateway.drivers.crypto.fingerprints import KeyedFingerprints
from tests.support.audit import SigningKey
from tests.support.stack import RunningGateway, Stack, eventually, fetch


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Callers:
    """Ask for consoles, half of them fresh, and remember every link that came."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.links: dict[str, str] = {}
        self.stopped = False
        self._gateway = gateway
        self._token = gateway.cloud.token()
        self._numbers = count()

    def fetch(self) -> None:
        while not self.stopped:
            number = next(self._numbers)
            headers = {"Cache_Control": "no-cache"} if number % 2 else {}
            server = self._gateway.cloud.servers[number % 7]
            try:
                answer = self._gateway.console(self._token, server, **headers)
            except OSError:
                time.sleep(0.01)  # it was killed, and is about to be back
                continue
            if answer.status == 200:
                self.links[answer.headers["x-request-id"]] = answer.json["url"]


def test_5_each_link_that_was_received_has_one_record_though_all_are_killed_under_load(
    own_stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    own_stack.cloud.rate(rate=1e6, burst=1e6)
    key = SigningKey()
    rate = {"requests": 50_000, "per_s": 1, "burst": 1000}
    gateway = own_stack.replica(
        workers=2,
        start=False,
        account={"budget": {"console": rate, "iam": rate}},
        change={
            "audit": {
                "directory": "audit",
                "segment_bytes_max": 65_536,
                "checkpoint_s": 0.2,
                "signing_key": {"file": "audit-key"},
            }
        },
    )
    (gateway.directory / "audit-key").write_bytes(key.private)
    (gateway.directory / "audit-key.pub").write_bytes(key.public)
    gateway.start()
    callers = Callers(gateway)

    def go_on(more: int) -> None:
        until = len(callers.links) + more
        eventually(lambda: len(callers.links) >= until, gateway.log_text)

    with ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(callers.fetch) for _ in range(6)]
        try:
            go_on(100)
            os.kill(children(gateway.pid)[0], signal.SIGKILL)
            go_on(100)
            os.killpg(gateway.pid, signal.SIGKILL)
            assert gateway._process is not None
            gateway._process.wait()
            gateway.start()
            go_on(100)
        finally:
            callers.stopped = True
            for one in asking:
                one.result()
    assert gateway.stop() == 0
    directory = gateway.directory / "audit"
    public_key = str(gateway.directory / "audit-key.pub")
    code = main(["audit", "verify", str(directory), "--public-key", public_key])
    output = capsys.readouterr().out
    assert code == 0, output
    assert output.count(": intact, ") == len(list(directory.iterdir())) == 2
    records = gateway.audit("console_link_issued")
    found = {record["request_id"]: record["link_fingerprint"] for record in records}
    times = Counter(record["request_id"] for record in records)
    fingerprints = KeyedFingerprints(Secret(own_stack.seal_key))
    for request_id, url in callers.links.items():
        assert times[request_id] == 1
        assert found[request_id] == fingerprints.of(Secret(url))
    assert len(set(found.values())) > 20


def test_while_the_disk_is_full_no_link_leaves_and_then_all_goes_on(own_stack: Stack) -> None:
    gateway, token = own_stack.gateway, own_stack.cloud.token()
    for _ in range(60):  # until the trail's file is longer than the log's
        assert gateway.console(token).status == 200
    (segment,) = (gateway.directory / "audit").glob("chain-1/segment-*")
    (worker,) = children(gateway.pid)
    before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, before[1]))
    answer = gateway.console(token)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    body = json.dumps({"auth": {"id_token": {"id": token}}})
    keys = fetch(gateway.url, "POST", "/v3.0/OS-AUTH/id-token/tokens", {}, body)
    assert (keys.status, keys.error_code) == (503, "CGW.5035")
    assert "x-subject-token" not in keys.headers
    assert gateway.metric("gateway_audit_durable") == 0
    assert gateway.metric("gateway_audit_failures_total") >= 1
    resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
    assert gateway.console(token).status == 200
    assert gateway.metric("gateway_audit_durable") == 1
    assert gateway.metric('gateway_audit_records_total{event="console_link_issued"}') == 61
    assert len(gateway.audit("console_link_issued")) == 61
    assert main(["audit", "verify", str(gateway.directory / "audit")]) == 0


def test_workers_that_drain_and_their_successors_share_no_chain(own_stack: Stack) -> None:
    gateway, token = own_stack.gateway, own_stack.cloud.token()
    before = children(gateway.pid)
    for i in range(3):
        assert gateway.console(token).status == 200
        gateway.config["cache"] = {"links_max": 100 + i}
        gateway.write_config()
        eventually(lambda old=before: set(children(gateway.pid)).isdisjoint(old), gateway.log_text)
        before = children(gateway.pid)
    assert gateway.console(token).status == 200
    assert gateway.stop() == 0
    assert {one.name for one in (gateway.directory / "audit").iterdir()} == {"chain-1", "chain-2"}
    assert len(gateway.audit("console_link_issued")) == 4
    assert main(["audit", "verify", str(gateway.directory / "audit")]) == 0


def test_the_trail_goes_where_config_says(own_stack: Stack) -> None:
    token = own_stack.cloud.token()

    def streamed(event: str) -> list[dict[str, Any]]:
        entries = own_stack.valkey.command("XRANGE", "gateway:{audit}:lines", "-", "+")
        lines = [json.loads(fields[b"line"]) for _, fields in entries]
        return [line for line in lines if line["event"] == event]

    # Without a stream nothing is handed out: one that is slow on a busy machine is not away.
    patient = {**own_stack.gateway.config["store"], "timeout_s": 2}
    alone = own_stack.replica(change={"audit": {"stream": True}, "store": patient})
    handed_out = alone.console(token)
    assert handed_out.status == 200
    request_id = handed_out.headers["x-request-id"]
    assert [one["request_id"] for one in streamed("console_link_issued")] == [request_id]
    assert not (alone.directory / "audit").exists()

    all_three = own_stack.replica(
        change={"audit": {"directory": "audit", "stream": True, "stdout": True}}
    )
    request_id = all_three.console(token).headers["x-request-id"]
    (record,) = all_three.audit("console_link_issued")
    assert record["request_id"] == request_id
    eventually(lambda: all_three.log_lines("console_link_issued") == [record])
    eventually(lambda: record in streamed("console_link_issued"))

    exported = alone.directory / "exported"
    assert main(["audit", "export", "--config", str(alone.config_file), str(exported)]) == 0
    assert main(["audit", "verify", str(exported)]) == 0
    assert main(["audit", "search", str(exported), "--event", "console_link_issued"]) == 0

    plain = own_stack.replica(change={"audit": {"stdout": True}})
    request_id = plain.console(token).headers["x-request-id"]
    (line,) = plain.log_lines("console_link_issued")
    assert line["request_id"] == request_id
    assert "chain" not in line
