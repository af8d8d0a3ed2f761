"""2,000 live consoles over three replicas: their cost when idle, and how soon one of them ends.

Real processes: three gateways, Valkey, the simulated cloud's screens behind TLS. This process is
every browser. `python -m tests.benchmarks.many_sessions 200` runs with fewer sessions.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from aiohttp import ClientSession, DummyCookieJar, TCPConnector

from gateway.domain.consoles import ends
from tests.benchmarks.load import children, cpu_seconds
from tests.support import rfb
from tests.support.live_delivery import (
    ADMIN_API,
    PROJECT,
    admin_headers,
    admin_post,
    deliver_live,
)
from tests.support.live_page import LivePage
from tests.support.stack import CloudProcess, RunningGateway, Stack, console_path

_SESSIONS: Final = 2_000
_REPLICAS: Final = 3
_OPENED_AT_ONCE: Final = 24
_TRIES: Final = 30
_SAMPLES: Final = 10
_IDLE_S: Final = 30.0
_TARGET_S: Final = 1.0
_NO_LIMIT: Final = {"requests": 1e7, "per_s": 1, "burst": 100_000}
_BUDGET: Final = {
    "console": {"requests": 100_000, "per_s": 1, "burst": 1_000},
    "iam": {"requests": 50, "per_s": 1, "burst": 5},
    "wait_max_s": 20,
}


@dataclass(frozen=True, slots=True)
class _Open:
    """One session, and the replica that has it."""

    subject: str
    page: LivePage
    gateway: RunningGateway


def main(count: int = _SESSIONS) -> None:
    stack, replicas = _start(count)
    try:
        asyncio.run(_run(stack, replicas, count))
    finally:
        stack.close()


def _start(count: int) -> tuple[Stack, list[RunningGateway]]:
    cloud = CloudProcess(
        "--live-project", PROJECT, "--rate", "1e6", "--burst", "1e6", "--latency", "0", "0",
        servers=count, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    options = {
        "admin_api": ADMIN_API,
        "account": {"budget": _BUDGET},
        "change": {"caller_limits": _NO_LIMIT},
    }
    stack = Stack(cloud, start=False, **options)
    replicas = [stack.gateway, *(stack.replica(start=False, **options) for _ in range(2))]
    assert len(replicas) == _REPLICAS
    for gateway in replicas:
        deliver_live(gateway, public_url=stack.gateway.url, sessions_max=10 * count)
        gateway.config["accounts"][0]["console"]["sessions_max"] = 10 * count
        gateway.write_config()
        gateway.write_policy(_policy())
        gateway.start()
    return stack, replicas


def _policy(*denied: str) -> dict[str, Any]:
    grant = {
        "role": "operator",
        "to": {"groups": ["operators"]},
        "on": {"projects": [PROJECT]},
    }
    denials = [
        {"role": "operator", "to": {"users": [one]}, "on": {"projects": [PROJECT]}}
        for one in denied
    ]
    roles = {"operator": ["console:open"]}
    return {"roles": roles, "grants": [grant]} | ({"denials": denials} if denied else {})


async def _run(stack: Stack, replicas: list[RunningGateway], count: int) -> None:
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as client:
        began = time.perf_counter()
        sessions = await _open_all(stack, replicas, client, count)
        print(
            f"{count} live consoles over {_REPLICAS} replicas, opened in"
            f" {time.perf_counter() - began:.0f} s"
        )
        await _print_idle(replicas, count)
        headers = await asyncio.to_thread(admin_headers, stack.cloud)
        left = iter(sessions[:: max(1, count // (4 * _SAMPLES))])
        await _print_ends("operator", left, replicas, _by_operator(headers), 4001)
        await _print_ends("revocation", left, replicas, _by_revocation(headers), 4002)
        await _print_ends("policy", left, replicas, _by_policy(replicas), 4002)
        open_now = sum(one.page.close_code is None for one in sessions)
        print(f"  {open_now} of {count} run on (expected: {count - 3 * _SAMPLES})")


async def _open_all(
    stack: Stack, replicas: list[RunningGateway], client: ClientSession, count: int
) -> list[_Open]:
    numbers = iter(range(count))
    opened: list[_Open] = []

    async def open_some() -> None:
        for number in numbers:
            server = stack.cloud.servers[number]
            opened.append(await _open(stack, replicas[number % _REPLICAS], client, number, server))

    async with asyncio.TaskGroup() as group:
        for _ in range(_OPENED_AT_ONCE):
            _ = group.create_task(open_some())
    return opened


async def _open(
    stack: Stack, gateway: RunningGateway, client: ClientSession, number: int, server: str
) -> _Open:
    """Open a console, and request the next change of its screen, as noVNC does."""
    subject = f"person-{number}"
    token = await asyncio.to_thread(stack.cloud.token, subject)
    page = LivePage(client, gateway.url, origin=gateway.config["listen"]["public_url"])
    headers, status = {"Authorization": f"Bearer {token}"}, 0
    for attempt in range(_TRIES):
        # 503: the store was slow for a moment, and may have spent the ticket.
        path = console_path(PROJECT, server)
        async with client.get(gateway.url + path, headers=headers) as issued:
            data = json.loads(await issued.read())
        if issued.status == HTTPStatus.OK:
            ticket = data["url"].partition("#")[2]
            status, data = await page.redeem(ticket, take_over=attempt > 0)
            if status == HTTPStatus.OK:
                break
        await asyncio.sleep(1.0)
    assert status == HTTPStatus.OK, data
    for _ in range(_TRIES):
        await page.connect()
        with suppress(AssertionError):
            await page.until_live()
            break
        assert page.close_code == ends.MOVE.code  # as above
        await asyncio.sleep(1.0)
    await page.initialise()
    await page.send_rfb(rfb.set_encodings(1, 5, 0) + rfb.update_request(incremental=True))
    return _Open(subject, page, gateway)


async def _print_idle(replicas: list[RunningGateway], count: int) -> None:
    pids = [pid for one in replicas for pid in (one.pid, *children(one.pid))]
    await asyncio.sleep(2.0)
    cpu, began = cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(_IDLE_S)
    load = (cpu_seconds(pids) - cpu) / (time.perf_counter() - began)
    print(
        f"  idle: {load:.1%} of a core over all replicas,"
        f" {load / count * 1e6:.0f} us of CPU a second for each session"
    )


_End = Callable[[_Open, RunningGateway], Awaitable[float]]
"""Ends a session through a replica that does not have it; returns the time at which it was ended,
in seconds since the epoch."""


async def _print_ends(
    name: str, sessions: Any, replicas: list[RunningGateway], end: _End, code: int
) -> None:
    took: list[float] = []
    for _ in range(_SAMPLES):
        one = next(sessions)
        other = replicas[(replicas.index(one.gateway) + 1) % _REPLICAS]
        closed = asyncio.create_task(_closed_at(one.page, code))
        ended_at = await end(one, other)
        took.append(await closed - ended_at)
        await asyncio.sleep(0.2)
    print(
        f"  ended by {name}: median {statistics.median(took):.2f} s,"
        f" worst of {_SAMPLES} {max(took):.2f} s (target: {_TARGET_S:.0f} s)"
    )


async def _closed_at(page: LivePage, code: int) -> float:
    found = await page.until_closed()
    assert found == code, found
    return time.time()


def _by_operator(headers: dict[str, str]) -> _End:
    async def end(one: _Open, other: RunningGateway) -> float:
        began, body = time.time(), {"id": one.page.session_id}
        await asyncio.to_thread(admin_post, other, "/admin/consoles/end", headers, body)
        return began

    return end


def _by_revocation(headers: dict[str, str]) -> _End:
    async def end(one: _Open, other: RunningGateway) -> float:
        began = time.time()
        body = {"issuer": "corp", "subject": one.subject, "reason": "benchmark"}
        await asyncio.to_thread(admin_post, other, "/admin/revocations", headers, body)
        return began

    return end


def _by_policy(replicas: list[RunningGateway]) -> _End:
    """Time counts from the loading of the changed file: a replica looks for it each second."""
    denied: list[str] = []

    async def end(one: _Open, other: RunningGateway) -> float:
        del other
        denied.append(one.subject)
        loaded = len(await asyncio.to_thread(one.gateway.log_lines, "policy_loaded"))
        for gateway in replicas:
            gateway.write_policy(_policy(*denied))
        while True:
            lines = await asyncio.to_thread(one.gateway.log_lines, "policy_loaded")
            if len(lines) > loaded:
                return datetime.fromisoformat(lines[-1]["time"]).timestamp()

    return end


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:]))
