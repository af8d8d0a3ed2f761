"""A changed policy file: when it is in force in every worker, and the hit path's latency meanwhile.

The load is open-loop: a request is due at its time, whether or not earlier ones were answered, and
its latency counts from then.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.benchmarks.drive import Driver
from tests.benchmarks.hit_path import NO_LIMIT, hit_request
from tests.support.stack import RunningGateway, Stack

_GRANTS = (10_000, 100_000)
_WORKERS = 2
_PER_S = 1_000
_CONNECTIONS = 32
_BEFORE_S = 4.0
_WITHIN_S = 60.0


def main() -> None:
    stack = Stack(change={"caller_limits": NO_LIMIT, "audit": {"stdout": True}}, workers=_WORKERS)
    try:
        request = hit_request(stack, stack.cloud.token(groups=["operators"]))
        for count in _GRANTS:
            text = policy_text(stack, count)
            before, during, in_force_s = _reload(stack.gateway, request, text, count)
            print(
                f"a policy of {count:,} grants ({len(text) / 1e6:.1f} MB), {_WORKERS} workers:"
                f" in force everywhere after {in_force_s:.2f} s"
            )
            for name, found in (("before", before), ("meanwhile", during)):
                p50, p99, worst = (
                    found[int((len(found) - 1) * one)] * 1e3 for one in (0.5, 0.99, 1.0)
                )
                print(
                    f"  hits at {_PER_S}/s {name:9} p50 {p50:6.2f}  p99 {p99:6.2f}"
                    f"  worst {worst:6.2f} ms"
                )
    finally:
        stack.close()


def policy_text(stack: Stack, count: int) -> str:
    """Return a policy with `count` grants to as many people, and those of the stack."""
    lines = ["roles: {op: [console:open, server:read]}", "grants:"]
    project = stack.cloud.project
    lines.append(f"  - {{role: op, to: {{groups: [operators]}}, on: {{projects: [{project}]}}}}")
    lines += [
        f"  - role: op\n    to: {{users: [person-{i}]}}\n"
        f"    on: {{servers: [4fd9b0c4-55d6-4e3c-9bb6-{i:012x}]}}"
        for i in range(count - 1)
    ]
    return "\n".join(lines) + "\n"


def _reload(
    gateway: RunningGateway, request: bytes, text: str, count: int
) -> tuple[list[float], list[float], float]:
    """Return the sorted latencies before and during the reload, and its duration."""
    load = partial(Driver.opened, per_s=_PER_S, spins=False)
    with (
        Driver(gateway.port, [request], connections=_CONNECTIONS, pids=()) as driver,
        ThreadPoolExecutor(1) as waiting,
    ):
        load(driver, seconds=1.0)
        before = load(driver, seconds=_BEFORE_S)
        new = gateway.policy_file.with_suffix(".new")
        new.write_text(text)
        began = time.perf_counter()
        new.replace(gateway.policy_file)
        in_force = waiting.submit(_wait, gateway, count)
        during: list[float] = []
        while not in_force.done():
            during += load(driver, seconds=0.5)
        return before, sorted(during), in_force.result() - began


def _wait(gateway: RunningGateway, count: int) -> float:
    """Return when each worker has logged that the policy is in force: a scrape costs more."""
    loaded, deadline = 0, time.monotonic() + _WITHIN_S
    with (gateway.directory / "log").open("rb") as log:
        log.seek(0, os.SEEK_END)
        while loaded < _WORKERS:
            assert time.monotonic() < deadline, "the policy is not in force"
            lines = [line for line in log if b'"policy_loaded"' in line and b'"rules":' in line]
            loaded += sum(json.loads(line)["rules"] == count for line in lines)
            time.sleep(0.01)
    return time.perf_counter()


if __name__ == "__main__":
    main()
