"""Connections to Redis that lead to the wrong server, to no server, or to a distant one."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gateway.config.store import RedisCluster, RedisServer, StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from tests.support.budget_queues import CLOCK, SEAL_KEY, AnyRedis, run_loops
from tests.support.tcp_proxy import TcpProxy
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey, free_port, is_cluster_ok, wait_until
from tests.support.waiting import until

SCRIPT = LuaScript("unmark_used")
TIMES: dict[str, float] = {"timeout_s": 4.0, "connect_timeout_s": 10.0}
"""Enough for a busy machine. A test of a server that hangs waits for them."""


class Connected:
    """A process's connection with its background loops, and what it has reported."""

    def __init__(self, redis: AnyRedis, namespace: str, **settings: float) -> None:
        store = StoreSettings(
            redis=redis,
            seal_keys=(SEAL_KEY,),
            namespace=namespace,
            **(TIMES | settings),
        )
        self.telemetry = RecordingTelemetry()
        self.valkey = Valkey(
            store,
            client_factory(store),
            process_id=secrets.token_hex(4),
            clock=CLOCK,
            telemetry=self.telemetry,
        )
        self.messages: list[bytes] = []
        self.valkey.on_message(self.messages.append)

    @classmethod
    @asynccontextmanager
    async def to(
        cls, redis: AnyRedis, namespace: str = "", **settings: float
    ) -> AsyncIterator["Connected"]:
        made = cls(redis, namespace or f"t-{secrets.token_hex(4)}", **settings)
        async with run_loops(made.valkey):
            await until(lambda: made.telemetry.subscribed[-1:] == [True])
            yield made

    async def call(self) -> None:
        await self.valkey.run_script(SCRIPT, [self.valkey.key("k", tag="t")], [])


async def test_demoted_primary_behind_a_name_is_left(own_valkey: RealValkey) -> None:
    """The old primary lives on as a replica: all its connections stay open."""
    other = RealValkey("--replicaof", "127.0.0.1", str(own_valkey.port)).start()
    name = TcpProxy(own_valkey.port)
    try:
        async with name.serve(), Connected.to(RedisServer(url=name.url)) as process:
            channel = process.valkey.channel
            await asyncio.to_thread(wait_until, lambda: other.command("ROLE")[3] == b"connected")
            other.command("REPLICAOF", "NO", "ONE")
            own_valkey.command("REPLICAOF", "127.0.0.1", str(other.port))
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await process.call()
            assert not process.valkey.available
            name.target_port = other.port
            await until(lambda: process.valkey.available)
            await until(lambda: process.telemetry.subscribed[-1])
            assert own_valkey.command("PUBSUB", "NUMSUB", channel)[1] == 0
            assert other.command("PUBSUB", "NUMSUB", channel)[1] == 1
            await process.call()
    finally:
        other.close()


async def test_dead_subscription_is_replaced(own_valkey: RealValkey) -> None:
    """A proxy acknowledges what it no longer delivers; the other connections are fine."""
    async with (
        TcpProxy(own_valkey.port).serve() as proxy,
        Connected.to(RedisServer(url=proxy.url)) as process,
    ):
        await process.call()
        (subscription,) = [one for one in proxy.connections if one.subscribes]
        subscription.swallows = True
        await until(lambda: process.telemetry.subscribed[-2:] == [False, True])
        own_valkey.command("PUBLISH", process.valkey.channel, "arrives")
        await until(lambda: b"arrives" in process.messages)
        assert process.telemetry.store == [True], "the server was available all the time"


async def test_waiters_look_again_after_missed_messages(own_valkey: RealValkey) -> None:
    async with (
        TcpProxy(own_valkey.port).serve() as proxy,
        Connected.to(RedisServer(url=proxy.url)) as process,
    ):
        woken: list[bool] = []
        process.valkey.on_availability_change(lambda: woken.append(True))
        for connection in proxy.connections:
            connection.swallows = connection.subscribes
        await until(lambda: woken)


async def test_dead_connections_cost_one_loss(own_valkey: RealValkey) -> None:
    """Each idle connection of the pool is dead, but only the first call finds out."""
    async with (
        TcpProxy(own_valkey.port).serve() as proxy,
        Connected.to(RedisServer(url=proxy.url)) as process,
    ):
        await asyncio.gather(*(process.call() for _ in range(8)))
        assert len(proxy.connections) > 5
        for connection in proxy.connections:
            connection.swallows = True
        with pytest.raises(StoreUnavailable):
            await process.call()
        await until(lambda: process.valkey.available)
        for _ in range(20):
            await process.call()
            await asyncio.sleep(0.05)
        assert process.telemetry.store == [True, False, True]


async def test_server_that_swallows_all_is_unavailable_once(own_valkey: RealValkey) -> None:
    """A call that waits for a connection ends with the first call that times out."""
    async with (
        TcpProxy(own_valkey.port).serve() as proxy,
        Connected.to(RedisServer(url=proxy.url), timeout_s=1.0) as process,
    ):
        own_valkey.hang()
        began = CLOCK.monotonic()
        calls = await asyncio.gather(*(process.call() for _ in range(30)), return_exceptions=True)
        own_valkey.resume()
        assert all(isinstance(one, StoreUnavailable) for one in calls)
        assert CLOCK.monotonic() - began < 8.0, "a second, and not the ten for a connection"
        await until(lambda: process.valkey.available)


@pytest.mark.parametrize("mode", ["server", "cluster"])
async def test_connection_may_open_slower_than_a_call(mode: str) -> None:
    """As with a distant server: opening a connection takes several round trips."""
    port = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    announced = ("--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", str(port))
    server = RealValkey(*(options + announced if mode == "cluster" else ())).start()
    try:
        if mode == "cluster":
            server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            await asyncio.to_thread(wait_until, lambda: is_cluster_ok(server))
        redis: AnyRedis = (
            RedisCluster(cluster=(f"127.0.0.1:{port}",))
            if mode == "cluster"
            else RedisServer(url=f"redis://127.0.0.1:{port}/0")
        )
        proxy = TcpProxy(server.port)
        proxy.connect_delay_s = 1.5
        async with proxy.serve(port):
            for _ in range(5):
                async with Connected.to(redis, timeout_s=1.0) as process:
                    with suppress(StoreUnavailable):
                        for _ in range(3):
                            await asyncio.gather(*(process.call() for _ in range(12)))
                        if process.telemetry.store == process.telemetry.subscribed == [True]:
                            return
                # Else this process or the server was stopped: the machine is busy.
        pytest.fail("a call has timed out each time")
    finally:
        server.close()


def a_one_node_cluster(host: str, port: int, bus: int) -> RealValkey:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
    node = RealValkey(*options, host=host, port=port).start()
    node.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    wait_until(lambda: is_cluster_ok(node))
    return node


async def test_cluster_with_all_new_addresses_is_found_by_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a restart of every pod: the names are the same, and all addresses have changed."""
    address = "127.0.0.11"
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        return resolve(address if host == "valkey.test" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port, bus = free_port(), free_port()
    node = await asyncio.to_thread(a_one_node_cluster, address, port, bus)
    try:
        async with Connected.to(RedisCluster(cluster=(f"valkey.test:{port}",))) as process:
            await process.call()
            node.close()
            await until(lambda: not process.valkey.available)
            address = "127.0.0.12"
            node = await asyncio.to_thread(a_one_node_cluster, address, port, bus)
            await until(lambda: process.valkey.available)
            await until(lambda: process.telemetry.subscribed[-1])
            await process.call()
    finally:
        node.close()
