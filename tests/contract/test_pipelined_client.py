"""Short script calls over one connection: each caller gets its own reply, or an error."""

import asyncio
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.config.store import RedisServer, StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.drivers.valkey.client import client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.pipelined_client import PipelinedClient
from gateway.drivers.valkey.script import LuaScript
from tests.support.budget_queues import CLOCK, SEAL_KEY
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey
from tests.support.waiting import until

EXTEND, CLAIM = LuaScript("extend"), LuaScript("claim")
BRIEF_S = 0.5


@pytest.fixture
async def valkey(own_valkey: RealValkey) -> AsyncIterator[Valkey]:
    async with connected(own_valkey, timeout_s=10.0) as made:
        yield made


@asynccontextmanager
async def connected(server: RealValkey, *, timeout_s: float) -> AsyncIterator[Valkey]:
    store = StoreSettings(
        redis=RedisServer(url=server.url),
        seal_keys=(SEAL_KEY,),
        timeout_s=timeout_s,
        connect_timeout_s=10.0,
    )
    made = Valkey(
        store,
        client_factory(store),
        process_id=secrets.token_hex(4),
        clock=CLOCK,
        telemetry=RecordingTelemetry(),
    )
    while not await made.probe():
        pass
    try:
        yield made
    finally:
        await made.close()


async def claim(valkey: Valkey, name: str) -> str:
    """Claim a lease as `name`; the reply to a second claim names the holder."""
    keys = [f"{name}:{kind}" for kind in ("value", "lease", "failure", "awaited")]
    reply = await valkey.run_script(CLAIM, keys, [name, 60_000, "", ""], is_short=True)
    return reply[1].decode() if reply[0] == b"busy" else ""


async def test_each_call_gets_its_own_reply(valkey: Valkey) -> None:
    names = [f"caller-{i}" for i in range(200)]
    await asyncio.gather(*(claim(valkey, name) for name in names))
    assert await asyncio.gather(*(claim(valkey, name) for name in names)) == names


async def test_calls_share_one_connection(valkey: Valkey, own_valkey: RealValkey) -> None:
    before = own_valkey.command("INFO", "clients")["connected_clients"]
    await asyncio.gather(*(claim(valkey, f"caller-{i}") for i in range(50)))
    assert own_valkey.command("INFO", "clients")["connected_clients"] == before


async def test_cancelled_call_does_not_answer_the_next(valkey: Valkey) -> None:
    for name in ("ann", "bob"):
        await claim(valkey, name)
    for steps in range(60):
        requesting = asyncio.create_task(claim(valkey, "ann"))
        for _ in range(steps % 12):
            await asyncio.sleep(0)
        requesting.cancel()
        assert await claim(valkey, "bob") == "bob"
        await asyncio.gather(requesting, return_exceptions=True)


async def test_server_without_scripts_gets_them(valkey: Valkey, own_valkey: RealValkey) -> None:
    await claim(valkey, "ann")
    own_valkey.command("SCRIPT", "FLUSH")
    assert await asyncio.gather(*(claim(valkey, "ann") for _ in range(5))) == ["ann"] * 5


async def test_failed_command_fails_alone(valkey: Valkey, own_valkey: RealValkey) -> None:
    await claim(valkey, "ann")
    own_valkey.command("LPUSH", "list", "wrong type")
    wrong = valkey.run_script(EXTEND, ["list"], ["ann", 1], is_short=True)
    failed, found = await asyncio.gather(wrong, claim(valkey, "ann"), return_exceptions=True)
    assert isinstance(failed, StoreUnavailable)
    assert found == "ann"


async def test_hung_server_fails_all_calls_in_time(own_valkey: RealValkey) -> None:
    async with connected(own_valkey, timeout_s=BRIEF_S) as valkey:

        async def until_claimed() -> str:
            while True:  # on a busy machine, a call may take longer than the timeout
                await valkey.probe()
                with suppress(StoreUnavailable):
                    return await claim(valkey, "ann")

        await until_claimed()
        own_valkey.hang()
        began = CLOCK.monotonic()  # one call after the other would take ten seconds
        calls = await asyncio.gather(
            *(claim(valkey, "ann") for _ in range(20)), return_exceptions=True
        )
        took_s = CLOCK.monotonic() - began
        assert not valkey.available
        own_valkey.resume()
        assert all(isinstance(one, StoreUnavailable) for one in calls)
        assert took_s < 20 * BRIEF_S
        assert await until_claimed() == "ann"


async def test_closed_connection_is_opened_again(valkey: Valkey, own_valkey: RealValkey) -> None:
    await claim(valkey, "ann")
    own_valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    client = valkey._client
    assert isinstance(client, PipelinedClient)
    await until(lambda: not client.is_open)
    assert await claim(valkey, "ann") == "ann"
    assert valkey.available


async def test_connection_that_was_reset_in_the_pool_fails_its_calls_at_once() -> None:
    peers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        with suppress(ConnectionError), closing(writer):
            while words := await reader.read(65_536):
                writer.write(b"+OK\r\n" * words.count(b"*"))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = PipelinedClient(host="127.0.0.1", port=port, protocol=2)
        await client.execute_command("PING")  # its connection is idle in the pool from then on
        linger = struct.pack("ii", 1, 0)  # closing it sends a reset, which redis-py does not see
        peers[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peers[0].transport.abort()
        await asyncio.sleep(0.1)
        async with asyncio.timeout(15.0):
            with pytest.raises(RedisConnectionError):
                await client.call_pipelined("PING", timeout_s=20.0)
            assert await client.call_pipelined("PING", timeout_s=20.0) == b"OK"
        await client.aclose()
        await asyncio.sleep(0.05)  # the server closes its end
