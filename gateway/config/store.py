"""Config section `store`: Redis or Valkey, and the keys that encrypt what is stored there."""

import re
import ssl
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs

from pydantic import AfterValidator, Field, Tag, model_validator

from gateway.config.errors import InvalidKey
from gateway.config.files import (
    AuthoritiesFile,
    CertificateFile,
    ReadableFile,
    load_certificate,
)
from gateway.config.secrets import EncryptionKey, SecretValue
from gateway.config.values import (
    HostPort,
    Integer,
    Number,
    Section,
    chosen_by,
    has_host_and_port,
    text_schema,
)


def _redis_url(value: str) -> str:
    # redis-py accepts user and password in the query as well.
    address, _, query = value.partition("?")
    if "@" in value or {"username", "password"} & parse_qs(query, keep_blank_values=True).keys():
        raise ValueError("must not contain credentials; use `username` and `password`")
    # Options of redis-py in the query would override those of the gateway.
    if not re.fullmatch(r"(?:db=\d+)?", query):
        raise ValueError("must not contain an option other than `db`")
    found = re.fullmatch(r"rediss?://[^/?#\s]+(?:/\d*)?|(unix:///[^?#\s]+)", address)
    if found is None or not (found[1] or has_host_and_port(address)):
        raise ValueError(
            "must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH"
        )
    return value


class RedisAccess(Section):
    """Credentials and TLS files. A password or file that changes applies to new connections."""

    username: str | None = None
    """User of the server's access control list. Unset: the default user."""
    password: SecretValue | None = None
    """Password of the user. Unset: no password."""
    tls_ca_file: AuthoritiesFile | None = None
    """PEM file with the authorities that sign the servers' certificates. Unset: those of the
    operating system."""
    tls_certificate_file: CertificateFile | None = None
    """PEM file with the client certificate for servers that request one, followed by its
    intermediate certificates. Requires `tls_key_file`."""
    tls_key_file: ReadableFile | None = None
    """The private key of `tls_certificate_file`. An encrypted key is rejected."""

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        certificate, key = self.tls_certificate_file, self.tls_key_file
        if certificate is None and key is not None:
            raise InvalidKey(("tls_key_file",), "requires `tls_certificate_file`")
        if certificate is not None and key is None:
            raise InvalidKey(("tls_certificate_file",), "requires `tls_key_file`")
        if certificate is not None and key is not None:
            try:
                load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate, key)
            except ValueError as error:
                raise InvalidKey(("tls_key_file",), str(error)) from None
        return self

    @model_validator(mode="after")
    def _files_are_used(self) -> Self:
        for name in ("tls_ca_file", "tls_certificate_file", "tls_key_file"):
            if getattr(self, name) is not None and not self.uses_tls:
                raise InvalidKey((name,), f"requires {self.tls_switch}")
        return self

    @property
    def uses_tls(self) -> bool:
        raise NotImplementedError

    @property
    def tls_switch(self) -> str:
        """Return what enables TLS, as a config error names it."""
        return "`tls: true`"


class RedisServer(RedisAccess):
    """One server."""

    url: Annotated[
        str,
        AfterValidator(_redis_url),
        text_schema(r"(?:rediss?://[^@/?#\s]+(?:/[0-9]*)?|unix:///[^@?#\s]+)(?:\?(?:db=[0-9]+)?)?"),
    ]
    """`redis://HOST:PORT/DB`, `rediss://HOST:PORT/DB` for TLS, or `unix:///PATH`. A host name is
    resolved for each new connection, so it may follow a failover."""

    @property
    def uses_tls(self) -> bool:
        return self.url.startswith("rediss:")

    @property
    def tls_switch(self) -> str:
        return "a URL with rediss://"


class RedisSentinel(RedisAccess):
    """A primary found by Sentinels. `username` and `password` are those of the data nodes."""

    sentinels: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    """`host:port` of each Sentinel. All are queried at once; the newest configuration wins."""
    service: str
    """Name of the primary, as in `sentinel monitor`."""
    tls: bool = False
    """Use TLS to the data nodes, and to the Sentinels unless `sentinel_tls` is set."""
    sentinel_tls: bool | None = None
    """Use TLS to the Sentinels. Unset: as `tls`."""
    sentinel_username: str | None = None
    """User on the Sentinels. Unset: the default user."""
    sentinel_password: SecretValue | None = None
    """Password on the Sentinels. Unset: no password."""

    @property
    def sentinels_use_tls(self) -> bool:
        return self.tls if self.sentinel_tls is None else self.sentinel_tls

    @property
    def uses_tls(self) -> bool:
        return self.tls or self.sentinels_use_tls


class RedisCluster(RedisAccess):
    """A Redis or Valkey Cluster."""

    cluster: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    """`host:port` of some nodes; the other nodes are discovered. Discovered addresses never replace
    these, so a cluster whose nodes all change their addresses is found again by its names."""
    tls: bool = False
    """Use TLS to the nodes."""

    @property
    def uses_tls(self) -> bool:
        return self.tls


class RedisEmbedded(Section):
    """A Valkey server that the gateway starts itself, for a single host."""

    embedded: Literal[True]
    """Start a Valkey server with the gateway. Its content is lost when the gateway stops."""


class StoreSettings(Section):
    redis: Annotated[
        Annotated[RedisServer, Tag("url")]
        | Annotated[RedisSentinel, Tag("sentinels")]
        | Annotated[RedisCluster, Tag("cluster")]
        | Annotated[RedisEmbedded, Tag("embedded")],
        chosen_by("url", "sentinels", "cluster", "embedded"),
    ]
    """Which Redis or Valkey to use. All replicas must use the same."""
    seal_keys: Annotated[tuple[EncryptionKey, ...], Field(min_length=1)]
    """Encryption keys, 32 bytes each in base64 (`openssl rand -base64 32`). The first encrypts,
    all decrypt. To rotate: add the new key second on all replicas, then move it first. Remove the
    old key after two minutes, or after a token's lifetime if callers use SDK key pairs."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "gateway"
    """Prefix of every key in Redis. All replicas must use the same."""
    timeout_s: Annotated[Number, Field(gt=0, le=10)] = 0.1
    """Seconds after which a call to Redis fails and Redis counts as unavailable. The time to open
    a connection is not included."""
    connect_timeout_s: Annotated[Number, Field(gt=0, le=10)] = 1.0
    """Seconds for opening a connection: name resolution, discovery by Sentinel or Cluster, TCP, TLS
    and login. A Redis that is far away needs six round trips."""
    processes_max: Annotated[Integer, Field(ge=1, le=1000)] = 2
    """Largest number of gateway processes, workers included. While Redis is unavailable,
    each process uses the budget divided by this number."""
