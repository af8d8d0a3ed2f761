"""The port Replicas: one suite for the fake and for Valkey."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.drivers.crypto.sealer import Sealer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey import connection
from gateway.drivers.valkey.replicas import ValkeyReplicas
from gateway.flow.admin.cluster_query import Replicas
from tests.contract.test_shared_store import a_seal_key, a_valkey
from tests.support.budget_queues import until_listening
from tests.support.replicas import FakeReplicas
from tests.support.valkey import RealValkey

TIMEOUT_S = 30.0


class Process:
    """Answers the query `name` and rejects others."""

    def __init__(self, name: str, replicas: Replicas) -> None:
        self.replicas = replicas
        self._name = name.encode()
        self.queries: list[bytes] = []
        replicas.on_query(self._respond)

    async def _respond(self, query: bytes) -> bytes:
        self.queries.append(query)
        if query != b"name":
            raise ValueError("unknown")
        return self._name


Fleet = list[Process]


@pytest.fixture(autouse=True)
def _processes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a process without heartbeats for ten minutes: the machine may be busy."""
    monkeypatch.setattr(connection, "_PROCESS_TTL_MS", 600_000)


@pytest.fixture(params=["memory", "valkey"])
async def fleet(request: pytest.FixtureRequest, shared_valkey: RealValkey) -> AsyncIterator[Fleet]:
    names = ["one", "two", "three"]
    if request.param == "memory":
        together: list[FakeReplicas] = []
        yield [Process(name, FakeReplicas(together)) for name in names]
        return
    key, namespace = a_seal_key(), a_namespace()
    async with AsyncExitStack() as stack:
        yield [
            Process(name, await over(shared_valkey, Sealer([key]), stack, namespace))
            for name in names
        ]


def a_namespace() -> str:
    return f"t-{secrets.token_hex(4)}"


async def over(
    server: RealValkey, sealer: Sealer, stack: AsyncExitStack, namespace: str
) -> ValkeyReplicas:
    valkey = a_valkey(server, namespace=namespace)
    stack.push_async_callback(valkey.close)
    await valkey.probe()
    replicas = ValkeyReplicas(valkey, sealer, SystemClock())
    running = [asyncio.create_task(loop()) for loop in (valkey.run_subscription, replicas.run)]

    async def end() -> None:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    stack.push_async_callback(end)
    await until_listening(valkey)
    await valkey.probe()
    return replicas


async def test_query_reaches_all_other_processes(fleet: Fleet) -> None:
    for process, others in ((fleet[0], {b"two", b"three"}), (fleet[2], {b"one", b"two"})):
        result = await process.replicas.query(b"name", timeout_s=TIMEOUT_S)
        assert (set(result.responses), result.processes) == (others, 3)
    assert [len(process.queries) for process in fleet] == [1, 2, 1]


async def test_process_that_rejects_the_query_is_missing(fleet: Fleet) -> None:
    result = await fleet[0].replicas.query(b"age", timeout_s=0.2)
    assert (list(result.responses), result.processes) == ([], 3)
    assert (await fleet[1].replicas.query(b"name", timeout_s=TIMEOUT_S)).responses


async def test_process_with_other_keys_is_missing(shared_valkey: RealValkey) -> None:
    namespace = a_namespace()
    async with AsyncExitStack() as stack:
        one, stranger = [
            Process(name, await over(shared_valkey, Sealer([a_seal_key()]), stack, namespace))
            for name in ("one", "stranger")
        ]
        result = await one.replicas.query(b"name", timeout_s=0.2)
        assert (list(result.responses), result.processes) == ([], 2)
        assert stranger.queries == []


async def test_query_without_store_returns_at_once(own_valkey: RealValkey) -> None:
    async with AsyncExitStack() as stack:
        one = await over(own_valkey, Sealer([a_seal_key()]), stack, a_namespace())
        own_valkey.kill()
        async with asyncio.timeout(30):
            result = await one.query(b"name", timeout_s=60)
        assert (list(result.responses), result.processes) == ([], 1)
