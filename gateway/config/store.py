"""Config section `store`: Redis or Valkey, and the keys that encrypt what is stored there."""

import re
from typing import Annotated, Literal
from urllib.parse import parse_qs

from pydantic import AfterValidator, Field, Tag

from gateway.config.files import AuthoritiesFile
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


class RedisServer(Section):
    """One server."""

    url: Annotated[
        str,
        AfterValidator(_redis_url),
        text_schema(r"(?:rediss?://[^@/?#\s]+(?:/[0-9]*)?|unix:///[^@?#\s]+)(?:\?(?:db=[0-9]+)?)?"),
    ]
    """`redis://HOST:PORT/DB`, `rediss://HOST:PORT/DB` for TLS, or `unix:///PATH`."""
    username: str | None = None
    """User of the server's access control list. Unset: the default user."""
    password: SecretValue | None = None
    """Password of the user. Unset: no password."""
    tls_ca_file: AuthoritiesFile | None = None
    """PEM file with the authorities that sign the server's certificate. Unset: those of the
    operating system."""


class RedisSentinel(Section):
    """A primary found by Sentinels."""

    sentinels: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    """`host:port` of each Sentinel."""
    service: str
    """Name of the primary, as in `sentinel monitor`."""
    username: str | None = None
    """User on the data nodes. Sentinels are queried without credentials."""
    password: SecretValue | None = None
    """Password of the user on the data nodes. Unset: no password."""
    tls: bool = False
    """Use TLS to Sentinels and data nodes."""
    tls_ca_file: AuthoritiesFile | None = None
    """PEM file with the authorities that sign the nodes' certificates. Unset: those of the
    operating system."""


class RedisCluster(Section):
    """A Redis or Valkey Cluster."""

    cluster: Annotated[tuple[HostPort, ...], Field(min_length=1)]
    """`host:port` of some nodes; the other nodes are discovered."""
    username: str | None = None
    """User on the nodes. Unset: the default user."""
    password: SecretValue | None = None
    """Password of the user. Unset: no password."""
    tls: bool = False
    """Use TLS to the nodes."""
    tls_ca_file: AuthoritiesFile | None = None
    """PEM file with the authorities that sign the nodes' certificates. Unset: those of the
    operating system."""


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
    all decrypt. To rotate: add the new key second on all replicas, then move it first. Remove
    the old key after two minutes, or after a token's lifetime for SDK key pairs."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = "gateway"
    """Prefix of every key in Redis. All replicas must use the same."""
    timeout_s: Annotated[Number, Field(gt=0, le=10)] = 0.1
    """Seconds after which a call to Redis fails and Redis counts as unavailable."""
    processes_max: Annotated[Integer, Field(ge=1, le=1000)] = 2
    """Largest number of gateway processes, workers included. While Redis is unavailable,
    each process uses the budget divided by this number."""
