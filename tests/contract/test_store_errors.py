"""Descriptions of Redis errors: the cause and the remedy, without text of the server."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisClusterException, ResponseError

from gateway.config.store import RedisCluster, RedisSentinel, RedisServer, StoreSettings
from gateway.domain.errors import StoreUnavailable
from gateway.domain.model import Secret
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.valkey.client import address_of, client_factory
from gateway.drivers.valkey.connection import Valkey
from gateway.drivers.valkey.script import LuaScript
from gateway.drivers.valkey.store_errors import describe_store_error
from tests.support.telemetry import RecordingTelemetry
from tests.support.valkey import RealValkey

SEAL_KEY = Secret("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
PASSWORD = "canary-password"
Kind = RedisServer | RedisSentinel | RedisCluster


def a_store(redis: Kind) -> StoreSettings:
    return StoreSettings(redis=redis, seal_keys=(SEAL_KEY,), timeout_s=10.0, connect_timeout_s=3.0)


def a_valkey(redis: Kind, *, process_id: str | None = None) -> Valkey:
    store = a_store(redis)
    return Valkey(
        store,
        client_factory(store),
        process_id=process_id,
        clock=SystemClock(),
        telemetry=RecordingTelemetry(),
    )


async def described(redis: Kind) -> str:
    valkey = a_valkey(redis)
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await valkey.ping()
    finally:
        await valkey.close()
    assert not valkey.available
    return str(caught.value)


@pytest.fixture
def server() -> Iterator[RealValkey]:
    made = RealValkey().start()
    yield made
    made.close()


async def test_wrong_missing_and_right_password_are_described(server: RealValkey) -> None:
    server.command("CONFIG", "SET", "requirepass", PASSWORD)
    login = {"wrong": Secret("canary"), "none": None, "right": Secret(PASSWORD)}
    servers = {
        name: RedisServer.model_construct(
            url=server.url, username=None, password=password, tls_ca_file=None
        )
        for name, password in login.items()
    }
    assert await described(servers["wrong"]) == "WRONGPASS: wrong username or password"
    assert await described(servers["none"]) == "NOAUTH: a password is required"
    valkey = a_valkey(servers["right"])
    await valkey.ping()
    await valkey.close()


async def test_acl_denial_and_full_server_are_described(server: RealValkey) -> None:
    server.command("ACL", "SETUSER", "default", "-@scripting")
    assert (await described(RedisServer(url=server.url))).startswith("NOPERM: the ACL")
    server.command("ACL", "SETUSER", "default", "+@all")
    server.command("CONFIG", "SET", "maxmemory", "1")
    assert await described(RedisServer(url=server.url)) == "OOM: out of memory: raise maxmemory"


async def test_wrong_database_cluster_and_tls_are_described(server: RealValkey) -> None:
    elsewhere = RedisServer(url=server.url.removesuffix("0") + "99")
    assert await described(elsewhere) == "the database number does not exist"
    cluster = RedisCluster(cluster=(f"127.0.0.1:{server.port}",))
    assert (await described(cluster)).startswith("not a cluster")
    tls = RedisServer(url=server.url.replace("redis:", "rediss:"))
    assert "TLS" in await described(tls)


@pytest.mark.parametrize(
    ("redis", "reason"),
    [
        (RedisServer(url="redis://127.0.0.1:1/0"), "connection refused"),
        (RedisServer(url="redis://nosuch.invalid:1/0"), "the host name does not resolve"),
        (RedisServer(url="unix:///nowhere.sock"), "no such file or directory"),
        (RedisCluster(cluster=("127.0.0.1:1",)), "connection refused"),
        (
            RedisSentinel(sentinels=("127.0.0.1:1",), service="links"),
            "no Sentinel responds: connection refused",
        ),
    ],
)
async def test_unreachable_server_is_described(redis: Kind, reason: str) -> None:
    assert await described(redis) == reason


@pytest.mark.parametrize(
    ("redis", "address"),
    [
        (RedisServer(url="redis://a:1/0", password=None), "redis://a:1/0"),
        (
            RedisSentinel(sentinels=("a:1", "b:1"), service="links"),
            "service links of Sentinels a:1, b:1",
        ),
        (RedisCluster(cluster=("a:1", "b:1")), "cluster a:1, b:1"),
    ],
)
def test_address_is_the_configured_one(redis: Kind, address: str) -> None:
    assert address_of(a_store(redis)) == address


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ResponseError("canary of an argument", status_code="ERR"), "ResponseError"),
        (ResponseError("MISCONF canary"), "MISCONF: writes are disabled"),
        (RedisClusterException("canary"), "RedisClusterException"),
    ],
)
async def test_log_has_reason_without_server_s_text(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        async def evalsha(self, *_: Any) -> None:
            raise error

    client: Any = Failing()
    store = a_store(RedisServer(url="redis://a:1/0"))
    telemetry = RecordingTelemetry()
    valkey = Valkey(store, lambda: client, process_id="p", clock=SystemClock(), telemetry=telemetry)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StoreUnavailable) as caught:
        await valkey.run_script(LuaScript("extend"), ["k"], ["canary", 1], even_if_unavailable=True)
    (line,) = caplog.records
    assert line.message == "store_unavailable"
    assert line.__dict__["error"] == type(error).__name__
    assert line.__dict__["reason"] == describe_store_error(error) == str(caught.value)
    assert describe_store_error(error).startswith(reason)
    assert "canary" not in str(line.__dict__) + str(caught.value)


async def test_connection_without_process_id_is_not_counted(shared_valkey: RealValkey) -> None:
    redis = RedisServer(url=shared_valkey.url)
    observer, process = a_valkey(redis), a_valkey(redis, process_id="p")
    await process.ping()
    before = process.processes
    await observer.ping()
    await process.ping()
    assert (observer.processes, process.processes, observer.available) == (before, before, True)
    await observer.close()
    await process.close()
