"""The cost of the budget: CPU for a call with a free slot, memory for calls that wait."""

import asyncio
import gc
import time
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from gateway.domain.errors import BudgetExhausted
from gateway.domain.model import QueueRequest
from gateway.domain.queue.pacing import Pace
from gateway.drivers.valkey.script import LuaScript
from gateway.flow.fair_budget import BudgetQueue
from tests.benchmarks.load import resident_mb
from tests.support.budget_queues import CLOCK, connect, open_line
from tests.support.valkey import RealValkey

_CALLS = 1_000
_QUEUED = 100_000
_ROUNDS = 3


def main() -> None:
    server = RealValkey().start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_print_memory(server))
            runner.run(_print_cpu(server))
    finally:
        server.close()


async def _print_cpu(server: RealValkey) -> None:
    plain, trivial = Redis.from_url(server.url), LuaScript("extend")
    pace = Pace(requests=100_000, per_s=1, burst=100_000)
    gets, trips, alone, gathered = [], [], [], []
    async with connect(server, "cpu") as valkey, open_line(valkey, pace) as line:
        await asyncio.sleep(2.0)
        for _ in range(_ROUNDS):
            began = time.process_time()
            for _ in range(_CALLS):
                await plain.get("nothing")
            gets.append(time.process_time() - began)
            began = time.process_time()
            for _ in range(_CALLS):
                await valkey.run_script(trivial, ["key"], ["caller", 1])
            trips.append(time.process_time() - began)
            began = time.process_time()
            for _ in range(_CALLS):
                await _admit(line, "ann")
            alone.append(time.process_time() - began)
            began = time.process_time()
            for _ in range(_CALLS // 20):
                await asyncio.gather(*(_admit(line, f"caller-{i}") for i in range(20)))
            gathered.append(time.process_time() - began)
    await plain.aclose()
    get, trip, one, many = (min(spans) / _CALLS * 1e6 for spans in (gets, trips, alone, gathered))
    print("a free slot, CPU of the process per call (best of rounds)")
    print(f"  a bare GET of redis-py   {get:6.1f} µs")
    print(f"  any script {trip:6.1f} µs   the round trip")
    print(
        f"  a slot, one at a time    {one:6.1f} µs   on top of it: {one - trip:.1f}  (target: 60)"
    )
    print(f"  a slot, twenty at once   {many:6.1f} µs")


async def _print_memory(server: RealValkey) -> None:
    async with (
        connect(server, "memory", timeout_s=5.0) as valkey,
        open_line(
            valkey,
            Pace(requests=1, per_s=3_600, burst=1),
            queue_max=_QUEUED + 1,
            wait_max_s=1e10,
        ) as line,
    ):
        await _admit(line, "first")
        gc.collect()
        before_mb, before = resident_mb(_pid()), _used_memory(server)
        waiting = []
        for i in range(_QUEUED):
            waiting.append(asyncio.create_task(_wait(line, f"caller-{i}")))
            if i % 500 == 0:
                await asyncio.sleep(0.01)
        while line.queued < _QUEUED:  # noqa: ASYNC110 - the length has no event
            await asyncio.sleep(0.2)
        gc.collect()
        store_mb = (_used_memory(server) - before) / 1e6
        print(f"{line.queued:,} calls queued: {store_mb:.0f} MB in Valkey, ", end="")
        in_process_mb = resident_mb(_pid()) - before_mb
        print(f"{in_process_mb:.0f} MB in the process, requests' tasks included  (asked: 100)")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _admit(line: BudgetQueue, caller: str) -> None:
    await line.admit(QueueRequest(caller), deadline=CLOCK.monotonic() + 30, requeued=False)


async def _wait(line: BudgetQueue, caller: str) -> None:
    try:
        await line.admit(QueueRequest(caller), deadline=CLOCK.monotonic() + 1e9, requeued=False)
    except BudgetExhausted as refused:
        raise RuntimeError(str(refused)) from None


def _used_memory(server: RealValkey) -> int:
    return int(server.command("INFO", "memory")["used_memory"])


def _pid() -> int:
    return int(Path("/proc/self").resolve().name)
