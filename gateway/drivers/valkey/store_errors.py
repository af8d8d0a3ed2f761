"""Descriptions of failed Redis calls, without the server's own text, which may quote arguments."""

import re
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
from gateway.drivers.valkey.sentinels import SentinelsUnavailable

STORE_ERRORS = (RedisError, RedisClusterException, OSError)
"""Every error that a call raises when the server is unavailable or rejects the call."""


class DescribedStoreError(RedisError):
    """An error of the gateway's own. Its message is the description."""


VERSION_REQUIRED = "Redis 6.2 or Valkey 7.2 or later is required, with scripts and pub/sub"
_BY_CODE = {
    "WRONGPASS": "wrong username or password",
    "NOAUTH": "a password is required",
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
    "unknown command": f"unknown command: {VERSION_REQUIRED}",
    "Connection closed by server.": "connection closed by the server: is TLS (rediss://) required?",
}
_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -?(?=[A-Z])")
"""Redis before 7.0 puts this before the error of a command that a script ran."""
_TIMEOUT = (
    "no response within store.connect_timeout_s and store.timeout_s: check the address, and TLS on "
    "both ends"
)
_DENIED_COMMAND = re.compile(r"permissions to run the '([a-z|_-]{1,40})' command|can't run this")
_DENIED_KEY = re.compile(r"access a key|one of the keys")
_DENIED_CHANNEL = re.compile(r"access a channel|one of the channels|publish to the channel")
_BY_TYPE: dict[type[BaseException], str] = {
    MasterNotFoundError: "no reachable Sentinel knows a primary of this service",
    SlotNotCoveredError: "the cluster does not cover all slots",
    RedisTimeoutError: _TIMEOUT,
    TimeoutError: _TIMEOUT,
    InvalidResponse: "the response is not in the Redis protocol",
}


def describe_store_error(error: BaseException, namespace: str = "NAMESPACE") -> str:
    """Return the cause; for an unknown error only its type, since its text may hold a secret."""
    descriptions = (_describe(one, namespace) for one in _with_causes(error))
    return next(filter(None, descriptions), type(error).__name__)


def missing_right(text: str, namespace: str, *, command: str = "") -> str:
    """Return the right, as an ACL rule names it, that this error says is missing; "": none.

    `command` is the command that failed, for errors that do not name it.
    """
    if found := _DENIED_COMMAND.search(text):
        return f"+{found[1] or command.lower()}"
    if _DENIED_KEY.search(text):
        return f"~{namespace}:*"
    return f"&{namespace}:*" if _DENIED_CHANNEL.search(text) else ""


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes: redis-py wraps a socket error once, or twice in a cluster."""
    current: BaseException | None = error
    while isinstance(current, STORE_ERRORS):
        yield current
        current = current.__cause__ or current.__context__


def _describe(error: BaseException, namespace: str) -> str:
    if isinstance(error, DescribedStoreError):
        return str(error)
    if isinstance(error, SentinelsUnavailable) and error.__cause__ is not None:
        return f"no Sentinel responds: {describe_store_error(error.__cause__)}"
    if description := _BY_TYPE.get(type(error)):
        return description
    if isinstance(error, OSError):
        return describe_error(error)
    text = str(error)
    if right := missing_right(text, namespace):
        return f"NOPERM: the ACL of this user lacks {right}"
    in_script = _IN_SCRIPT.search(text)
    text = text[in_script.end() :] if in_script else text
    code = (not in_script and getattr(error, "status_code", None)) or text.partition(" ")[0]
    if code in _BY_CODE:
        return f"{code}: {_BY_CODE[code]}"
    return next(
        (described for prefix, described in _BY_TEXT.items() if text.startswith(prefix)), ""
    )
