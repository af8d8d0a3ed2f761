"""The clock of the simulated cloud, separate from the gateway's: real clouds are other machines."""

import time


def now() -> float:
    """Seconds since the epoch."""
    return time.time()  # noqa: TID251 - see above


def monotonic() -> float:
    return time.monotonic()  # noqa: TID251 - see above
