"""Text form of timestamps. Pure."""

from datetime import UTC, datetime
from functools import lru_cache


def iso(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, to the microsecond, ending in `Z`."""
    whole = int(seconds)
    micros = round((seconds - whole) * 1e6)
    if 0 <= micros < 1_000_000:
        return f"{_to_the_second(whole)}.{micros:06d}Z"
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat(timespec='microseconds')[:-6]}Z"


@lru_cache(maxsize=4)
def _to_the_second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat(timespec="seconds")[:-6]
