"""Redis clients for a single server, Sentinel and Cluster, as configured in `store.redis`."""

import ssl
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import RedisCluster as ClusterClient
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.config.store import (
    RedisCluster,
    RedisEmbedded,
    RedisSentinel,
    RedisServer,
    StoreSettings,
)
from gateway.config.values import parse_host_port
from gateway.domain.model import Secret

RedisClient = Redis | ClusterClient

_CONNECTIONS_MAX = 8
"""Calls are short: waiting for a free connection takes less time than opening one."""


def make_client(store: StoreSettings, embedded_url: str | None = None) -> RedisClient:
    """Return the client that the config selects; it connects with its first command."""
    common: dict[str, Any] = {
        "socket_timeout": None,  # Valkey.run_script limits each call as a whole
        "socket_connect_timeout": store.timeout_s,
        "health_check_interval": 0,  # replaced by the heartbeat of Valkey
        "retry": Retry(NoBackoff(), 0),  # Valkey decides when to try again
        "decode_responses": False,
        "client_name": "console-gateway",
    }
    match store.redis:
        case RedisEmbedded():
            if embedded_url is None:
                raise ValueError("the address of the embedded server is required")
            return _server_client(embedded_url, store.timeout_s, common)
        case RedisServer() as server:
            tls = _tls(server.tls_ca_file) if server.url.startswith("rediss:") else {}
            options = {**common, **_login(server.username, server.password), **tls}
            return _server_client(server.url, store.timeout_s, options)
        case RedisSentinel() as sentinel:
            return _sentinel_client(sentinel, store.timeout_s, common | _options_of(sentinel))
        case RedisCluster() as cluster:
            nodes = [ClusterNode(*parse_host_port(address)) for address in cluster.cluster]
            return ClusterClient(startup_nodes=nodes, **common, **_options_of(cluster))


def address_of(store: StoreSettings) -> str:
    """Return the configured address, without credentials."""
    match store.redis:
        case RedisEmbedded():
            return "the embedded server"
        case RedisServer() as server:
            return server.url
        case RedisSentinel() as sentinel:
            return f"service {sentinel.service} of Sentinels {', '.join(sentinel.sentinels)}"
        case RedisCluster() as cluster:
            return f"cluster {', '.join(cluster.cluster)}"


def _server_client(url: str, timeout_s: float, options: dict[str, Any]) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url, max_connections=_CONNECTIONS_MAX, timeout=timeout_s, **options
    )
    return Redis.from_pool(pool)


def _sentinel_client(config: RedisSentinel, timeout_s: float, options: dict[str, Any]) -> Redis:
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [parse_host_port(address) for address in config.sentinels],
        sentinel_kwargs={
            "socket_timeout": timeout_s,
            # No retry of a failed Sentinel: the next Sentinel may respond at once.
            "retry": Retry(NoBackoff(), 0),
        },
        **options,
    )
    primary: Redis = sentinel.master_for(config.service)
    return primary


def _options_of(redis: RedisSentinel | RedisCluster) -> dict[str, Any]:
    tls = {"ssl": True, **_tls(redis.tls_ca_file)} if redis.tls else {}
    return {**_login(redis.username, redis.password), **tls}


def _login(username: str | None, password: Secret | None) -> dict[str, Any]:
    return {
        "username": username,
        "password": password.reveal() if password is not None else None,
    }


def _tls(ca_file: Path | None) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        "ssl_ca_certs": str(ca_file) if ca_file is not None else None,
    }
