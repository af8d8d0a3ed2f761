"""What a durable trail costs: the cache-hit path with files beside stdout, turn by turn.

With few connections all callers wait for the disk and the process idles, so that neither figure is
that of a busy gateway: the cost is read where the connections keep it busy.
"""

import asyncio
import statistics
from typing import Any

from tests.benchmarks.hit_path import NO_LIMIT, hit_request
from tests.benchmarks.load import Measured, children, measure
from tests.support.stack import Stack

_ROUNDS = 4
_SECONDS = 2.0
_KINDS: dict[str, dict[str, Any]] = {
    "stdout": {"stdout": True},
    "files": {"directory": "audit"},
    "stream": {"stream": True},
}


def main() -> None:
    change: dict[str, Any] = {"caller_limits": NO_LIMIT}
    stack = Stack(change={**change, "audit": _KINDS["stdout"]})
    try:
        gateways = {"stdout": stack.gateway}
        for name in _KINDS.keys() - gateways.keys():
            gateways[name] = stack.replica(change={**change, "audit": _KINDS[name]})
        request = hit_request(stack, stack.box.token(groups=["operators", "staff"]))
        for connections in (16, 64, 256):
            found: dict[str, list[Measured]] = {name: [] for name in _KINDS}
            for _ in range(_ROUNDS):
                for name in _KINDS:
                    gateway = gateways[name]
                    run = measure(
                        "127.0.0.1",
                        gateway.port,
                        children(gateway.pid),
                        request,
                        seconds=_SECONDS,
                        connections=connections,
                    )
                    measured = asyncio.run(run)
                    assert set(measured.statuses) == {200}, (name, measured.statuses)
                    found[name].append(measured)
            _print(connections, found)
    finally:
        stack.close()


def _print(connections: int, found: dict[str, list[Measured]]) -> None:
    cpu = {name: statistics.median(one.cpu_us for one in all_) for name, all_ in found.items()}
    print(f"cache-hit path by where its audit record goes, {connections} connections")
    for name, us in cpu.items():
        rate = statistics.median(one.per_s for one in found[name])
        more = us / cpu["stdout"] - 1
        asked = "  (asked: at most +15 %)" if name == "files" and connections > 16 else ""
        print(f"  {name:7} {us:7.1f} µs CPU   {rate:8.0f}/s   {more:+.0%}{asked}")
