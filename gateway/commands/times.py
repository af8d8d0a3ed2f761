"""Argument types for times and durations: one syntax for all commands."""

import argparse
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from gateway.domain.timestamps import parse_instant

DURATION_HELP: Final = "30s, 15m, 1h, 7d, or a number of seconds"
TIME_HELP: Final = "ISO 8601 with time zone, or a time before now: 30m, 1h, 7d"
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def now() -> float:
    """Return the time in seconds since the epoch; without the imports of `SystemClock`."""
    return datetime.now(UTC).timestamp()


def duration(low: float, high: float) -> Callable[[str], float]:
    """Return a type for a duration with a unit, or in seconds; its value is in seconds."""

    def read(text: str) -> float:
        value: float | None = _with_unit(text)
        if value is None:
            try:
                value = float(text)
            except ValueError:
                raise argparse.ArgumentTypeError(f"must be {DURATION_HELP}") from None
        if not low <= value <= high:  # false for NaN as well
            raise argparse.ArgumentTypeError(f"must be from {low:,} to {high:,} seconds")
        return value

    return read


def time_or_age(text: str) -> float:
    """Return the seconds since the epoch of a time, or of a duration before now."""
    age_s = _with_unit(text)
    if age_s is not None:
        return now() - age_s
    try:
        return instant(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{error}, or a time before now such as 30m, 1h or 7d"
        ) from None


def instant(text: str) -> float:
    """Return the seconds since the epoch."""
    try:
        return parse_instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def rfc3339(at: float) -> str:
    """Return seconds since the epoch as a time in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _with_unit(text: str) -> int | None:
    found = _DURATION.fullmatch(text)
    return int(found[1]) * _UNIT_S[found[2]] if found else None
