"""Start, reload, restart and stop of real processes."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.process.supervisor import _RESTART_DELAYS_S
from tests.support.stack import (
    DRAIN_S,
    START_TIMEOUT_S,
    TIMEOUT_S,
    Stack,
    console_path,
    eventually,
    fetch,
    make_policy,
)
from tests.support.valkey import RealValkey, free_port


def workers_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sigterm_completes_accepted_requests(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    gateway.console(cloud.token())
    cloud.fail(cloud.upstream, "hang")
    with ThreadPoolExecutor(9) as pool:
        tokens = [cloud.token(f"p{i}") for i in range(8)]
        pending = [pool.submit(gateway.console, token, cloud.servers[1]) for token in tokens]
        eventually(lambda: gateway.metric("gateway_fetches_in_flight") == 8)
        stopped = pool.submit(gateway.stop)
        eventually(lambda: is_refused(gateway.port))
        cloud.heal()
        assert stopped.result() == 0
        assert [one.result().status for one in pending] == [200] * 8
    assert gateway.log_text().count('"event":"request"') == 9


def test_stuck_request_ends_with_the_drain_time(own_stack: Stack) -> None:
    gateway = own_stack.replica(change={"request": {"deadline_s": 60, "drain_s": 1}})
    own_stack.cloud.fail(own_stack.cloud.upstream, "hang")
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(gateway.console, own_stack.cloud.token())
        eventually(lambda: gateway.metric("gateway_fetches_in_flight") == 1)
        began = time.monotonic()
        gateway.stop()
        assert time.monotonic() - began < 20
        assert stuck.exception() is not None or stuck.result().status >= 500


def test_dead_worker_is_replaced(own_stack: Stack) -> None:
    gateway = own_stack.replica(workers=2)
    first = workers_of(gateway.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    eventually(lambda: len(set(workers_of(gateway.pid)) - set(first)) == 1)
    assert gateway.console(own_stack.cloud.token()).status == 200
    eventually(lambda: gateway.log_lines("worker_died"))


def test_reload_replaces_a_dead_worker_once(own_stack: Stack) -> None:
    gateway = own_stack.replica(workers=2)
    before = workers_of(gateway.pid)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: gateway.log_lines("worker_died"))
    restart_due_at = time.monotonic() + _RESTART_DELAYS_S[1] + 0.1
    gateway.config["operations"] = {"disable": ["ShowServer"]}
    gateway.write_config()
    gateway.signal(signal.SIGHUP)  # before the restart of the dead worker is due
    eventually(lambda: gateway.log_lines("config_reloaded"), gateway.log_text)
    time.sleep(max(0.0, restart_due_at - time.monotonic()))
    gateway.config["lisen"] = {}
    gateway.write_config()
    for rejections in (1, 2, 3):  # the supervisor does its other work in between
        gateway.signal(signal.SIGHUP)
        eventually(
            lambda n=rejections: len(gateway.log_lines("config_rejected")) >= n, gateway.log_text
        )
    # Without the second, a replacement that the reload has itself replaced may still drain.
    eventually(lambda: len(set(workers_of(gateway.pid)) - set(before)) == 2, gateway.log_text)


def test_workers_exit_when_the_supervisor_is_killed(own_stack: Stack) -> None:
    gateway = own_stack.replica(workers=2)
    workers = workers_of(gateway.pid)
    gateway.signal(signal.SIGKILL)
    eventually(lambda: not any(_runs(pid) for pid in workers), gateway.log_text)


def test_each_worker_has_its_own_metrics(own_stack: Stack) -> None:
    gateway = own_stack.replica(workers=2)
    for port in (gateway.admin_port, gateway.admin_port + 1):
        page = fetch(f"http://127.0.0.1:{port}", "GET", "/metrics").body.decode()
        assert "gateway_build_info" in page


def test_policy_reload_rejects_an_invalid_policy(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    token = cloud.token("otto", groups=["newcomers"])
    assert gateway.console(token).status == 403
    policy = make_policy(cloud)
    policy["grants"][0]["to"]["groups"].append("newcomers")
    gateway.write_policy(policy)
    gateway.signal(signal.SIGHUP)
    eventually(lambda: gateway.console(token).status == 200)
    policy["grants"][0]["role"] = "no-such-role"
    gateway.write_policy(policy)
    rejected = 'gateway_policy_reloads_total{outcome="rejected"}'
    eventually(lambda: gateway.metric(rejected) >= 1)
    assert gateway.console(token).status == 200
    (line, *_) = gateway.log_lines("policy_rejected")
    assert "grants[0].role" in line["errors"][0]


def test_dead_worker_is_replaced_while_the_policy_is_invalid(own_stack: Stack) -> None:
    gateway = own_stack.gateway
    token = own_stack.cloud.token()
    gateway.policy_file.write_text("grants: [nonsense")
    eventually(lambda: gateway.log_lines("policy_rejected"))
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: gateway.log_lines("worker_died"))
    eventually(lambda: gateway.ready() == 200, gateway.log_text)
    assert gateway.console(token).status == 200
    assert gateway.metric("gateway_policy_rejected") == 1


def test_changed_config_loses_no_request(
    own_stack: Stack,
) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    token = cloud.token()
    before = workers_of(gateway.pid)
    statuses = []
    stop = False

    def keep_requesting() -> None:
        while not stop:
            statuses.append(gateway.console(token).status)
            time.sleep(0.05)  # stay below the caller's own rate limit

    with ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(keep_requesting) for _ in range(4)]
        gateway.config["operations"] = {
            "disable": ["ShowServer"]
        }  # an operation that the callers do not use
        gateway.write_config()
        eventually(lambda: set(workers_of(gateway.pid)).isdisjoint(before))
        stop = True
        for one in loops:
            one.result()
    assert set(statuses) == {200}
    server = f"/v1/{cloud.project}/physicalservers/{cloud.servers[0]}"
    headers = {"Authorization": f"Bearer {token}"}
    eventually(lambda: fetch(gateway.url, "GET", server, headers).status == 404)


def test_changed_config_applies_while_an_issuer_is_unavailable(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    token = cloud.token()
    assert gateway.console(token).status == 200
    before = workers_of(gateway.pid)
    cloud.fail(cloud.issuer, "reset")
    gateway.config["operations"] = {"disable": ["ShowServer"]}
    gateway.write_config()
    eventually(lambda: set(workers_of(gateway.pid)).isdisjoint(before), gateway.log_text)
    assert gateway.console(token).status == 200
    assert gateway.ready() == 200


def test_removed_port_is_closed(own_stack: Stack) -> None:
    gateway = own_stack.gateway
    old, gateway.port = gateway.port, free_port()
    gateway.config["listen"]["port"] = gateway.port
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_reloaded"), gateway.log_text)
    assert gateway.console(own_stack.cloud.token()).status == 200
    eventually(lambda: is_refused(old))


def test_failed_start_leaves_no_port_open(own_stack: Stack) -> None:
    gateway = own_stack.gateway
    wanted = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gateway.config["listen"]["port"] = wanted
        gateway.config["admin"]["port"] = taken.getsockname()[1]
        gateway.write_config()
        eventually(lambda: gateway.log_lines("config_rejected"), gateway.log_text)
        (message,) = gateway.log_lines("listen_failed")
        assert (message["listener"], message["host"]) == ("admin", "127.0.0.1")
        assert message["port"] == taken.getsockname()[1]
        assert message["error"].startswith("Address already in use; free this address")
    eventually(lambda: is_refused(wanted))
    assert gateway.console(own_stack.cloud.token()).status == 200


def test_admin_ports_must_differ_from_the_public_port(stack: Stack) -> None:
    gateway = stack.replica(start=False, workers=2)
    gateway.config["admin"]["port"] = gateway.port - 1
    gateway.write_config()
    gateway.start(wait=False)
    assert gateway._process is not None
    assert gateway._process.wait(START_TIMEOUT_S) == 1
    assert "listen.port: is the admin port of worker 1" in gateway.log_text()


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_stopping_gateway_refuses_new_connections_only(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    keep_alive = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=TIMEOUT_S)
    path = console_path(cloud.project, cloud.servers[0])
    headers = {"Authorization": f"Bearer {cloud.token()}"}
    for connection in (None, "close"):
        keep_alive.request("GET", path, headers=headers)
        response = keep_alive.getresponse()
        assert (response.status, response.getheader("Connection")) == (200, connection)
        response.read()
        if connection is None:
            gateway.signal(signal.SIGTERM)
            eventually(lambda: is_refused(gateway.port))
            assert gateway.ready() == 503
    keep_alive.close()
    began = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began < DRAIN_S / 2


def test_invalid_config_changes_nothing(own_stack: Stack) -> None:
    gateway, cloud = own_stack.gateway, own_stack.cloud
    before = workers_of(gateway.pid)
    gateway.config["lisen"] = {}
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_rejected"))
    assert workers_of(gateway.pid) == before
    assert gateway.console(cloud.token()).status == 200


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lisen", {}, "lisen: unknown key"),
        ("policy_file", "nowhere.yaml", "cannot be read"),
        ("store", {"redis": {"url": "redis://x"}, "seal_keys": [{"file": "no"}]}, "seal_keys[0]"),
        ("store", {"redis": {"url": "redis://x"}, "seal_keys": [{"env": "NO"}]}, "NO is not set"),
        ("listen", {"port": "x"}, "listen.port"),
        ("audit", {"directory": "/proc/x"}, "audit.directory: /proc/x cannot be made: No such"),
    ],
)
def test_serve_rejects_an_invalid_config(
    stack: Stack, key: str, value: object, message: str
) -> None:
    gateway = stack.replica(start=False, change={key: value})
    gateway.start(wait=False)
    assert gateway._process is not None
    assert gateway._process.wait(START_TIMEOUT_S) == 1
    assert message in gateway.log_text()
    assert "Traceback" not in gateway.log_text()


def test_config_with_an_unwritable_directory_is_rejected(own_stack: Stack) -> None:
    gateway = own_stack.gateway
    gateway.config["overrides"] = {"file": "/proc/x/overrides.json"}
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_rejected"), gateway.log_text)
    (error,) = gateway.log_lines("config_rejected")[0]["errors"]
    assert "overrides.file: /proc/x cannot be made" in error
    gateway.config["overrides"] = {"file": "new/overrides.json"}
    gateway.write_config()
    eventually(lambda: gateway.log_lines("config_reloaded"), gateway.log_text)
    assert (gateway.directory / "new").is_dir()


def test_embedded_store_runs_with_the_gateway(own_stack: Stack) -> None:
    store = {**own_stack.gateway.config["store"], "redis": {"embedded": True}}
    gateway = own_stack.replica(change={"store": store}, workers=2)
    eventually(lambda: gateway.metric("gateway_store_available") == 1)
    assert gateway.console(own_stack.cloud.token()).status == 200
    children = workers_of(gateway.pid)
    assert len(children) == 3
    assert gateway.stop() == 0
    eventually(lambda: not any(_runs(pid) for pid in children))


def test_cluster_and_sentinel_stores(own_stack: Stack) -> None:
    node = RealValkey("--cluster-enabled", "yes", "--cluster-port", str(free_port())).start()
    sentinel = _sentinel(own_stack.valkey.port)
    try:
        subprocess.run(
            [sys.executable, "-c", _ADD_SLOTS, str(node.port)], check=True, timeout=TIMEOUT_S
        )
        for redis in (
            {"cluster": [f"127.0.0.1:{node.port}"]},
            {"sentinels": [f"127.0.0.1:{sentinel.port}"], "service": "main"},
        ):
            store = {**own_stack.gateway.config["store"], "redis": redis}
            gateway = own_stack.replica(change={"store": store})
            eventually(lambda g=gateway: g.metric("gateway_store_available") == 1, gateway.log_text)
            assert gateway.console(own_stack.cloud.token()).status == 200
            assert gateway.stop() == 0
    finally:
        node.close()
        sentinel.close()


_ADD_SLOTS = """
import sys, time, valkey
node = valkey.Valkey(port=int(sys.argv[1]))
node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
while node.cluster("info")["cluster_state"] != "ok":
    time.sleep(0.05)
"""


def _sentinel(port: int) -> RealValkey:
    return RealValkey.sentinel(f"sentinel monitor main 127.0.0.1 {port} 1\n").start()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
