"""Memory of the parent and of a worker with 10,000 verified tokens and 10,000 links.

The config has an account with links and one with live consoles; no live console is open. Private
memory belongs to one process; PSS adds its share of the pages that both have in common.
"""

import asyncio
import copy
from pathlib import Path

import aiohttp

from tests.benchmarks.hit_path import NO_LIMIT
from tests.benchmarks.load import children
from tests.support.stack import RunningGateway, Stack, console_path

_COUNT = 10_000
_CONCURRENT = 32
_BUDGET = {"console": {"requests": 50_000, "per_s": 1, "burst": 1000}}
_LIVE_PROJECT = "ffffffffffffffffffffffffffffffff"


def main() -> None:
    stack = Stack(change={"caller_limits": NO_LIMIT}, account={"budget": _BUDGET}, start=False)
    try:
        _add_live_account(stack.gateway)
        gateway = stack.gateway.start()
        stack.cloud.rate(rate=1e6, burst=1e6)
        stack.cloud.settings(latency_s=[0.0, 0.0])
        _print(gateway, "at the start")
        asyncio.run(_fill(stack))
        tokens = gateway.metric("gateway_tokens_cached")
        links = gateway.metric("gateway_links_cached")
        _print(gateway, f"{tokens:,.0f} tokens, {links:,.0f} links")
    finally:
        stack.close()


def _add_live_account(gateway: RunningGateway) -> None:
    config = gateway.config
    (gateway.directory / "console-ca.pem").write_text(gateway.cloud.console_authority())
    config["listen"]["public_url"] = gateway.url
    config["console"] = {"private_networks": ["127.0.0.0/8"]}
    live = copy.deepcopy(config["accounts"][0]) | {
        "name": "live",
        "projects": [_LIVE_PROJECT],
        "console": {"delivery": "proxied"},
        "ca_file": "console-ca.pem",
        "links": {"console_hosts": ["127.0.0.1"]},
    }
    config["accounts"].append(live)
    gateway.write_config()


async def _fill(stack: Stack) -> None:
    gate = asyncio.Semaphore(_CONCURRENT)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:

        async def one(i: int) -> None:
            async with gate:
                wanted = {"subject": f"person-{i}", "groups": ["operators"]}
                async with session.post(f"{stack.cloud.issuer}/_box/tokens", json=wanted) as answer:
                    token = (await answer.json())["token"]
                path = console_path(stack.cloud.project, stack.cloud.servers[i % 7])
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(stack.gateway.url + path, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()

        for i in range(_COUNT):
            group.create_task(one(i))


def _print(gateway: RunningGateway, what: str) -> None:
    (worker,) = children(gateway.pid)
    for name, pid, target in (("worker", worker, 85), ("parent", gateway.pid, 40)):
        found = memory_mb(pid)
        print(
            f"{name}, {what}: private {found['Private']:.0f} MB  (target: {target}),"
            f" PSS {found['Pss']:.0f}, resident {found['Rss']:.0f}"
        )


def memory_mb(pid: int) -> dict[str, float]:
    """Return private, proportional and resident memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(size) / 1024 for name, size, *_ in map(str.split, lines)}
    private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
    return {"Private": private, "Pss": sizes["Pss:"], "Rss": sizes["Rss:"]}


if __name__ == "__main__":
    main()
