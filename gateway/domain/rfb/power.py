"""Power operations of a live console (xvp). Pure."""

from dataclasses import dataclass
from enum import IntEnum


class PowerAction(IntEnum):
    """An operation of an xvp message; the values are those of the protocol."""

    SHUTDOWN = 2
    REBOOT = 3
    RESET = 4

    def message(self) -> bytes:
        """Return the xvp message (type 250, version 1) for the server."""
        return bytes((250, 0, 1, self))


@dataclass(frozen=True, slots=True)
class PowerRequest:
    """A power operation that the browser has sent and that has not passed."""

    action: PowerAction
    is_allowed: bool
    """False without `server:power`, and in a view-only session."""
