"""100,000 servers: a decision by tag, the event loop during a refresh, and a filtered list."""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import uvloop

from gateway.domain.model import (
    CONSOLE_OPEN,
    Principal,
    ProjectId,
    RuleKind,
    RuleRef,
    ServerId,
    UpstreamRequest,
)
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Selector
from gateway.drivers.host.clock import SystemClock
from gateway.flow.inventories import CachedInventories, InventoryAccount
from gateway.flow.single_flight import SingleFlight
from tests.benchmarks.load import children, cpu_seconds
from tests.support.exchange import FakeExchange, as_exchange
from tests.support.shared_store import FakeSharedStore
from tests.support.stack import CloudProcess, Stack, fetch
from tests.support.telemetry import RecordingTelemetry

_SERVERS = 100_000
_SEEN = 50
_PAGE = 1_000
_DECISIONS = 20_000
_REFRESHES = 5
_LISTS = 20
PROJECT = ProjectId("p")
_ANN = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)


def main() -> None:
    set_up_interpreter()
    uvloop.run(_print_refresh_and_decision())
    _print_list()


def set_up_interpreter() -> None:
    """Do as gateway/process/worker.py."""
    sys.setswitchinterval(0.001)
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)


def server_id(number: int) -> str:
    return f"{number:08x}-2222-4333-8444-555555555555"


class ServerPages:
    """Pages of servers, of which each 50 have one value of the tag `team`."""

    def __init__(self, count: int = _SERVERS) -> None:
        self._count = count
        self._pages = [self._page(first) for first in range(0, count, _PAGE)]

    def __call__(self, request: UpstreamRequest) -> bytes:
        query = parse_qs(urlsplit(request.path).query)
        marker = query.get("marker", ["0"])[0]
        return self._pages[int(marker)]

    def _page(self, first: int) -> bytes:
        last = first + _PAGE
        marker = str(last // _PAGE) if last < self._count else None
        servers = [self._entry(number) for number in range(first, last)]
        return json.dumps({"servers": servers, "page_info": {"next_marker": marker}}).encode()

    def _entry(self, number: int) -> Mapping[str, Any]:
        tags = {"team": f"team-{number // _SEEN}", "env": ("test", "prod")[number % 2]}
        return {
            "id": server_id(number),
            "name": f"bms-{number}",
            "location": {"dc": "dc-1", "rack": f"r-{number % 500}", "unit": str(number % 42)},
            "hardware_attributes": {"model": "B1", "sn": f"sn-{number}"},
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }


def make_inventories(pages: ServerPages, clock: SystemClock) -> CachedInventories:
    """Return inventories of one project, PROJECT."""
    exchange = as_exchange(FakeExchange(pages))
    return CachedInventories(
        [InventoryAccount("prod", exchange, (PROJECT,), 600.0, 3_600.0, {})],
        is_needed=lambda: True,
        shared=SingleFlight(FakeSharedStore(clock), clock),
        clock=clock,
        telemetry=RecordingTelemetry(),
    )


async def _print_refresh_and_decision() -> None:
    inventories = make_inventories(ServerPages(), SystemClock())
    state = inventories._projects[PROJECT]
    lags: list[float] = []
    beating = asyncio.create_task(beat(lags))
    found: list[_Refresh] = []
    for _ in range(_REFRESHES):
        lags.clear()
        await asyncio.sleep(0.5)
        idle = max(lags)
        lags.clear()
        cpu, began = time.process_time(), time.perf_counter()
        await inventories._refresh(PROJECT, state)
        spent, cpu = time.perf_counter() - began, time.process_time() - cpu
        await asyncio.sleep(0.05)  # the inventory before is freed
        found.append(_Refresh(max(lags), idle, spent, cpu))
    beating.cancel()
    assert len(state.inventory) == _SERVERS
    best = min(found)  # other load of the machine also makes the loop late
    print(
        f"a refresh of {_SERVERS:,} servers: {best.seconds:.1f} s, {best.cpu_s:.1f} s of CPU;"
        f" the loop is late by {best.late_s * 1e3:.1f} ms at worst, in the best of {_REFRESHES}"
        f"  (target: 20; without a refresh {best.idle_s * 1e3:.1f})"
    )
    _print_decision(inventories)


class _Refresh(NamedTuple):
    late_s: float
    idle_s: float
    seconds: float
    cpu_s: float


async def beat(lags: list[float]) -> None:
    """Note how late the event loop is, again and again."""
    while True:
        due = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - due)


def _print_decision(inventories: CachedInventories) -> None:
    rules = [
        Rule(
            RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
            frozenset({CONSOLE_OPEN}),
            "corp",
            frozenset({"ann"}),
            frozenset(),
            frozenset(),
            frozenset(),
            Selector(tags=(("team", frozenset({"team-7"})), ("env", frozenset({"prod"})))),
        )
    ]
    policy, inventory = Policy(rules, version="bench"), inventories.current(PROJECT)
    servers = [ServerId(server_id(number)) for number in range(0, _SERVERS, _SERVERS // _DECISIONS)]
    now, best = time.time(), float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for server in servers:
            policy.decide(_ANN, CONSOLE_OPEN, PROJECT, server, now, inventory)
        best = min(best, time.perf_counter() - began)
    allowed = ServerId(server_id(7 * _SEEN + 1))
    assert policy.decide(_ANN, CONSOLE_OPEN, PROJECT, allowed, now, inventory).allowed
    print(f"a decision by tag: {best / len(servers) * 1e6:.1f} µs  (target: 10)")


def _print_list() -> None:
    stack = Stack(
        CloudProcess(servers=_SERVERS),
        account={"budget": {"console": {"requests": 100_000, "per_s": 1, "burst": 1_000}}},
        change={"lists": {"pages_max": 200, "bytes_max": 256 * 1024 * 1024, "reuse_s": 60}},
    )
    try:
        stack.cloud.rate(rate=1e6, burst=1e6)
        stack.cloud.settings(latency_s=[0.0, 0.0])
        gateway, pids = stack.gateway, children(stack.gateway.pid)
        seen = stack.cloud.servers[:: _SERVERS // _SEEN]
        grant = {"role": "reader", "to": {"groups": ["operators"]}, "on": {"servers": seen}}
        gateway.write_policy({"roles": {"reader": ["server:read"]}, "grants": [grant]})
        time.sleep(1.0)
        target = f"/v1/{stack.cloud.project}/physicalservers?limit=1000"
        headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
        spent = []
        for count in (1, _LISTS):
            cpu = cpu_seconds(pids)
            for _ in range(count):
                answer = fetch(gateway.url, "GET", target, headers)
                assert answer.json["count"] == _SEEN, answer.body
            spent.append((cpu_seconds(pids) - cpu) / count * 1e3)
    finally:
        stack.close()
    print(
        f"a list of {_SERVERS:,} servers for a caller who may see {_SEEN}: {spent[1]:.0f} ms of CPU"
        f"  (target: 60); the reading that serves all lists of 5 s: {spent[0]:.0f} ms, 100 calls"
    )


if __name__ == "__main__":
    main()
