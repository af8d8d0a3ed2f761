"""The fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11)."""

import math

from gateway.domain.queue.pacing import Pace
from gateway.flow.caller_limits import Remaining

_INTEGER_MAX = 999_999_999_999_999
"""RFC 9651, 3.3.1."""


def rate_limit_policy_field(pace: Pace) -> str:
    """Return the value of `RateLimit-Policy`."""
    quota = int(min(pace.requests, _INTEGER_MAX))
    return f'"caller";q={quota};w={math.ceil(pace.per_s)}'


def rate_limit_field(remaining: Remaining | tuple[int, int]) -> str:
    """Return the value of `RateLimit`."""
    requests, reset_s = remaining
    return f'"caller";r={requests};t={reset_s}'
