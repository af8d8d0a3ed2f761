"""Redis clients for a single server, Sentinel and Cluster, as configured in `store.redis`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import RedisCluster as RedisClusterClient
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.config.store import (
    RedisAccess,
    RedisCluster,
    RedisEmbedded,
    RedisSentinel,
    RedisServer,
    StoreSettings,
)
from gateway.config.values import parse_host_port
from gateway.domain.model import Secret
from gateway.drivers.valkey.pipelined_client import PipelinedClient
from gateway.drivers.valkey.redis_connections import (
    ClusterClient,
    ConnectionPool,
    PrimaryConnection,
    PrimaryPool,
    RedisCredentials,
    TcpConnection,
    UnixConnection,
)
from gateway.drivers.valkey.sentinels import Sentinels
from gateway.drivers.valkey.tls import RedisTls

RedisClient = Redis | RedisClusterClient
ClientFactory = Callable[[], RedisClient]

_CONNECTIONS_MAX = 8
"""Calls are short: waiting for a free connection takes less time than opening one."""


def client_factory(store: StoreSettings, embedded_url: str | None = None) -> ClientFactory:
    """Return a function that makes clients. A client connects with its first command.

    A new client has no connections, resolves names and discovers nodes again, and logs in with the
    password and the certificate that the files have then.
    """
    options: dict[str, Any] = {
        "protocol": 2,
        "driver_info": None,  # it would send CLIENT SETINFO, which an ACL or a proxy may reject
        "socket_timeout": None,  # Valkey.run_script limits each call as a whole
        "socket_connect_timeout": store.connect_timeout_s,
        "health_check_interval": 0,  # replaced by the heartbeat of Valkey
        "retry": Retry(NoBackoff(), 0),  # Valkey decides when to try again
        "decode_responses": False,
    }
    match store.redis:
        case RedisEmbedded():
            if embedded_url is None:
                raise ValueError("the address of the embedded server is required")
            return partial(_server_client, embedded_url, options)
        case RedisServer() as server:
            return partial(_server_client, server.url, options | _access(server))
        case RedisSentinel() as sentinel:
            return _sentinel_factory(sentinel, options)
        case RedisCluster() as cluster:
            nodes = [parse_host_port(address) for address in cluster.cluster]
            # Leaves time for another node if one is unreachable.
            half = {"socket_connect_timeout": store.connect_timeout_s / 2}
            return partial(_cluster_client, nodes, options | half | _access(cluster))


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


def _server_client(url: str, options: dict[str, Any]) -> Redis:
    address: dict[str, Any] = {**parse_url(url)}
    options = options | address | {"connection_class": TcpConnection}
    if "path" in address:
        options["connection_class"] = UnixConnection
        options.pop("tls", None)
    return PipelinedClient.from_pool(_pool(options))


def _sentinel_factory(config: RedisSentinel, options: dict[str, Any]) -> ClientFactory:
    tls = RedisTls(config)
    addresses = [parse_host_port(address) for address in config.sentinels]
    login = _login(config.sentinel_username, config.sentinel_password)
    access = (
        options
        | login
        | {"connection_class": TcpConnection, "tls": tls if config.sentinels_use_tls else None}
    )
    nodes = (
        options | _login(config.username, config.password) | {"tls": tls if config.tls else None}
    )
    return partial(_sentinel_client, config.service, addresses, access, nodes)


def _sentinel_client(
    service: str, addresses: list[tuple[str, int]], access: dict[str, Any], nodes: dict[str, Any]
) -> Redis:
    sentinels = Sentinels([], **nodes)  # type: ignore[no-untyped-call]
    sentinels.sentinels = [
        Redis.from_pool(_pool({**access, "host": host, "port": port})) for host, port in addresses
    ]
    primary: Redis = sentinels.master_for(
        service,
        redis_class=PipelinedClient,
        connection_pool_class=PrimaryPool,
        connection_class=PrimaryConnection,
    )
    return primary


def _pool(options: dict[str, Any]) -> ConnectionPool:
    timeout_s = options["socket_connect_timeout"]
    return ConnectionPool(max_connections=_CONNECTIONS_MAX, timeout=timeout_s, **options)


def _cluster_client(nodes: list[tuple[str, int]], options: dict[str, Any]) -> RedisClusterClient:
    return ClusterClient(
        startup_nodes=[ClusterNode(*node) for node in nodes],
        dynamic_startup_nodes=False,  # the configured names outlive the discovered addresses
        **options,
    )


def _access(access: RedisAccess) -> dict[str, Any]:
    tls = RedisTls(access) if access.uses_tls else None
    return {**_login(access.username, access.password), "tls": tls}


def _login(username: str | None, password: Secret | None) -> dict[str, Any]:
    if username is None and password is None:
        return {}
    return {"credential_provider": RedisCredentials(username, password)}
