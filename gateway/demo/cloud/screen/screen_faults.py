"""What a hostile or broken server does on an open console connection.

Each kind is a fault of the console host: `POST /_box/faults {"kind": "vencrypt_only"}`. Those that
happen before the WebSocket is open are kinds of every listener (`faults.py`): `answer` refuses with
a status, `reset` and `wrong_token` close without one, `slow` delays, `hang` is silent, `redirect`
redirects.
"""

import asyncio
import os
import struct
from typing import Final

from gateway.demo.cloud.screen.screen_channel import ScreenChannel, ViewerGone
from gateway.demo.cloud.screen.tile_encoder import ScreenEncoding, pseudo_rectangle, text_data

HOSTILE_TEXT: Final = (
    "\x1b[31m\x1b]0;owned\x07<img src=x onerror=alert(1)>\u202egnp.exe\r\n\0" + '"event":"forged"'
)
"""Escape sequences, HTML, a change of the writing direction and line ends."""
HUGE: Final = 1 << 30
"""Length in headers that promise too much."""
_FRAME_BYTES: Final = 16 << 20

SCREEN_FAULTS: Final = {
    "silent": "opens the WebSocket and sends nothing",
    "not_rfb": "sends another protocol instead of the greeting",
    "text_frames": "sends the greeting as text",
    "future_version": "greets with RFB 9.9",
    "vencrypt_only": "offers VeNCrypt as the only security type",
    "no_security": "offers no security type, with a reason",
    "huge_security_reason": "announces a reason of 1 GB",
    "huge_size": "a screen of 65535 by 65535 pixels",
    "hostile_name": "a desktop name with escapes and HTML",
    "huge_name": "announces a desktop name of 1 GB",
    "huge_resize": "resizes the screen to 65535 by 65535 pixels",
    "hostile_clipboard": "puts escapes and HTML into the clipboard",
    "large_clipboard": "puts 256 KiB into the clipboard",
    "huge_clipboard": "announces clipboard text of 1 GB",
    "unknown_message": "sends a message of an unknown type",
    "huge_frame": "sends one WebSocket frame of 16 MiB",
    "flood": "sends screen updates without end and without a request",
    "stall": "neither sends nor reads soon after the screen's description",
    "cut": "resets the connection soon after the screen's description",
    "close": "closes the WebSocket soon after the screen's description",
}
"""Faults by kind."""

_GREETING: Final = b"RFB 003.008\n"
_CUT_TEXT: Final = b"\x03\0\0\0"
_UPDATE_OF_ONE: Final = b"\0\0\0\x01"
_FLOOD_BYTES: Final = 65_536
_PROMISED: Final = struct.pack(">I", HUGE) + b"x" * 1_000

_GREETINGS: Final = {
    "silent": b"",
    "not_rfb": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "future_version": b"RFB 009.009\n",
}
_SECURITY: Final = {
    "vencrypt_only": b"\x01\x13",
    "no_security": b"\0" + text_data(HOSTILE_TEXT.encode()),
    "huge_security_reason": b"\0" + _PROMISED,
}
_MESSAGES: Final = {
    "huge_resize": _UPDATE_OF_ONE + pseudo_rectangle(ScreenEncoding.DESKTOP_SIZE, 65_535, 65_535),
    "hostile_clipboard": _CUT_TEXT + text_data(HOSTILE_TEXT.encode("latin-1", "replace")),
    "large_clipboard": _CUT_TEXT + text_data(b"x" * 262_144),
    "huge_clipboard": _CUT_TEXT + _PROMISED,
    "unknown_message": b"\xc8" + bytes(15),
}


class ScreenFault:
    """One kind of SCREEN_FAULTS, or an empty kind that does nothing."""

    def __init__(self, kind: str, delay_s: float = 0.3) -> None:
        """Faults of an open screen happen `delay_s` seconds after its description was sent."""
        self._kind = kind
        self._delay_s = delay_s

    async def before_greeting(self, channel: ScreenChannel) -> None:
        if self._kind == "text_frames":
            await channel.send_text(_GREETING.decode())
        elif self._kind in _GREETINGS:
            await channel.send(_GREETINGS[self._kind])
        else:
            return
        await self._wait_until_gone(channel)

    async def instead_of_security(self, channel: ScreenChannel) -> None:
        if self._kind in _SECURITY:
            await channel.send(_SECURITY[self._kind])
            await self._wait_until_gone(channel)

    def replace_server_init(self, init: bytes) -> bytes:
        size, pixels, name = init[:4], init[4:20], init[20:]
        if self._kind == "huge_size":
            size = b"\xff" * 4
        elif self._kind == "hostile_name":
            name = text_data(HOSTILE_TEXT.encode())
        elif self._kind == "huge_name":
            name = _PROMISED
        return size + pixels + name

    async def after_init(self, channel: ScreenChannel) -> None:
        if self._kind == "flood":
            await _flood(channel)
        await asyncio.sleep(self._delay_s)
        if self._kind in _MESSAGES:
            await channel.send(_MESSAGES[self._kind])
        elif self._kind == "huge_frame":
            await channel.send_whole(bytes(_FRAME_BYTES))
        elif self._kind == "stall":
            channel.stall()
        elif self._kind == "cut":
            channel.abort()
        elif self._kind == "close":
            await channel.close()

    async def _wait_until_gone(self, channel: ScreenChannel) -> None:
        await channel.wait_closed()
        raise ViewerGone(self._kind)


async def _flood(channel: ScreenChannel) -> None:
    """Send Raw rectangles of 128 by 128 pixels of noise as fast as the connection takes them."""
    noise = os.urandom(_FLOOD_BYTES)
    update = _UPDATE_OF_ONE + pseudo_rectangle(ScreenEncoding.RAW, 128, 128, noise)
    while True:
        await channel.send(update)
        await asyncio.sleep(0)
