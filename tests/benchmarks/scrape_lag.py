"""Lag of the event loop while metrics are rendered, in a thread and in the loop."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import quantiles

from gateway.drivers.telemetry.metrics import Metrics
from gateway.edge.error_table import SERVER_FAILURES

SCRAPES = 40
BEAT_S = 0.001
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def a_full_page() -> Metrics:
    """Return the metrics of a gateway with 20 accounts and 5 issuers, all series present."""
    metrics = Metrics()
    metrics.begin(
        accounts=[f"account-{i}" for i in range(20)],
        issuers=[f"issuer-{i}" for i in range(5)],
        links=["ShowRemoteConsole"],
        failures=SERVER_FAILURES,
        actions=[f"Action{i}" for i in range(10)],
    )
    return metrics


async def lateness(scrape: Callable[[], Awaitable[object]]) -> list[float]:
    """Return the lag of each loop tick in seconds during consecutive scrapes."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            due = time.perf_counter() + BEAT_S
            await asyncio.sleep(BEAT_S)
            late.append(time.perf_counter() - due)

    beating = asyncio.create_task(beat())
    for _ in range(SCRAPES):
        await scrape()
        await asyncio.sleep(0.02)
    beating.cancel()
    return late


def main() -> None:
    sys.setswitchinterval(0.001)  # as in gateway/process/worker.py
    metrics = a_full_page()
    body, _ = metrics.render(OPENMETRICS)
    began = time.perf_counter()
    metrics.render(OPENMETRICS)
    took_ms = (time.perf_counter() - began) * 1000

    async def nothing() -> None:
        await asyncio.sleep(took_ms / 1000)

    async def inside() -> None:
        metrics.render(OPENMETRICS)

    async def beside() -> None:
        await asyncio.to_thread(metrics.render, OPENMETRICS)

    lines = len(body.splitlines())
    print(f"scrape: {lines} lines, {took_ms:.1f} ms of CPU; the loop is late by, ms")
    for name, scrape in (("no scrape", nothing), ("beside it", beside), ("in it", inside)):
        late = sorted(asyncio.run(lateness(scrape)))
        p99 = quantiles(late, n=100)[98]
        print(f"  {name:10} p99 {p99 * 1000:6.2f}  worst {late[-1] * 1000:6.2f}")
