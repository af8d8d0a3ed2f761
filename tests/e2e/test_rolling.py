"""Restarts, reloads and failovers at 200 requests per second lose no request."""

import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.test_lifecycle import workers_of
from tests.support.stack import (
    CloudProcess,
    RunningGateway,
    Stack,
    eventually,
    make_policy,
    make_seal_key,
)
from tests.support.steady_load import SteadyLoad, Target, Wanted, console_mix
from tests.support.valkey import RealValkey


@dataclass
class Fleet:
    """Two replicas with a store behind Sentinel; the first has two workers."""

    cloud: CloudProcess
    store: list[RealValkey]
    sentinel: RealValkey
    gateways: list[RunningGateway]
    mix: list[Wanted]

    def load(self, *targets: Target) -> SteadyLoad:
        return SteadyLoad(targets, self.mix)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    cloud, seal_key = CloudProcess(), make_seal_key()
    cloud.rate(rate=1000, burst=1000)
    primary = RealValkey("--repl-diskless-sync-delay", "0").start()
    replica = RealValkey("--replicaof", "127.0.0.1", str(primary.port)).start()
    sentinel = RealValkey.sentinel(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    ).start()
    eventually(lambda: primary.command("ROLE")[2] != [])
    gateways = []
    for workers in (2, 1):
        # As in a deployment, the replicas have different hash seeds.
        environ = {"PYTHONHASHSEED": "random"}
        gateway = RunningGateway(
            cloud, primary.url, workers=workers, seal_key=seal_key, environ=environ
        )
        sentinels = {"sentinels": [f"127.0.0.1:{sentinel.port}"], "service": "main"}
        gateway.config["store"] |= {"redis": sentinels, "processes_max": 3}
        gateway.write_config()
        gateways.append(gateway.start(wait=False))
    eventually(lambda: all(one.ready() == 200 for one in gateways))
    eventually(lambda: all(one.metric("gateway_store_available") for one in gateways))
    yield Fleet(cloud, [primary, replica], sentinel, gateways, console_mix(gateways[0]))
    for gateway in gateways:
        gateway.close()
    for server in (sentinel, replica, primary):
        server.close()
    cloud.close()


def assert_no_failures(load: SteadyLoad, seconds: float) -> None:
    assert load.failures == []
    assert load.count > 20 * seconds, "too few requests were sent"
    assert load.reused > 20
    assert load.connects > 10
    assert set(load.answers) == {one.name for one in load._wanted}


def test_rolling_restart_loses_no_request(fleet: Fleet) -> None:
    first, second = fleet.gateways
    second.config["request"] = {**second.config["request"], "drain_delay_s": 5}
    targets = [Target(first.port), Target(second.port, second.admin_port)]
    with fleet.load(*targets).running() as load:
        load.goes_on(0.5)
        assert first.stop() == 0  # the only sign is a refused connection
        load.goes_on(0.3)
        first.start()
        second.write_config()
        eventually(lambda: second.log_lines("config_reloaded"))
        load.goes_on(0.5)
        second.signal(signal.SIGTERM)
        eventually(lambda: second.ready() == 503)
        socket.create_connection(
            ("127.0.0.1", second.port)
        ).close()  # until the load balancer has noticed
        assert second.stop() == 0
        second.start()
        load.goes_on(0.5)
    assert_no_failures(load, 5)


def test_restart_behind_an_inherited_socket_loses_no_request(own_stack: Stack) -> None:
    own_stack.cloud.rate(rate=1000, burst=1000)
    gateway = own_stack.replica(workers=2, start=False)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        gateway.port = gateway.config["listen"]["port"] = listening.getsockname()[1]
        gateway.write_config()
        gateway.start(passed=listening)
        with SteadyLoad([Target(gateway.port)], console_mix(gateway)).running() as load:
            for _ in range(2):
                load.goes_on(0.5)
                assert gateway.stop() == 0
                gateway.start(passed=listening)
            load.goes_on(0.5)
        assert_no_failures(load, 2)
        assert not gateway.log_lines("inherited_socket_unused")


def test_config_change_loses_no_request(fleet: Fleet) -> None:
    gateway = fleet.gateways[0]
    before = workers_of(gateway.pid)
    reloads = len(gateway.log_lines("config_reloaded"))
    scraped = [gateway.metric("process_start_time_seconds")]
    with fleet.load(Target(gateway.port)).running() as load:
        load.goes_on(0.5)
        gateway.config["cache"] = {"links_max": 10_000 + reloads}
        gateway.write_config()
        gateway.signal(signal.SIGHUP)

        def old_workers_exited() -> bool:
            scraped.append(gateway.metric("process_start_time_seconds"))
            return not set(before) & set(workers_of(gateway.pid))

        eventually(old_workers_exited, gateway.log_text)
        assert len(gateway.log_lines("config_reloaded")) > reloads
        scraped.append(gateway.metric("process_start_time_seconds"))
        load.goes_on(0.5)
    assert_no_failures(load, 2)
    assert scraped == sorted(scraped), "a scrape target must not alternate between two processes"
    assert len(set(scraped)) == 2


def test_store_failover_loses_no_request(fleet: Fleet) -> None:
    targets = [Target(one.port, one.admin_port) for one in fleet.gateways]
    primary, replica = fleet.store
    with fleet.load(*targets).running() as load:
        load.goes_on(0.5)
        primary.kill()
        eventually(replica.is_primary)
        eventually(lambda: all(one.metric("gateway_store_available") for one in fleet.gateways))
        load.goes_on(1.0)
    assert_no_failures(load, 2)


def test_policy_reloads_lose_no_request(fleet: Fleet) -> None:
    gateway = fleet.gateways[1]
    with fleet.load(Target(gateway.port)).running() as load:
        load.goes_on(0.3)
        for i in range(3):
            loaded = len(gateway.log_lines("policy_loaded"))
            policy: dict[str, Any] = make_policy(fleet.cloud)
            policy["roles"][f"another-{i}"] = ["server:read"]
            gateway.write_policy(policy)
            gateway.signal(signal.SIGHUP)
            # A busy worker would load two policies that follow each other as one.
            eventually(lambda n=loaded: len(gateway.log_lines("policy_loaded")) > n)
            load.goes_on(0.2)
    assert_no_failures(load, 1)
