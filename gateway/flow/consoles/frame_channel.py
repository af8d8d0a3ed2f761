"""Port of a WebSocket that carries RFB: the browser's or the cloud's side of a console."""

from dataclasses import dataclass
from typing import Final, Protocol

BROWSER_FRAME_MAX: Final = 256 * 1024
"""Bytes of one message from a browser; a channel closes above it."""
CLOUD_FRAME_MAX: Final = 512 * 1024
"""Bytes of one message from the cloud. websockify sends at most 64 KiB."""
HEARTBEAT_S: Final = 20.0
"""A channel pings its peer after this time of silence, and waits half of it for the answer."""


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is closed: by the peer, or because the connection is lost (code 1006)."""

    code: int
    reason: str = ""
    """Text of the peer. It is not trusted: bound and escape it before it is shown."""
    violation: str | None = None
    """What the peer did wrong, where this side closed for it: a message above the limit, say."""


class FrameChannel(Protocol):
    """One WebSocket. `receive` has one caller; `send` and `send_text` may have several tasks."""

    async def receive(self) -> bytes | str | ChannelClosed:
        """Return the next message, whole, or the end; after the end, return it again."""

    async def send(self, data: bytes) -> None:
        """Send a binary message; return when the transport has taken it (back-pressure).

        On a closed channel it returns without effect: `receive` reports the end.
        """

    async def send_text(self, text: str) -> None:
        """Send a text message, as `send`; only the browser's side has these."""

    async def close(self, code: int, reason: str) -> None:
        """Close with a code and a reason; without effect on a closed channel. Bounded in time.

        Cancelled, it drops the connection with all that the peer has not received.
        """
