"""Text form of timestamps. Pure."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_YEAR_9999: Final = 253_402_300_799


def parse_instant(text: str) -> float:
    """Return the seconds since the epoch of an ISO 8601 time with a zone, as RFC 3339 writes it.

    Raises ValueError with what is wrong. A time without a zone would depend on the machine's.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be an ISO 8601 time") from None
    if found.tzinfo is None:
        raise ValueError("needs a time zone, e.g. 2026-11-23T12:00:00+00:00")
    seconds = found.timestamp()
    if not 0 <= seconds <= _YEAR_9999:
        raise ValueError("must be in the years 1970 to 9999")
    return seconds


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
