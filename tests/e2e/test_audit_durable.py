"""Invariant 5 with processes that are killed, and with a full disk."""

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
from tests.e2e.test_lifecycle import _runs
from tests.support.audit import SigningKey
from tests.support.stack import RunningGateway, Stack, eventually, fetch


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Callers:
    """Request console links, half of them fresh, and store every link received."""

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
                time.sleep(0.01)  # killed, and restarting
                continue
            if answer.status == 200:
                self.links[answer.headers["x-request-id"]] = answer.json["url"]


def test_5_each_link_has_one_record_despite_kills(
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

    def wait_for_links(more: int) -> None:
        until = len(callers.links) + more
        eventually(lambda: len(callers.links) >= until, gateway.log_text)

    with ThreadPoolExecutor(6) as pool:
        callers_running = [pool.submit(callers.fetch) for _ in range(6)]
        try:
            wait_for_links(100)
            os.kill(children(gateway.pid)[0], signal.SIGKILL)
            wait_for_links(100)
            killed = children(gateway.pid)
            os.killpg(gateway.pid, signal.SIGKILL)
            assert gateway._process is not None
            gateway._process.wait()
            # On a busy machine, ports and chains are theirs until the kernel has ended them.
            eventually(lambda: not any(_runs(pid) for pid in killed))
            gateway.start()
            wait_for_links(100)
        finally:
            callers.stopped = True
            for one in callers_running:
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


def test_full_disk_stops_links_until_space_returns(own_stack: Stack) -> None:
    gateway, token = own_stack.gateway, own_stack.cloud.token()
    for _ in range(60):  # until the segment is longer than the log file
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


def test_draining_and_new_workers_share_no_chain(own_stack: Stack) -> None:
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


def test_audit_log_is_written_to_configured_paths(own_stack: Stack) -> None:
    token = own_stack.cloud.token()

    def streamed(event: str) -> list[dict[str, Any]]:
        entries = own_stack.valkey.command("XRANGE", "gateway:{audit}:lines", "-", "+")
        lines = [json.loads(fields[b"line"]) for _, fields in entries]
        return [line for line in lines if line["event"] == event]

    alone = own_stack.replica(change={"audit": {"stream": True}})
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
