"""The cost of a durable audit log: the cache-hit path with files beside stdout, interleaved.

Throughput is compared at full load. Below that, both get the same request rate and CPU is
compared: clients that wait for the disk send less, and an idle process spends more per request.
"""

import asyncio
import math
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
        request = hit_request(stack, stack.cloud.token(groups=["operators", "staff"]))
        for per_s, connections in ((1_000, 32), (4_000, 64), (math.inf, 256), (math.inf, 512)):
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
                        per_s=per_s,
                    )
                    measured = asyncio.run(run)
                    assert set(measured.statuses) == {200}, (name, measured.statuses)
                    found[name].append(measured)
            how_often = "closed loop" if per_s == math.inf else f"{per_s} requests per second"
            _print(f"{how_often}, {connections} connections", found)
    finally:
        stack.close()


def _print(title: str, found: dict[str, list[Measured]]) -> None:
    cpu = {name: statistics.median(one.cpu_us for one in all_) for name, all_ in found.items()}
    print(f"cache-hit path by audit log destination, {title}")
    for name, us in cpu.items():
        rate = statistics.median(one.per_s for one in found[name])
        more = us / cpu["stdout"] - 1
        target = "  (target: at most +15 %)" if name == "files" else ""
        print(f"  {name:7} {us:7.1f} µs CPU   {rate:8.0f}/s   {more:+.0%}{target}")


if __name__ == "__main__":
    main()
