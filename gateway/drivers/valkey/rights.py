"""The rights that serving needs on Redis, all tried before Redis counts as available.

Without this a process would find Redis available, fail with the first call that is denied, and find
it available again.
"""

from collections.abc import Iterator, Sequence

from redis.exceptions import ResponseError

from gateway.drivers.valkey.script import LuaScript
from gateway.drivers.valkey.store_errors import (
    VERSION_REQUIRED,
    DescribedStoreError,
    describe_store_error,
    missing_right,
)


class CallsRejected(DescribedStoreError):
    """The server rejects calls that serving needs."""


TRY_COMMANDS = LuaScript("try_commands")
KINDS = ("string", "hash", "set", "stream")
"""The keys that the script needs."""


def require_all(failures: Sequence[bytes], namespace: str) -> None:
    """Raise CallsRejected if TRY_COMMANDS returned failures."""
    failed = list(_pairs(failures))
    unknown = sorted({name for name, error in failed if "nknown" in error and "ommand" in error})
    if unknown:
        raise CallsRejected(f"unknown command {', '.join(unknown)}: {VERSION_REQUIRED}")
    missing = {
        right for name, error in failed if (right := missing_right(error, namespace, command=name))
    }
    if missing:
        raise CallsRejected(f"NOPERM: the ACL of this user lacks {' '.join(sorted(missing))}")
    if failed:
        _, error = failed[0]
        raise CallsRejected(describe_store_error(ResponseError(error)))


def _pairs(failures: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    texts = [one.decode(errors="replace") for one in failures]
    return zip(texts[::2], texts[1::2], strict=True)
