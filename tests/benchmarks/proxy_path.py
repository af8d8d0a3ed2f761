"""A forwarded read beside a bare aiohttp forward, and a long list that is filtered."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request

from gateway.demo.cloud import iam
from tests.benchmarks.load import Measured, children, cpu_seconds, measure
from tests.support.stack import CloudProcess, Stack, eventually, fetch
from tests.support.valkey import free_port

_ROUNDS = 5
_SECONDS = 3.0
_CONNECTIONS = 16
_NO_LIMIT = {"requests": 1e7, "per_s": 1, "burst": 100_000}
_BUDGET = {"console": {"requests": 100_000, "per_s": 1, "burst": 1_000}}
_MANY = 10_000
_SEEN = 50
_LISTS = 20


def main() -> None:
    _print_forwarding()
    _print_list()


def _print_forwarding() -> None:
    stack = Stack(change={"caller_limits": _NO_LIMIT}, account={"budget": _BUDGET})
    stack.cloud.rate(rate=1e6, burst=1e6)
    stack.cloud.settings(latency_s=[0.0, 0.0])
    port = free_port()
    peer = _peer(port, stack)
    try:
        servers = {"gateway": (stack.gateway.port, children(stack.gateway.pid))}
        servers["bare"] = (port, [peer.pid])
        path = f"/v1/{stack.cloud.project}/physicalservers/{stack.cloud.servers[0]}"
        token = stack.cloud.token()
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        found: dict[str, list[Measured]] = {name: [] for name in servers}
        for _ in range(_ROUNDS):
            for name, (its_port, pids) in servers.items():
                run = measure(
                    "127.0.0.1", its_port, pids, request.encode(),
                    seconds=_SECONDS, connections=_CONNECTIONS,
                )  # fmt: skip
                measured = asyncio.run(run)
                assert set(measured.statuses) == {200}, (name, measured.statuses)
                found[name].append(measured)
    finally:
        peer.terminate()
        peer.wait()
        stack.close()
    cpu = {name: statistics.median(one.cpu_us for one in all_) for name, all_ in found.items()}
    print("a forwarded ShowServer, one process each, CPU of the server per request (median)")
    for name, us in cpu.items():
        print(f"  {name:8} {us:7.1f} µs")
    print(f"  gateway / bare forward: {cpu['gateway'] / cpu['bare']:.2f}  (target: at most 1.5)")


def _print_list() -> None:
    stack = Stack(CloudProcess(servers=_MANY), account={"budget": _BUDGET})
    stack.cloud.rate(rate=1e6, burst=1e6)
    try:
        gateway = stack.gateway
        gateway.write_policy(_few(stack.cloud))
        target = f"/v1/{stack.cloud.project}/physicalservers?limit=1000"
        headers = {"Authorization": f"Bearer {stack.cloud.token()}", "Cache-Control": "no-cache"}
        eventually(lambda: fetch(gateway.url, "GET", target, headers).json.get("count") == _SEEN)
        time.sleep(1.0)
        fetch(stack.cloud.upstream, "DELETE", "/_box/calls")
        pids = children(gateway.pid)
        began = cpu_seconds(pids)
        for _ in range(_LISTS):
            answer = fetch(gateway.url, "GET", target, headers)
            assert len(answer.json["servers"]) == answer.json["count"] == _SEEN
        spent_ms = (cpu_seconds(pids) - began) / _LISTS * 1e3
        calls = len(stack.cloud.calls(stack.cloud.upstream)) / _LISTS
    finally:
        stack.close()
    print(
        f"a list of {_MANY} servers for a caller who may see {_SEEN}: "
        f"{spent_ms:.0f} ms of CPU  (asked: 50), {calls:.0f} calls to the cloud, "
        "none for the next 5 s"
    )


def _few(cloud: CloudProcess) -> dict[str, object]:
    seen = cloud.servers[:: _MANY // _SEEN]
    grant = {"role": "operator", "to": {"groups": ["operators"]}, "on": {"servers": seen}}
    return {"roles": {"operator": ["console:open", "server:read"]}, "grants": [grant]}


def _peer(port: int, stack: Stack) -> subprocess.Popen[bytes]:
    environ = {
        **os.environ,
        "PEER_UPSTREAM": stack.cloud.upstream,
        "PEER_TOKEN": service_token(stack.cloud),
    }
    arguments = [sys.executable, "-m", "tests.benchmarks.peers", "forward", str(port)]
    peer = subprocess.Popen(arguments, env=environ, stdout=subprocess.DEVNULL)
    path = f"/v1/{stack.cloud.project}/physicalservers/{stack.cloud.servers[0]}"

    def answers() -> bool:
        try:
            return fetch(f"http://127.0.0.1:{port}", "GET", path).status == 200
        except OSError:
            return False

    eventually(answers)
    return peer


def service_token(cloud: CloudProcess) -> str:
    user = {"name": iam.USER, "password": iam.PASSWORD, "domain": {"name": iam.DOMAIN}}
    identity = {"methods": ["password"], "password": {"user": user}}
    body = {"auth": {"identity": identity, "scope": {"project": {"id": cloud.project}}}}
    request = urllib.request.Request(
        cloud.iam + "/v3/auth/tokens?nocatalog=1",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers["X-Subject-Token"])


if __name__ == "__main__":
    main()
