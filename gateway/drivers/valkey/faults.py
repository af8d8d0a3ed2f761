"""Why a call of Redis failed, in our words: the server's own text may quote arguments."""

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
"""All that a call may raise when the server is away, or refuses it."""

_BY_CODE = {
    "WRONGPASS": "it does not take this username and password",
    "NOAUTH": "it wants a password",
    "NOPERM": "its ACL does not let this user run scripts, or use these keys",
    "OOM": "it is full: raise maxmemory",
    "READONLY": "it is a replica: name the primary",
    "MISCONF": "it cannot write to its disk, so it takes no writes",
    "NOREPLICAS": "too few of its replicas are there, so it takes no writes",
    "LOADING": "it is still loading its data",
    "BUSY": "a script holds it up",
    "CLUSTERDOWN": "the cluster is down",
    "MASTERDOWN": "it is a replica whose primary is away",
}
"""By the first word of what the server answers, which is one of these or is not told."""
_BY_TEXT = {
    "DB index is out of range": "it has no database of this number",
    "AUTH <password> called without any password": "it has no password, and one was sent",
    "max number of clients reached": "it has as many clients as it takes: raise maxclients",
    "This instance has cluster support disabled": "it is no cluster: name it as store.redis.url",
    "Connection closed by server.": "it closed the connection: does it want TLS (rediss://)?",
}
_SILENT = "no answer within store.timeout_s: is it there, and is TLS on at both ends or at none?"
_BY_KIND: dict[type[BaseException], str] = {
    MasterNotFoundError: "no Sentinel that answers knows a primary of this service",
    SlotNotCoveredError: "the cluster does not cover all slots",
    RedisTimeoutError: _SILENT,
    TimeoutError: _SILENT,
    InvalidResponse: "what answers is no Redis",
}


def describe_store_error(error: BaseException) -> str:
    """Say why; what is not known to be free of secrets is told by its kind only."""
    told = (_described(one) for one in _from_outside_in(error))
    return next(filter(None, told), type(error).__name__)


def _from_outside_in(error: BaseException) -> Iterator[BaseException]:
    # redis-py wraps what the socket says, once for a server and twice for a cluster.
    at: BaseException | None = error
    while isinstance(at, STORE_ERRORS):
        yield at
        at = at.__cause__ or at.__context__


def _described(error: BaseException) -> str:
    if kind := _BY_KIND.get(type(error)):
        return kind
    if isinstance(error, OSError):
        return describe_error(error)
    text = str(error)
    code = getattr(error, "status_code", None) or text.partition(" ")[0]
    if code in _BY_CODE:
        return f"{code}: {_BY_CODE[code]}"
    return next((told for begins, told in _BY_TEXT.items() if text.startswith(begins)), "")
