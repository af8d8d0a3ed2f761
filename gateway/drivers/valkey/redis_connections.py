"""Connections of redis-py with the gateway's timeout, credentials and TLS contexts.

They use RESP2, which every server and proxy knows. The time to open a connection, or to wait for
one, counts as connecting (call_timeout.py).
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, UnixDomainSocketConnection
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection
from redis.credentials import CredentialProvider
from redis.exceptions import ResponseError

from gateway.config.secrets import SecretOfFile
from gateway.domain.model import Secret
from gateway.drivers.valkey.call_timeout import connecting
from gateway.drivers.valkey.tls import RedisTls

_CLIENT_NAME = "console-gateway"


class RedisCredentials(CredentialProvider):
    """Reads the password from its file for each new connection, so that it can be rotated."""

    def __init__(self, username: str | None, password: Secret | None) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        if isinstance(self._password, SecretOfFile):
            with suppress(ValueError):  # a file that is being replaced: the last one may still do
                self._password = self._password.read_again()
        password = "" if self._password is None else self._password.reveal()
        return (password,) if self._username is None else (self._username, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return await asyncio.to_thread(self.get_credentials)


class _Handshake(AbstractConnection):
    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:
            with connecting():
                await super().connect_check_health(*args, **options)

    async def on_connect_check_health(self, *args: Any, **options: Any) -> None:
        await super().on_connect_check_health(*args, **options)
        # The name is only for CLIENT LIST: an ACL or a proxy may reject the command.
        await self.send_command("CLIENT", "SETNAME", _CLIENT_NAME, check_health=False)
        with suppress(ResponseError):
            await self.read_response()


class TcpConnection(_Handshake, Connection):
    """A connection over TCP, and over TLS if it has the files for it."""

    def __init__(self, *, tls: RedisTls | None = None, **options: Any) -> None:
        self._tls = tls
        self._tls_arguments: dict[str, Any] = {}
        super().__init__(**options)

    async def _connect(self) -> None:
        if self._tls is not None:
            self._tls_arguments = {"ssl": await asyncio.to_thread(self._tls.context)}
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), **self._tls_arguments}


class UnixConnection(_Handshake, UnixDomainSocketConnection):
    """A connection over a Unix socket."""


class PrimaryConnection(TcpConnection, SentinelManagedConnection):
    """A connection to the primary that the Sentinels name."""

    async def connect(self) -> None:
        with connecting():
            await super().connect()  # type: ignore[no-untyped-call]


class ConnectionPool(BlockingConnectionPool):
    """A bounded pool: a call waits for a free connection as it would for a new one."""

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        with connecting():
            return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]


class PrimaryPool(SentinelConnectionPool):
    """Connections to the primary that the Sentinels name."""

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        with connecting():
            return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]


class ClusterClient(RedisCluster):
    """A client of a cluster; the discovery of its nodes counts as connecting."""

    def __init__(self, *, tls: RedisTls | None, **options: Any) -> None:
        super().__init__(**options)
        # redis-py has no parameter for the class of a node's connections.
        more = {"connection_class": TcpConnection, "tls": tls}
        self.nodes_manager.connection_kwargs.update(more)
        for node in self.startup_nodes:
            node.connection_class = TcpConnection
            node.connection_kwargs["tls"] = tls

    async def initialize(self, *args: Any, **options: Any) -> RedisCluster:
        if not self._initialize:
            return self
        with connecting():
            return await super().initialize(*args, **options)

    async def aclose(self) -> None:
        # redis-py closes nothing while the nodes have to be discovered again.
        self._initialize = True
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")
