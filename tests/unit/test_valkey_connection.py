"""Valkey: availability, probes and heartbeats."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.config.store import RedisServer, StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import Secret
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.rights import TRY_COMMANDS
from gateway.drivers.valkey.script import LuaScript
from tests.support.telemetry import RecordingTelemetry
from tests.support.virtual_time import VirtualClock, run_virtually

SCRIPT = LuaScript("extend")
STORE = StoreSettings(
    redis=RedisServer(url="redis://nowhere"),
    seal_keys=(Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),),
    timeout_s=0.1,
)


class Server:
    """Responds to each call after a delay, or fails it."""

    def __init__(self) -> None:
        self.up = True
        self.delay_s = 0.001
        self.calls_at: list[float] = []

    async def evalsha(self, digest: str, *_: Any) -> int:
        self.calls_at.append(asyncio.get_running_loop().time())
        was_up = self.up
        await asyncio.sleep(self.delay_s)
        if not was_up:
            raise RedisConnectionError
        return 1

    async def eval(self, text: str, *_: Any) -> list[bytes]:
        assert text == TRY_COMMANDS.text
        await self.evalsha(TRY_COMMANDS.digest)
        return []


def a_valkey(server: Server) -> tuple[Valkey, RecordingTelemetry]:
    telemetry, client = RecordingTelemetry(), server
    unchecked: Any = client
    valkey = Valkey(
        STORE, lambda: unchecked, process_id="p", clock=VirtualClock(), telemetry=telemetry
    )
    return valkey, telemetry


class CountedEvent(asyncio.Event):
    """Fails a loop that waits for it repeatedly while it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_while_set = 0

    async def wait(self) -> bool:  # type: ignore[override]
        self.waits_while_set += self.is_set()
        assert self.waits_while_set < 100, "the loop spins"
        return await super().wait()


def test_failed_call_during_probe_does_not_spin_heartbeat() -> None:
    async def scenario() -> None:
        server = Server()
        valkey, _ = a_valkey(server)
        valkey._lost = CountedEvent()
        beating = asyncio.create_task(valkey.run_heartbeat())
        await asyncio.sleep(0.1)
        server.delay_s = 0.08
        await asyncio.sleep(0.42)  # the next probe is in flight
        server.up = False
        server.delay_s = 0.02
        with pytest.raises(StoreUnavailable):
            await valkey.run_script(SCRIPT, ["k"], ["owner", 1])
        server.up = True
        await asyncio.sleep(3.0)
        assert not beating.done()
        assert valkey.available
        beating.cancel()

    run_virtually(scenario())


def test_lost_server_is_found_within_150_ms() -> None:
    async def scenario() -> None:
        server = Server()
        valkey, telemetry = a_valkey(server)
        beating = asyncio.create_task(valkey.run_heartbeat())
        await asyncio.sleep(20.0)
        server.up = False
        await asyncio.sleep(5.0)
        assert not valkey.available
        server.up = True
        await asyncio.sleep(0.15)
        assert valkey.available
        assert telemetry.store == [True, False, True]
        beating.cancel()

    run_virtually(scenario())


class ListeningClient(Server):
    """Receives what its heartbeats publish, until it swallows all messages."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.swallows = False
        self.subscribed_at: list[float] = []

    async def evalsha(self, digest: str, *rest: Any) -> int:
        processes = await super().evalsha(digest)
        channel, number = rest[-2:] if digest == LuaScript("heartbeat").digest else ("", 0)
        if channel and not self.swallows:
            message = {"type": "message", "channel": channel.encode(), "data": b"%d" % number}
            self.inbox.put_nowait(message)
        return processes

    @asynccontextmanager
    async def pubsub(self) -> AsyncIterator["ListeningClient"]:
        self.inbox, self.swallows = asyncio.Queue(), False
        yield self

    async def subscribe(self, *channels: str) -> None:
        self.subscribed_at.append(asyncio.get_running_loop().time())
        for channel in channels:
            self.inbox.put_nowait({"type": "subscribe", "channel": channel.encode()})

    async def get_message(self, **_: Any) -> dict[str, Any]:
        return await self.inbox.get()


def test_dead_subscription_is_replaced_within_a_second() -> None:
    async def scenario() -> None:
        server = ListeningClient()
        valkey, telemetry = a_valkey(server)
        loops = [
            asyncio.create_task(one()) for one in (valkey.run_heartbeat, valkey.run_subscription)
        ]
        await asyncio.sleep(20.0)
        assert len(server.subscribed_at) == 1
        server.swallows, died_at = True, asyncio.get_running_loop().time()
        await asyncio.sleep(20.0)
        _, again_at = server.subscribed_at
        assert again_at - died_at < 1.0
        assert telemetry.store == [True], "the server was available all the time"
        for loop in loops:
            loop.cancel()

    run_virtually(scenario())


def test_flapping_server_is_probed_less_often() -> None:
    async def scenario() -> None:
        server = Server()
        valkey, telemetry = a_valkey(server)
        beating = asyncio.create_task(valkey.run_heartbeat())
        for _ in range(200):
            await asyncio.sleep(0.1)
            if valkey.available:
                server.up = False
                with pytest.raises(StoreUnavailable):
                    await valkey.run_script(SCRIPT, ["k"], ["owner", 1])
                server.up = True
        assert telemetry.store.count(True) <= 16, "20 s, with 2 s between the last probes"
        await asyncio.sleep(15.0)
        assert valkey.available
        beating.cancel()

    run_virtually(scenario())


def test_calls_fail_at_once_while_unavailable() -> None:
    async def scenario() -> None:
        server = Server()
        server.up = False
        valkey, _ = a_valkey(server)
        assert not await valkey.probe()
        calls = len(server.calls_at)
        for _ in range(1_000):
            with pytest.raises(StoreUnavailable):
                await valkey.run_script(SCRIPT, ["k"], ["owner", 1])
        assert len(server.calls_at) == calls

    run_virtually(scenario())


def test_silent_server_is_unavailable_after_timeout() -> None:
    async def scenario() -> None:
        server = Server()
        valkey, _ = a_valkey(server)
        assert await valkey.probe()
        server.delay_s = 60.0
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreUnavailable):
            await valkey.run_script(SCRIPT, ["k"], ["owner", 1])
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.1, abs=0.01)
        assert not valkey.available

    run_virtually(scenario())
