"""One RFB connection to a simulated screen (RFC 6143), versions 3.3, 3.7 and 3.8.

At most one update answers a request, and only when something changed. Encodings: Raw, Hextile,
CopyRect, DesktopSize, Cursor, DesktopName; QEMU's keys and xvp where the settings offer them.
"""

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.demo.cloud.screen import vnc_authentication
from gateway.demo.cloud.screen.screen_channel import ScreenChannel, ViewerGone
from gateway.demo.cloud.screen.screen_faults import ScreenFault
from gateway.demo.cloud.screen.server_screen import ServerScreen
from gateway.demo.cloud.screen.text_screen import ScreenDamage
from gateway.demo.cloud.screen.tile_encoder import (
    NATIVE,
    TILE,
    ScreenEncoding,
    ScreenPixels,
    TileEncoder,
    copy_rectangle,
    pseudo_rectangle,
    text_data,
)

VERSIONS: Final = ("3.3", "3.7", "3.8")

_NONE, _VNC_AUTHENTICATION = 1, 2
_CUT_TEXT_MAX: Final = 16_777_216
_SIZES: Final = {0: 19, 2: 3, 3: 9, 4: 7, 5: 5, 6: 7, 250: 3, 251: 7, 255: 11}
_NAMES: Final = {
    0: "SetPixelFormat",
    2: "SetEncodings",
    3: "FramebufferUpdateRequest",
    4: "KeyEvent",
    5: "PointerEvent",
    6: "ClientCutText",
    250: "xvp",
    251: "SetDesktopSize",
    255: "QemuKeyEvent",
}
_XVP_ACTIONS: Final = {2: "shutdown", 3: "reboot", 4: "reset"}


@dataclass(frozen=True, slots=True)
class ScreenOptions:
    """What the server offers."""

    version: str = "3.8"
    password: str | None = None
    """Password of VNC Authentication; None: no authentication."""
    xvp: bool = False
    qemu_keys: bool = False


