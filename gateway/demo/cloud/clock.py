"""The box's own clock. The box stands for other machines, so it does not share the gateway's."""

import time


def now() -> float:
    """Seconds since the epoch."""
    return time.time()  # noqa: TID251 - see above


def monotonic() -> float:
    return time.monotonic()  # noqa: TID251 - see above
