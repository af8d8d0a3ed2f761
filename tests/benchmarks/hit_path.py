"""The start of a gateway, and its memory with many tokens and links."""

import asyncio
import statistics
import time

from tests.benchmarks.load import children, resident_mb
from tests.support.stack import RunningGateway, Stack, console_path

NO_LIMIT = {"requests": 1e7, "per_s": 1, "burst": 100_000}


def main() -> None:
    stack = Stack(change={"caller_limits": NO_LIMIT})
    try:
        _print_start(stack)
        _print_memory(stack)
    finally:
        stack.close()


def _print_start(stack: Stack) -> None:
    spans = []
    for _ in range(5):
        late = stack.replica(start=False)
        began = time.perf_counter()
        late.start(wait=False)
        token = stack.cloud.token()
        while True:
            try:
                if late.console(token).status == 200:
                    break
            except OSError:
                time.sleep(0.005)
        spans.append(time.perf_counter() - began)
        late.close()
    print(f"first answer after `serve`: median {statistics.median(spans):.2f} s  (asked: 1)")


def _print_memory(stack: Stack) -> None:
    """Cache 10,000 verified tokens and 10,000 links in one process."""
    wide = stack.replica(
        change={"caller_limits": NO_LIMIT},
        account={"budget": {"console": {"requests": 50_000, "per_s": 1, "burst": 1000}}},
    )
    stack.cloud.rate(rate=1e6, burst=1e6)
    stack.cloud.settings(latency_s=[0.0, 0.0])
    asyncio.run(_fill(stack, wide, 10_000))
    tokens, links = wide.metric("gateway_tokens_cached"), wide.metric("gateway_links_cached")
    for pid in children(wide.pid):
        print(f"resident with {tokens:.0f} tokens, {links:.0f} links: {resident_mb(pid):.0f} MB")


async def _fill(stack: Stack, gateway: RunningGateway, count: int) -> None:
    gate = asyncio.Semaphore(32)

    async def one(i: int) -> None:
        async with gate:
            token = await asyncio.to_thread(stack.cloud.token, f"person-{i}")
            answer = await asyncio.to_thread(gateway.console, token, stack.cloud.servers[i % 7])
            assert answer.status == 200, answer.body

    await asyncio.gather(*(one(i) for i in range(count)))


def hit_request(stack: Stack, token: str) -> bytes:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
