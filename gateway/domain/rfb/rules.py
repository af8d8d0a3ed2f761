"""What one connection to a console may carry. Pure."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles.model import Clipboard, SessionMode

PIXELS_MAX: Final = 32 * 1024 * 1024
"""A larger screen ends the session: a browser would need 128 MiB and more for it."""
CLIPBOARD_BYTES_MAX: Final = 64 * 1024
"""Clipboard text towards the server, in bytes; also after decompression."""
REMOVED_TEXT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Clipboard text of the server that is removed from its messages; a longer one would keep the
screen waiting for as long as the server likes."""
TURN_BYTES_MAX: Final = 64 * 1024
"""The desktop's name, and the reason of a refusal, in bytes."""


@dataclass(frozen=True, slots=True)
class RelayRules:
    """The rights and settings that apply to one connection."""

    mode: SessionMode
    """VIEW drops keys, pointer, clipboard text, resizing and power towards the server."""
    clipboard: Clipboard = Clipboard.BOTH
    power: bool = False
    """Passes xvp (shutdown, reboot, reset), which needs `server:power`."""
    pixels_max: int = PIXELS_MAX
    is_recorded: bool = False
    """Passes only what a player of the recording can show: noVNC's pixel format, and no H.264."""

    @property
    def clipboard_to_server(self) -> bool:
        return self.clipboard in {Clipboard.BOTH, Clipboard.TO_SERVER}

    @property
    def parses_server(self) -> bool:
        """True where clipboard text of the server must be removed from its messages."""
        return self.clipboard not in {Clipboard.BOTH, Clipboard.FROM_SERVER}
