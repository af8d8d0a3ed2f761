"""`make soak`: 20 minutes of mixed load with faults; reports growth of resources.

The first quarter is a warm-up: caches fill, and the load is higher than later. Requests may fail
during a fault. Outside of fault periods no request may fail, and no resource may grow.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from gateway.commands.audit_verify import verify_audit_log
from tests.soak.verdicts import (
    Response,
    Sample,
    Verdict,
    is_failure,
    length_s,
    verdicts,
    windows,
)
from tests.support.stack import CloudProcess, Stack, console_path, eventually
from tests.support.steady_load import SteadyLoad, Target, Wanted, request_head

WORKERS = 2
MIB = 1024 * 1024
WARM_UP_RATE = 4 / 3
"""Relative to the later load. The allocator keeps the memory that the warm-up needed."""
SERVERS = 40
CALLERS = 200
SETTINGS: dict[str, Any] = {
    # Small enough to be full before the warm-up ends.
    "cache": {"tokens_max": 150, "links_max": 25},
    "audit": {"directory": "audit", "segment_bytes_max": 1_048_576},
    "log": {"level": "error", "hit_sample_ratio": 0.01},
    "request": {"deadline_s": 8, "drain_s": 5},
}
ACCOUNT: dict[str, Any] = {
    "links": {"lifetime_s": 20, "min_remaining_s": 3, "renew_before_s": 5, "reuse": "shared"},
    "budget": {
        "console": {"requests": 60, "per_s": 1, "burst": 30},
        "iam": {"requests": 50, "per_s": 1, "burst": 5},
        "wait_max_s": 5,
    },
    "breaker": {"calls_min": 10, "open_s": 0.5, "open_max_s": 2},
    "timeouts": {"connect_s": 2, "read_s": 3, "total_s": 4},
}
STORE_TIMEOUT_S = 1


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    begin: Callable[[Stack], object]
    end: Callable[[Stack], object]
    wears_off_s: float = 5.0
    """Until pauses, breaker and back-off have ended; shorter in a short soak."""


def _policy_changed(stack: Stack) -> None:
    policy = json.loads(stack.gateway.policy_file.read_text())
    stack.gateway.write_policy({**policy, "grants": [*reversed(policy["grants"])]})


FAULTS = (
    Fault(
        "the cloud says 429",
        lambda stack: stack.cloud.fail(
            stack.cloud.upstream, "throttled", path="remote-console", headers={"Retry-After": "1"}
        ),
        lambda stack: stack.cloud.heal(),
    ),
    Fault("Redis hangs", lambda stack: stack.valkey.hang(), lambda stack: stack.valkey.resume()),
    Fault(
        "the cloud breaks connections",
        lambda stack: stack.cloud.fail(stack.cloud.upstream, "reset"),
        lambda stack: stack.cloud.heal(),
    ),
    Fault("the policy changes", _policy_changed, _policy_changed),
    Fault("Redis dies", lambda stack: stack.valkey.kill(), lambda stack: stack.valkey.start()),
    Fault(
        "the issuer is unavailable",
        lambda stack: stack.cloud.fail(stack.cloud.issuer, "reset", path="/jwks"),
        lambda stack: stack.cloud.heal(),
    ),
    Fault(
        "IAM is unavailable and the service token is revoked",
        lambda stack: (
            stack.cloud.fail(stack.cloud.iam, "reset"),
            stack.cloud.revoke_service_tokens(),
        ),
        lambda stack: stack.cloud.heal(),
        wears_off_s=16.0,
    ),
)


class Callers:
    """A changing population, which makes the token cache evict entries."""

    def __init__(self, cloud: CloudProcess) -> None:
        self._cloud = cloud
        self._random = random.Random(3)
        self._count = 0
        self.tokens = [self._new() for _ in range(CALLERS)]
        self.expired = cloud.token(life_s=-600)
        self.forged = cloud.token(forged="signature")

    def replace_one(self) -> None:
        self.tokens[self._random.randrange(CALLERS)] = self._new()

    def any(self) -> str:
        return self._random.choice(self.tokens)

    def server(self) -> str:
        """Return a server; popularity is skewed."""
        return self._cloud.servers[min(int(self._random.expovariate(0.15)), SERVERS - 2)]

    def _new(self) -> str:
        self._count += 1
        return self._cloud.token(f"caller-{self._count}")


def mix(callers: Callers, cloud: CloudProcess) -> list[Wanted]:
    """Return the kinds of requests with their weights; any response is accepted here."""

    def get(path: str, token: str, *more: str) -> bytes:
        return request_head("GET", path, token, *more)

    def link(token: str, *more: str) -> bytes:
        return get(console_path(cloud.project, callers.server()), token, *more)

    servers = f"/v1/{cloud.project}/physicalservers"
    hidden = console_path(cloud.project, cloud.servers[-1])
    kinds: dict[str, tuple[float, Callable[[], bytes]]] = {
        "link": (70, lambda: link(callers.any())),
        "link of a regular": (20, lambda: link(callers.tokens[0])),
        "fresh link": (1, lambda: link(callers.any(), "Cache-Control: no-cache")),
        "server": (2, lambda: get(f"{servers}/{callers.server()}", callers.any())),
        "list": (1, lambda: get(servers, callers.any())),
        "denied": (2, lambda: get(hidden, callers.any())),
        "expired": (2, lambda: link(callers.expired)),
        "forged": (1, lambda: link(callers.forged)),
        "no such path": (1, lambda: get("/v1/x/nothing", callers.any())),
    }
    return [Wanted(name, weight, make, lambda *_: True) for name, (weight, make) in kinds.items()]


class Soak:
    def __init__(self, stack: Stack, seconds: float, *, rate: float) -> None:
        self._stack = stack
        self._seconds = seconds
        self._warm_s = seconds / 4
        self._rate = rate
        self._period_s = seconds / (4 * len(FAULTS))
        self._callers = Callers(stack.cloud)
        self._began = time.monotonic()
        self._calm_from = 0.0
        self.responses: Counter[Response] = Counter()
        self._failed_at: Counter[str] = Counter()
        self._times: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.samples: list[Sample] = []

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def is_calm(self) -> bool:
        return self.now_s >= self._calm_from

    def run(self) -> None:
        gateway = self._stack.gateway
        wanted = mix(self._callers, self._stack.cloud)
        targets = [Target(gateway.port)]
        load = SteadyLoad(targets, wanted, per_s=self._rate * WARM_UP_RATE, on_response=self._count)
        next_fault_s, turn = 2.0, 0
        with load.running():
            self._kill_a_worker()
            while self.now_s < self._seconds:
                if self.now_s >= self._warm_s:
                    load.per_s = self._rate
                if self.now_s >= next_fault_s:
                    self._inject(FAULTS[turn % len(FAULTS)], for_s=min(8.0, self._period_s / 3))
                    next_fault_s, turn = next_fault_s + self._period_s, turn + 1
                self._callers.replace_one()
                self._sample()
                time.sleep(min(1.0, self._seconds / 100))

    def report(self) -> list[Verdict]:
        before, after = windows(self.samples, warm_s=self._warm_s, ends_s=self._seconds)
        if before and after:
            self._print_table(before, after)
        return verdicts(before, after, self.responses)

    def _inject(self, fault: Fault, *, for_s: float) -> None:
        memory = f"{self.samples[-1].private / MIB:.1f} MiB" if self.samples else ""
        print(f"{self.now_s:7.0f} s  {memory:>10}  {fault.name}, for {for_s:.0f} s", flush=True)
        self._calm_from = float("inf")
        fault.begin(self._stack)
        time.sleep(for_s)
        fault.end(self._stack)
        self._calm_from = self.now_s + min(fault.wears_off_s, self._period_s / 4)

    def _kill_a_worker(self) -> None:
        """Kill a worker at the start; its successor starts with fresh memory."""
        self._calm_from = float("inf")
        gateway = self._stack.gateway
        killed = gateway.workers()[0]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: killed not in gateway.workers() and len(gateway.workers()) == WORKERS)
        eventually(self._all_answer)
        self._calm_from = self.now_s

    def _all_answer(self) -> bool:
        gateway = self._stack.gateway
        try:
            for i in range(WORKERS):
                gateway.metrics(gateway.admin_port + i)
        except OSError:
            return False
        return True

    def _count(self, kind: str, status: int, error_code: str, seconds: float) -> None:
        was_calm = self.is_calm
        self.responses[Response(kind, status, was_calm, error_code)] += 1
        window_s = length_s(warm_s=self._warm_s, ends_s=self._seconds)
        at_s = self.now_s
        if was_calm and is_failure(status):
            self._failed_at[f"{at_s:7.0f} s  {kind}: {status} {error_code}"] += 1
        if not was_calm or not 200 <= status < 300:
            return
        if self._warm_s <= at_s < self._warm_s + window_s:
            self._times["start", kind].append(seconds)
        elif at_s >= self._seconds - window_s:
            self._times["end", kind].append(seconds)

    def _sample(self) -> None:
        gateway = self._stack.gateway
        workers = [Path(f"/proc/{pid}") for pid in gateway.workers()]
        memory = [_memory(worker) for worker in workers]
        tasks = sum(
            gateway.metric("gateway_tasks", port=gateway.admin_port + i) for i in range(WORKERS)
        )
        self.samples.append(
            Sample(
                at_s=self.now_s,
                is_calm=self.is_calm,
                resident=sum(one["Rss"] for one in memory),
                private=sum(one["Private_Clean"] + one["Private_Dirty"] for one in memory),
                descriptors=sum(len(list((worker / "fd").iterdir())) for worker in workers),
                tasks=int(tasks),
            )
        )

    def _print_table(self, before: list[Sample], after: list[Sample]) -> None:
        rows: list[tuple[str, str, str]] = [("", "start", "end")]
        for name, of, unit in (
            ("resident MiB", lambda s: s.resident / MIB, ".1f"),
            ("private MiB", lambda s: s.private / MIB, ".1f"),
            ("descriptors", lambda s: s.descriptors, ".0f"),
            ("tasks", lambda s: s.tasks, ".0f"),
        ):
            rows.append((name, *(f"{median(map(of, some)):{unit}}" for some in (before, after))))
        for kind in sorted({kind for _, kind in self._times}):
            for part, at in (("p50", 49), ("p99", 98)):
                values = [_percentile(self._times[when, kind], at) for when in ("start", "end")]
                rows.append((f"{kind}, {part} ms", *values))
        print()
        for row in rows:
            print(f"{row[0]:32} {row[1]:>12} {row[2]:>12}")
        print("\nResponses outside of and during fault periods:")
        for was_calm in (True, False):
            counts: Counter[str] = Counter()
            for one, count in self.responses.items():
                if one.was_calm == was_calm:
                    counts[f"{one.status} {one.error_code}".rstrip()] += count
            print(f"  {'calm' if was_calm else 'fault':5}", dict(sorted(counts.items())))
        for failed, count in self._failed_at.items():
            print(f"{failed}, {count} times")


def _percentile(seconds: list[float], at: int) -> str:
    return f"{quantiles(seconds, n=100)[at] * 1000:.1f}" if len(seconds) > 1 else "-"


def _memory(process: Path) -> Mapping[str, int]:
    lines = (process / "smaps_rollup").read_text().splitlines()[1:]
    parts = (line.split() for line in lines)
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in parts}


@contextmanager
def a_stack() -> Iterator[Stack]:
    cloud = CloudProcess(
        "--rate", "80", "--burst", "80", servers=SERVERS, stderr=subprocess.DEVNULL
    )
    stack = Stack(cloud, workers=WORKERS, change=SETTINGS, account=ACCOUNT, start=False)
    stack.gateway.config["store"]["timeout_s"] = STORE_TIMEOUT_S
    stack.gateway.write_config()
    try:
        stack.gateway.start()
        yield stack
    finally:
        stack.close()


def soak(seconds: float, *, rate: float) -> int:
    """Run, print the report, and return 0 if every verdict is good, otherwise 1."""
    with a_stack() as stack:
        running = Soak(stack, seconds, rate=rate)
        running.run()
        found = running.report()
        stack.gateway.stop()
        print()
        is_intact = (
            verify_audit_log([stack.gateway.directory / "audit"], [], [], as_json=False) == 0
        )
    found.append(Verdict(is_intact, f"The audit log is {'intact' if is_intact else 'broken'}."))
    print()
    for verdict in found:
        print("ok  " if verdict.is_good else "BAD ", verdict.sentence)
    return 0 if all(verdict.is_good for verdict in found) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=150.0, help="requests per second")
    options = parser.parse_args()
    sys.exit(soak(options.minutes * 60, rate=options.rate))
