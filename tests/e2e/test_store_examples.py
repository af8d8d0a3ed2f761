"""The example configs for Sentinel and Cluster, with real nodes and the documented user."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.compose import ROOT, make_secrets
from tests.support.stack import (
    STORE_TIMEOUT_S,
    CloudProcess,
    RunningGateway,
    Stack,
    eventually,
)
from tests.support.valkey import RealValkey, valkey_cluster

BOUNDS = {"timeout_s": STORE_TIMEOUT_S, "connect_timeout_s": STORE_TIMEOUT_S}
"""A busy machine may pause a node."""


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    make_secrets(tmp_path / "secrets")
    return tmp_path / "secrets"


def example(name: str, secrets: Path, addresses: Sequence[str]) -> dict[str, Any]:
    """Return the section of the example with these addresses and secrets."""
    text = (ROOT / "config" / f"store-{name}.yaml").read_text()
    shipped: dict[str, Any] = yaml.safe_load(text.replace("secrets/", f"{secrets}/"))["store"]
    (key,) = shipped["redis"].keys() & {"sentinels", "cluster"}
    shipped["redis"][key] = list(addresses)
    return shipped | BOUNDS


def admit(nodes: Sequence[RealValkey], secrets: Path) -> None:
    """Create the gateway's user on the nodes, as `make compose-secrets` writes it."""
    (user,) = re.findall(
        r"^user gateway (.+)$", (secrets / "valkey-users").read_text(), re.MULTILINE
    )
    for node in nodes:
        node.command("ACL", "SETUSER", "gateway", *user.split())


@contextmanager
def two_replicas(cloud: CloudProcess, store: dict[str, Any]) -> Iterator[list[RunningGateway]]:
    with ExitStack() as stack:
        started = [
            RunningGateway(cloud, "redis://127.0.0.1:1/0", change={"store": store})
            for _ in range(2)
        ]
        for gateway in started:
            stack.callback(gateway.close)
            gateway.start(wait=False)
        yield started


def share_a_link(gateways: Sequence[RunningGateway], token: str, server: str) -> None:
    """Assert that a replica finds in the store what another replica fetched."""
    for gateway in gateways:
        eventually(lambda one=gateway: one.ready() == 200)
        eventually(lambda one=gateway: one.metric("gateway_store_available") == 1)
    first, second = (gateway.console(token, server) for gateway in gateways)
    assert (first.status, second.status) == (200, 200), (first.body, second.body)
    assert first.json["url"] == second.json["url"]
    found = re.findall(
        r'^gateway_links_total\{.*source="(\w+)".*\} [1-9]', gateways[1].metrics(), re.MULTILINE
    )
    assert "redis" in found


def test_sentinel_example_works(stack: Stack, secrets: Path) -> None:
    with ExitStack() as nodes:
        primary = RealValkey().start()
        nodes.callback(primary.close)
        admit((primary,), secrets)
        sentinel = RealValkey.sentinel(
            f"sentinel monitor gateway 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds gateway 500\n"
            "sentinel failover-timeout gateway 2000\n"
        ).start()
        nodes.callback(sentinel.close)
        store = example("sentinel", secrets, [f"127.0.0.1:{sentinel.port}"])
        token = stack.cloud.token()
        with two_replicas(stack.cloud, store) as gateways:
            share_a_link(gateways, token, stack.cloud.servers[0])


def test_cluster_example_works(stack: Stack, secrets: Path) -> None:
    with valkey_cluster() as nodes:
        admit(nodes, secrets)
        store = example("cluster", secrets, [f"127.0.0.1:{node.port}" for node in nodes[1:]])
        token = stack.cloud.token()
        with two_replicas(stack.cloud, store) as gateways:
            for server in stack.cloud.servers[:6]:  # keys on several shards
                share_a_link(gateways, token, server)