class ScreenSession:
    def __init__(
        self,
        channel: ScreenChannel,
        screen: ServerScreen,
        options: ScreenOptions,
        fault: ScreenFault | None = None,
    ) -> None:
        self._channel = channel
        self._server = screen
        self._options = options
        self._fault = fault or ScreenFault("")
        self._version = options.version
        self._encoder = TileEncoder(NATIVE)
        self._encodings: list[int] = []
        self._announced: set[ScreenEncoding] = set()
        self._is_requested = False
        self._has_new_name = False
        self._damage = ScreenDamage(0, 0)
        self._outgoing: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._is_shared = False
        self._handlers: dict[int, Callable[[bytes], Awaitable[None]]] = {
            0: self._set_pixels,
            2: self._set_encodings,
            3: self._request,
            4: self._press_key,
            5: self._point,
            6: self._take_clipboard,
            250: self._power,
            251: self._skip_layout,
            255: self._press_qemu_key,
        }

    async def run(self) -> None:
        """Serve until the viewer leaves. Raise ViewerGone if it leaves during the handshake."""
        await self._fault.before_greeting(self._channel)
        await self._agree_on_version()
        await self._authenticate()
        self._is_shared = await self._channel.read(1) != b"\0"
        await self._describe_screen()
        with (
            self._server.shown_to(self, shared=self._is_shared),
            self._server.screen.watched() as self._damage,
        ):
            async with asyncio.TaskGroup() as tasks:
                others = [
                    tasks.create_task(self._until_gone(self._send_updates)),
                    tasks.create_task(self._until_gone(self._send_others)),
                    tasks.create_task(self._until_gone(self._misbehave)),
                ]
                await self._until_gone(self._read_messages)
                for task in others:
                    task.cancel()

    def rename(self) -> None:
        self._has_new_name = True
        self._damage.changed.set()

    def ring(self) -> None:
        self._outgoing.put_nowait(lambda: self._channel.send(b"\x02"))

    def put_clipboard(self, text: bytes) -> None:
        self._outgoing.put_nowait(lambda: self._channel.send(b"\x03\0\0\0" + text_data(text)))

    def cut(self, *, reset: bool) -> None:
        if reset:
            self._channel.abort()
        else:
            self._outgoing.put_nowait(self._channel.close)

    def describe(self) -> dict[str, Any]:
        return {"shared": self._is_shared, "encodings": self._encodings, "version": self._version}

    async def _agree_on_version(self) -> None:
        await self._channel.send(f"RFB 003.00{self._options.version[-1]}\n".encode())
        text = await self._channel.read(12)
        offered = {f"RFB 003.00{version[-1]}\n": version for version in VERSIONS}
        wanted = offered.get(text.decode("latin-1"))
        if wanted is None or wanted > self._options.version:
            raise ViewerGone(f"version {text!r}")
        self._version = wanted

    async def _authenticate(self) -> None:
        kind = _NONE if self._options.password is None else _VNC_AUTHENTICATION
        await self._fault.instead_of_security(self._channel)
        if self._version == "3.3":
            await self._channel.send(struct.pack(">I", kind))
        else:
            await self._channel.send(bytes((1, kind)))
            if await self._channel.read(1) != bytes((kind,)):
                raise ViewerGone("security type")
        if self._options.password is not None:
            challenge = os.urandom(vnc_authentication.CHALLENGE_BYTES)
            await self._channel.send(challenge)
            response = await self._channel.read(len(challenge))
            if response != vnc_authentication.respond(challenge, self._options.password):
                await self._reject("Authentication failed")
        if kind != _NONE or self._version == "3.8":
            await self._channel.send(bytes(4))

    async def _reject(self, reason: str) -> None:
        text = text_data(reason.encode()) if self._version == "3.8" else b""
        await self._channel.send(struct.pack(">I", 1) + text)
        await self._channel.close()
        raise ViewerGone(reason)

    async def _describe_screen(self) -> None:
        screen = self._server.screen
        size = screen.columns * TILE // 2, screen.rows * TILE
        init = struct.pack(">HH", *size) + NATIVE.describe() + text_data(self._server.name)
        await self._channel.send(self._fault.replace_server_init(init))

    async def _until_gone(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except ViewerGone:
            await self._channel.close()

    async def _send_others(self) -> None:
        while True:
            await (await self._outgoing.get())()

    async def _misbehave(self) -> None:
        await self._fault.after_init(self._channel)

    # Messages of the viewer

    async def _read_messages(self) -> None:
        while True:
            kind = (await self._channel.read(1))[0]
            if kind not in _SIZES:
                self._server.messages[f"unknown {kind}"] += 1
                raise ViewerGone(f"message type {kind}")
            self._server.messages[_NAMES[kind]] += 1
            await self._handlers[kind](await self._channel.read(_SIZES[kind]))

    async def _press_key(self, body: bytes) -> None:
        is_down, keysym = struct.unpack(">BxxI", body)
        self._server.shell.key(keysym, is_down=bool(is_down))

    async def _press_qemu_key(self, body: bytes) -> None:
        is_down, keysym = struct.unpack(">xHI", body[:7])
        self._server.shell.key(keysym, is_down=bool(is_down))

    async def _point(self, _: bytes) -> None:
        """Do nothing: the system has no use for a mouse."""

    async def _skip_layout(self, body: bytes) -> None:
        """Keep the size: it is not announced as changeable."""
        await self._channel.skip(16 * body[5])

    async def _set_pixels(self, body: bytes) -> None:
        try:
            self._encoder = TileEncoder(ScreenPixels.parse(body[3:]))
        except ValueError as error:
            raise ViewerGone(str(error)) from error
        self._damage.touch_all()

    async def _set_encodings(self, body: bytes) -> None:
        (count,) = struct.unpack(">xH", body)
        data = await self._channel.read(4 * count)
        self._encodings = list(struct.unpack(f">{count}i", data))
        if self._options.xvp and self._announces(ScreenEncoding.XVP):
            await self._channel.send(bytes((250, 0, 1, 1)))

    async def _request(self, body: bytes) -> None:
        self._is_requested = True
        if not body[0]:  # not incremental
            self._damage.touch_all()
        self._damage.changed.set()

    async def _take_clipboard(self, body: bytes) -> None:
        (length,) = struct.unpack(">xxxi", body)
        if abs(length) > _CUT_TEXT_MAX:
            raise ViewerGone("cut text")
        data = await self._channel.read(abs(length))
        if length >= 0:
            self._server.put_clipboard(data)

    async def _power(self, body: bytes) -> None:
        code = body[2]
        if not self._options.xvp or code not in _XVP_ACTIONS:
            await self._channel.send(bytes((250, 0, 1, 0)))
        else:
            self._server.power(_XVP_ACTIONS[code])

    # Updates to the viewer

    async def _send_updates(self) -> None:
        while True:
            await self._damage.changed.wait()
            self._damage.changed.clear()
            if not self._is_requested:
                continue
            rectangles = self._resize() if self._damage.resized else self._draw()
            if rectangles:
                self._is_requested = False
                head = struct.pack(">BxH", 0, len(rectangles))
                await self._channel.send(head + b"".join(rectangles))
                self._damage.changed.set()

    def _resize(self) -> list[bytes]:
        """Return the new size; it needs an update of its own."""
        if ScreenEncoding.DESKTOP_SIZE not in self._encodings:
            raise ViewerGone("cannot resize")
        self._damage.resized = False
        screen = self._server.screen
        width, height = screen.columns * TILE // 2, screen.rows * TILE
        return [pseudo_rectangle(ScreenEncoding.DESKTOP_SIZE, width, height)]

    def _draw(self) -> list[bytes]:
        rectangles = self._announcements()
        screen, (scrolled, tiles) = self._server.screen, self._damage.take()
        rows = screen.rows
        if 0 < scrolled < rows and ScreenEncoding.COPY_RECT in self._encodings:
            width, height = screen.columns * TILE // 2, (rows - scrolled) * TILE
            rectangles.append(copy_rectangle(width, height, scrolled * TILE))
        elif scrolled:
            tiles = {(column, row) for row in range(rows) for column in range(screen.columns // 2)}
        wanted = (ScreenEncoding.HEXTILE, ScreenEncoding.RAW)
        encoding = min(wanted, key=lambda one: _rank(self._encodings, one))
        for first, row, columns, height in _merge(tiles):
            cells = [screen.row(row + i, 2 * first, 2 * (first + columns)) for i in range(height)]
            rectangles.append(self._encoder.encode(encoding, (first, row), cells))
        return rectangles

    def _announcements(self) -> list[bytes]:
        rectangles = []
        if self._announces(ScreenEncoding.CURSOR):
            rectangles.append(self._encoder.cursor())
        if self._options.qemu_keys and self._announces(ScreenEncoding.QEMU_KEYS):
            rectangles.append(pseudo_rectangle(ScreenEncoding.QEMU_KEYS))
        if self._has_new_name and ScreenEncoding.DESKTOP_NAME in self._encodings:
            name = text_data(self._server.name)
            rectangles.append(pseudo_rectangle(ScreenEncoding.DESKTOP_NAME, data=name))
        self._has_new_name = False
        return rectangles

    def _announces(self, encoding: ScreenEncoding) -> bool:
        """Return whether this is the first time that the viewer accepts the encoding."""
        if encoding not in self._encodings or encoding in self._announced:
            return False
        self._announced.add(encoding)
        return True


def _rank(encodings: list[int], encoding: ScreenEncoding) -> int:
    return encodings.index(encoding) if encoding in encodings else len(encodings) + encoding


def _merge(tiles: set[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Return rectangles of tiles (column, row, columns, rows) that cover exactly the tiles."""
    runs: list[tuple[int, int, int]] = []
    for row, column in sorted((row, column) for column, row in tiles):
        if runs and runs[-1][0] == row and runs[-1][1] + runs[-1][2] == column:
            runs[-1] = (row, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((row, column, 1))
    merged: list[tuple[int, int, int, int]] = []
    for row, column, columns in runs:
        if merged and merged[-1][::2] == (column, columns):
            first, top, width, height = merged[-1]
            if top + height == row:
                merged[-1] = (first, top, width, height + 1)
                continue
        merged.append((column, row, columns, 1))
    return merged
