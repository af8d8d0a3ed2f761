"""Descriptions of failed Redis calls, without the server's own text, which may quote arguments."""

from collections.abc import Iterator

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    InvalidResponse,
    RedisClusterException,
    RedisError,
    SlotNotCoveredError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.drivers.network.connection_errors import describe_error

STORE_ERRORS = (RedisError, RedisClusterException, OSError)
"""Every error that a call raises when the server is unavailable or rejects the call."""

_BY_CODE = {
    "WRONGPASS": "wrong username or password",
    "NOAUTH": "a password is required",
    "NOPERM": "the ACL denies this user scripts or these keys",
    "OOM": "out of memory: raise maxmemory",
    "READONLY": "the server is a read-only replica: configure the primary",
    "MISCONF": "writes are disabled because the server cannot write to its disk",
    "NOREPLICAS": "writes are disabled because too few replicas are connected",
    "LOADING": "the server is loading its data",
    "BUSY": "the server is blocked by a running script",
    "CLUSTERDOWN": "the cluster is down",
    "MASTERDOWN": "the server is a replica without a primary",
}
"""By the first word of the server's error. Errors with another first word are not quoted."""
_BY_TEXT = {
    "DB index is out of range": "the database number does not exist",
    "AUTH <password> called without any password": "a password was sent, but the server has none",
    "max number of clients reached": "too many connected clients: raise maxclients",
    "This instance has cluster support disabled": "not a cluster: configure it as store.redis.url",
    "Connection closed by server.": "connection closed by the server: is TLS (rediss://) required?",
}
_TIMEOUT = "no response within store.timeout_s: check the address, and TLS on both ends"
_BY_TYPE: dict[type[BaseException], str] = {
    MasterNotFoundError: "no reachable Sentinel knows a primary of this service",
    SlotNotCoveredError: "the cluster does not cover all slots",
    RedisTimeoutError: _TIMEOUT,
    TimeoutError: _TIMEOUT,
    InvalidResponse: "the response is not in the Redis protocol",
}


def describe_store_error(error: BaseException) -> str:
    """Return the cause; for an unknown error only its type, since its text may hold a secret."""
    descriptions = (_describe(one) for one in _with_causes(error))
    return next(filter(None, descriptions), type(error).__name__)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes: redis-py wraps a socket error once, or twice in a cluster."""
    current: BaseException | None = error
    while isinstance(current, STORE_ERRORS):
        yield current
        current = current.__cause__ or current.__context__


def _describe(error: BaseException) -> str:
    if description := _BY_TYPE.get(type(error)):
        return description
    if isinstance(error, OSError):
        return describe_error(error)
    text = str(error)
    code = getattr(error, "status_code", None) or text.partition(" ")[0]
    if code in _BY_CODE:
        return f"{code}: {_BY_CODE[code]}"
    return next(
        (described for prefix, described in _BY_TEXT.items() if text.startswith(prefix)), ""
    )
