"""Messages between the replicas of a single-flight fetch: waiting callers, and failures."""

import json
import math
from collections.abc import Sequence

from gateway.domain.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    GatewayError,
    RetryLater,
    ServiceLoginFailed,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamRefused,
    UpstreamSlow,
    UpstreamSuspended,
    UpstreamUnreachable,
)
from gateway.domain.model import QueueRequest

_RETRY_LATER = {
    kind.__name__: kind
    for kind in (
        BudgetExhausted,
        UpstreamBusy,
        UpstreamSuspended,
        UpstreamUnreachable,
        ServiceLoginFailed,
    )
}
_PLAIN = {kind.__name__: kind for kind in (UpstreamBroken, UpstreamSlow, DeadlineExceeded)}


def encode_waiters(waiters: Sequence[QueueRequest]) -> bytes:
    return json.dumps([(one.caller, one.weight) for one in waiters]).encode()


def decode_waiters(text: bytes) -> list[QueueRequest]:
    """Return the waiters; an unreadable message has none."""
    try:
        return [QueueRequest(str(caller), float(weight)) for caller, weight in json.loads(text)]
    except (ValueError, TypeError):
        return []


def encode_failure(error: GatewayError, allowed_s: float) -> bytes:
    """Encode the error of a fetch that had `allowed_s` seconds until its deadline."""
    if not error.out_of_time:
        allowed_s = math.inf  # more time would not have helped
    match error:
        case UpstreamRefused():
            fields = [error.status, error.error_code, error.error_msg]
        case RetryLater():
            fields = [str(error), error.retry_after_s]
        case _:
            fields = [str(error)]
    return json.dumps([allowed_s, type(error).__name__, *fields]).encode()


def decode_failure(failure: bytes) -> tuple[GatewayError, float]:
    """Return another replica's error, and how many seconds its fetch had."""
    try:
        allowed_s, kind, *fields = json.loads(failure)
    except (ValueError, TypeError):
        allowed_s, kind, fields = math.inf, "", []
    error: GatewayError = UpstreamBroken("another replica's fetch failed")
    match kind, fields:
        case "UpstreamRefused", [int(status), str(code), str(message)]:
            error = UpstreamRefused(status, code, message)
        case _, [str(text), int() | float() as retry_after_s] if kind in _RETRY_LATER:
            error = _RETRY_LATER[kind](text, retry_after_s=retry_after_s)
        case _, [str(text)] if kind in _PLAIN:
            error = _PLAIN[kind](text)
    error.out_of_time = allowed_s < math.inf
    return error, float(allowed_s)
