"""A person's list of servers: its cost at 10,000 and 100,000, polling people, and memory."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import uvloop

from gateway.domain.model import SERVER_READ, Principal, RuleKind, RuleRef, ServerId
from gateway.domain.policy.policy import Policy
from gateway.domain.policy.rules import Rule
from gateway.domain.policy.selectors import Location, Selector
from gateway.drivers.host.clock import SystemClock
from gateway.flow.servers.server_lists import ServerLists
from gateway.flow.servers.visible_servers import ListedProject, VisibleServers
from tests.benchmarks.hit_path import NO_LIMIT
from tests.benchmarks.inventory import (
    PROJECT,
    ServerPages,
    beat,
    make_inventories,
    server_id,
    set_up_interpreter,
)
from tests.benchmarks.load import children, cpu_seconds
from tests.benchmarks.memory import memory_mb
from tests.support.browser_login import ENVIRON, LoginBrowser, enable_login
from tests.support.stack import CloudProcess, Stack, eventually, fetch
from tests.support.stages import FakeIdentify, FakePolicies

_SIZES = (10_000, 100_000)
_ROUNDS = 5
_SEEN = 50
_REPEATED = 10_000
_PEOPLE = 1_000
_POLL_S = 15.0
"""How often a page polls."""
_POLLED_S = 20.0
_CONNECTIONS = 32
_ANN = Principal("corp", "ann", frozenset(), 0.0, 9e9, None)


def main() -> None:
    set_up_interpreter()
    for count in _SIZES:
        uvloop.run(_print_lists(count))
    _print_polls()
    _print_memory()


async def _print_lists(count: int) -> None:
    clock = SystemClock()
    inventories = make_inventories(ServerPages(count), clock)
    await inventories._refresh(PROJECT, inventories._projects[PROJECT])
    servers = frozenset(server_id(number) for number in range(0, count, count // _SEEN))
    tagged = Selector(tags=(("team", frozenset({"team-7"})),))
    on_rack = Selector(locations=(Location(dc="dc-1", rack="r-7"),))
    seen_by_rack = count // 500
    for name, seen, on in (
        ("all of them", count, {}),
        ("by ID", _SEEN, {"servers": servers}),
        ("by tag", _SEEN, {"selector": tagged}),
        ("by location", seen_by_rack, {"selector": on_rack}),
    ):
        await _print_list(inventories, clock, count, f"{seen:,} {name}", on)


async def _print_list(
    inventories: Any, clock: SystemClock, count: int, what: str, on: dict[str, Any]
) -> None:
    policies, identify = FakePolicies(Policy([], version="")), FakeIdentify()
    project = ListedProject(PROJECT, "web", "prod", "cn-east-3", "proxied")
    servers = VisibleServers([project], policies=policies, inventories=inventories, clock=clock)
    lags: list[float] = []
    beating = asyncio.create_task(beat(lags))
    found, shown = [], None
    for number in range(_ROUNDS):
        policies.policy = Policy([_rule(**on)], version=str(number))
        lists = ServerLists(servers, identify, clock)  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        lags.clear()
        cpu, began = time.process_time(), time.perf_counter()
        shown = await lists.of(_ANN, deadline=clock.monotonic() + 60)
        spent = time.process_time() - cpu, time.perf_counter() - began
        await asyncio.sleep(0.01)
        found.append((*spent, max(lags)))
    beating.cancel()
    assert shown is not None
    began = time.process_time()
    for _ in range(_REPEATED):
        await lists.of(_ANN, deadline=clock.monotonic() + 60)
    again_us = (time.process_time() - began) / _REPEATED * 1e6
    cpu_ms, wall_ms, late_ms = (min(one[at] for one in found) * 1e3 for at in range(3))
    print(
        f"a list of {count:,} servers for a caller who may see {what}: {cpu_ms:.1f} ms of CPU,"
        f" {wall_ms:.0f} ms, the loop late by {late_ms:.1f} ms;"
        f" {shown.body.size / 1e3:,.0f} kB, gzip {len(shown.body.data) / 1e3:,.0f};"
        f" again {again_us:.0f} µs"
    )


def _rule(**on: Any) -> Rule:
    return Rule(
        **{
            "ref": RuleRef(RuleKind.GRANT, "policy.yaml", 1, "a grant"),
            "permissions": frozenset({SERVER_READ}),
            "issuer": "corp",
            "users": frozenset({"ann"}),
            "groups": frozenset(),
            "projects": frozenset({PROJECT}),
            "servers": frozenset[ServerId](),
            **on,
        }
    )


def _stack(servers: int, *, enabled: bool = True) -> Stack:
    stack = Stack(
        CloudProcess(servers=servers),
        account={"budget": {"console": {"requests": 100_000, "per_s": 1, "burst": 1_000}}},
        change={"caller_limits": NO_LIMIT, "page": {"enabled": enabled}},
        start=False,
        environ=ENVIRON,
    )
    stack.gateway.config["accounts"][0]["inventory"] = {"poll_s": 60, "age_max_s": 600}
    stack.cloud.rate(rate=1e6, burst=1e6)
    stack.cloud.settings(latency_s=[0.0, 0.0])
    enable_login(stack.gateway)
    stack.gateway.start()
    return stack


def _print_polls() -> None:
    """Let people poll the state of 10,000 servers, of which each person sees all."""
    stack = _stack(_SIZES[0])
    try:
        tokens = [_token(stack, f"person-{number}") for number in range(_PEOPLE)]
        bearers = [{"Authorization": f"Bearer {token}"} for token in tokens]
        _wait_for_list(stack, bearers[0], _SIZES[0])
        browser = LoginBrowser(stack.gateway.url)
        browser.log_in("olga")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        sessions = [{"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}] * _PEOPLE
        for what, path, people in (
            ("JWTs", "/servers/state", bearers),
            ("a session's cookie", "/ui/servers/state", sessions),
        ):
            share, changed = asyncio.run(_poll(stack, path, people))
            print(
                f"{_PEOPLE:,} people who poll {path} every {_POLL_S:.0f} s with {what}:"
                f" {share:.1%} of a core  (target: 10); {changed} of them with a body"
            )
    finally:
        stack.close()


async def _poll(stack: Stack, path: str, people: Sequence[dict[str, str]]) -> tuple[float, int]:
    """Return the share of a core, and how many answers had a body."""
    pids = children(stack.gateway.pid)
    etags: dict[int, str] = {}
    bodies = 0
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def poll(number: int) -> None:
            nonlocal bodies
            headers = {**people[number], "If-None-Match": etags.get(number, "")}
            async with session.get(stack.gateway.url + path, headers=headers) as answer:
                assert answer.status in (200, 304), await answer.text()
                await answer.read()
                etags[number] = answer.headers["ETag"]
                bodies += answer.status == 200

        for number in range(_PEOPLE):
            await poll(number)
        bodies, cpu, began = 0, cpu_seconds(pids), time.perf_counter()
        async with asyncio.TaskGroup() as polls:
            for number in range(int(_POLLED_S * _PEOPLE / _POLL_S)):
                due_at = began + number * _POLL_S / _PEOPLE
                await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
                polls.create_task(poll(number % _PEOPLE))
        return (cpu_seconds(pids) - cpu) / (time.perf_counter() - began), bodies


def _print_memory() -> None:
    count = _SIZES[-1]
    without, with_list = (_worker_mb(count, enabled=enabled) for enabled in (False, True))
    print(
        f"private memory of a worker: {without:.0f} MB without the list of servers,"
        f" {with_list:.0f} MB with {count:,} servers and one list of them"
    )


def _worker_mb(count: int, *, enabled: bool) -> float:
    stack = _stack(count, enabled=enabled)
    try:
        (worker,) = children(stack.gateway.pid)
        if enabled:
            _wait_for_list(stack, {"Authorization": f"Bearer {_token(stack, 'victor')}"}, count)
            time.sleep(65)  # the list is read once more, and the one before is freed
        return memory_mb(worker)["Private"]
    finally:
        stack.close()


def _token(stack: Stack, subject: str) -> str:
    return stack.cloud.token(subject, groups=["viewers"])


def _wait_for_list(stack: Stack, bearer: dict[str, str], count: int) -> None:
    """Wait until the servers are listed, as a browser that accepts gzip."""
    headers = {**bearer, "Accept-Encoding": "gzip"}
    eventually(
        lambda: len(fetch(stack.gateway.url, "GET", "/servers", headers).body) > 5 * count,
        within_s=120,
    )


if __name__ == "__main__":
    main()
