"""The ends of live consoles: close codes, names and texts. Pure.

The relay, the page, the audit log, the metrics and the docs share this table. Close codes from 4000
to 4999 are for private use (RFC 6455, 7.4.2).
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """Why a session, or one connection of its page, ended."""

    name: str
    """Name in the audit log, in metrics and in messages to the page."""
    code: int | None
    """Close code of the WebSocket; None: no WebSocket is open at this end."""
    title: str
    """The event, as the page shows it."""
    advice: str
    """The next step for the person, as the page shows it."""
    is_final: bool = True
    """False: the session continues, on another connection."""


PERSON: Final = SessionEnd(
    "person", 4000, "You have disconnected.", "Request a new address to open the console again."
)
OPERATOR: Final = SessionEnd(
    "operator",
    4001,
    "An operator has ended this session.",
    "Contact your operators before you open the console again.",
)
RIGHT_ENDED: Final = SessionEnd(
    "right_ended",
    4002,
    "Your permission for this console has ended.",
    "Request access to this server, then request a new address.",
)
TOKEN: Final = SessionEnd(
    "token",
    4003,
    "Your sign-in has expired.",
    "Get a new token, then request a new address.",
)
IDLE: Final = SessionEnd(
    "idle",
    4004,
    "The console was idle for too long.",
    "Request a new address to open the console again.",
)
TIME_LIMIT: Final = SessionEnd(
    "time_limit",
    4005,
    "The session has reached its time limit.",
    "Request a new address to open the console again.",
)
TAKEN_OVER: Final = SessionEnd(
    "taken_over",
    4006,
    "Another person has taken over this console.",
    "Agree with that person before you open the console again.",
)
MOVE: Final = SessionEnd(
    "move",
    4007,
    "The gateway is moving this session to another process.",
    "Wait: the page reconnects by itself.",
    is_final=False,
)
REPLACED: Final = SessionEnd(
    "replaced",
    4008,
    "This page has a newer connection.",
    "No action is needed: the session continues on the newer connection.",
    is_final=False,
)
STALE_PAGE: Final = SessionEnd(
    "stale_page",
    4009,
    "This is not the session's current page.",
    "Use the tab in which the console is open, or request a new address.",
    is_final=False,
)
CLOUD_UNAVAILABLE: Final = SessionEnd(
    "cloud_unavailable",
    4010,
    "The cloud did not open the console.",
    "Read the cloud's message, then request a new address.",
)
CLOUD_CLOSED: Final = SessionEnd(
    "cloud_closed",
    4011,
    "The cloud has closed the console.",
    "Request a new address to open the console again.",
)
PROTOCOL_ERROR: Final = SessionEnd(
    "protocol_error",
    4012,
    "The console sent or received a message that the gateway does not allow.",
    "Request a new address. If it happens again, report the request ID to your operators.",
)
RECORDING_FAILED: Final = SessionEnd(
    "recording_failed",
    4013,
    "The session could not be recorded.",
    "Report it to your operators: this console must be recorded.",
)
LIMIT: Final = SessionEnd(
    "limit",
    4014,
    "A limit on live consoles is reached.",
    "End another session, or wait until one ends.",
)
OWNER_LOST: Final = SessionEnd(
    "owner_lost",
    None,
    "The gateway's process has failed.",
    "Request a new address to open the console again.",
)
ABANDONED: Final = SessionEnd(
    "abandoned",
    None,
    "The page was closed or lost its connection.",
    "Request a new address to open the console again.",
)

SESSION_ENDS: Final = (
    PERSON,
    OPERATOR,
    RIGHT_ENDED,
    TOKEN,
    IDLE,
    TIME_LIMIT,
    TAKEN_OVER,
    MOVE,
    REPLACED,
    STALE_PAGE,
    CLOUD_UNAVAILABLE,
    CLOUD_CLOSED,
    PROTOCOL_ERROR,
    RECORDING_FAILED,
    LIMIT,
    OWNER_LOST,
    ABANDONED,
)
"""All ends, in the order of their close codes."""
