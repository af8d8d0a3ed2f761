"""TLS, client certificates and passwords to a real Redis: one server, Sentinel and Cluster."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config.secrets import SecretOfFile
from gateway.config.store import RedisCluster, RedisSentinel, RedisServer
from gateway.domain.model import Secret
from tests.support.budget_queues import run_loops
from tests.support.redis_with_tls import NOT_HERE, REDIS, RedisWithTls, TlsFiles
from tests.support.store_check import a_valkey, problem_of
from tests.support.tls import Authority
from tests.support.valkey import RealValkey, free_port, is_cluster_ok, wait_until
from tests.support.waiting import until

with_tls = pytest.mark.skipif(REDIS is None, reason=NOT_HERE)

PASSWORD, SENTINEL_PASSWORD = "canary-data", "canary-sentinel"


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    return TlsFiles.make(tmp_path)


@with_tls
async def test_client_certificate_is_presented(tls: TlsFiles) -> None:
    server = RedisWithTls(tls).start()
    try:
        assert await problem_of(RedisServer(url=server.url, **tls.config)) == ""
        without = RedisServer(url=server.url, tls_ca_file=tls.config["tls_ca_file"])
        assert await problem_of(without) != ""
        strangers = Authority()
        (tls.directory / "ca.crt").write_bytes(strangers.certificate)
        untrusted = await problem_of(RedisServer(url=server.url, **tls.config))
        assert untrusted.startswith("the server's certificate is not trusted")
    finally:
        server.close()


@with_tls
async def test_renewed_client_certificate_is_used_by_new_connections(tls: TlsFiles) -> None:
    server = RedisWithTls(tls).start()
    valkey = a_valkey(RedisServer(url=server.url, **tls.config))
    try:
        await valkey.ping()
        renewed = TlsFiles.make(tls.directory)  # another authority signed them
        server.kill()
        server.start()
        assert renewed.config == tls.config
        assert not await valkey.probe()
        assert await valkey.probe()
    finally:
        await valkey.close()
        server.close()


@contextmanager
def sentinel_with_tls(tls: TlsFiles) -> Iterator[tuple[RedisWithTls, list[RedisWithTls]]]:
    """Start a primary and three Sentinels, all with TLS, client certificates and passwords."""
    with ExitStack() as stack:
        options = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
        primary = RedisWithTls(tls, *options, password=PASSWORD).start()
        stack.callback(primary.close)
        sentinels = []
        for _ in range(3):
            sentinel = RedisWithTls.sentinel_of(primary, tls, password=SENTINEL_PASSWORD)
            stack.callback(sentinel.close)
            sentinels.append(sentinel.start())
        yield primary, sentinels


@with_tls
async def test_sentinels_have_tls_and_a_password_of_their_own(tls: TlsFiles) -> None:
    with sentinel_with_tls(tls) as (primary, sentinels):
        del primary
        redis: dict[str, Any] = {
            "sentinels": tuple(f"127.0.0.1:{one.port}" for one in sentinels),
            "service": "main",
            "password": Secret(PASSWORD),
            "sentinel_password": Secret(SENTINEL_PASSWORD),
            "tls": True,
            **tls.config,
        }
        assert await problem_of(RedisSentinel(**redis)) == ""
        wrong = {**redis, "sentinel_password": Secret("canary")}
        assert await problem_of(RedisSentinel(**wrong)) == (
            "no Sentinel responds: WRONGPASS: wrong username or password"
        )
        wrong = {**redis, "sentinel_password": None}
        assert await problem_of(RedisSentinel(**wrong)) == (
            "no Sentinel responds: NOAUTH: a password is required"
        )
        wrong = {**redis, "password": Secret("canary")}
        assert await problem_of(RedisSentinel(**wrong)) == "WRONGPASS: wrong username or password"
        sentinels[0].hang()  # an unreachable Sentinel costs no time
        sentinels[1].hang()
        assert await problem_of(RedisSentinel(**redis)) == ""


@with_tls
async def test_cluster_has_tls_and_client_certificates(tls: TlsFiles) -> None:
    cluster = ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    options = (*cluster, "--cluster-port", str(free_port()), "--requirepass", PASSWORD)
    node = RedisWithTls(tls, *options, password=PASSWORD).start()
    try:
        node.command("CLUSTER", "ADDSLOTS", *map(str, range(16384)))
        await asyncio.to_thread(wait_until, lambda: is_cluster_ok(node))
        redis = RedisCluster(
            cluster=(f"127.0.0.1:{node.port}",),
            password=Secret(PASSWORD),
            tls=True,
            **tls.config,
        )
        assert await problem_of(redis) == ""
    finally:
        node.close()


async def test_rotated_password_file_is_used_by_new_connections(
    own_valkey: RealValkey, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    own_valkey.command("ACL", "SETUSER", "gw", "on", ">first", "~*", "&*", "+@all")
    redis = RedisServer(url=own_valkey.url, username="gw", password=SecretOfFile.read(file))
    valkey = a_valkey(redis)
    async with run_loops(valkey):
        assert valkey.available
        own_valkey.command("ACL", "SETUSER", "gw", ">second", "<first")
        own_valkey.command("CLIENT", "KILL", "USER", "gw")
        await until(lambda: not valkey.available)
        file.write_text("second\n")
        await until(lambda: valkey.available)
