"""A scripted RFB client over a WebSocket: decodes updates into pixels, types, and counts messages.

It is written from RFC 6143, apart from the gateway's parsers and the simulated screens.
"""

import asyncio
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from gateway.demo.cloud.screen.vnc_authentication import respond

RAW, COPY_RECT, HEXTILE = 0, 1, 5
DESKTOP_SIZE, CURSOR, QEMU_KEYS, DESKTOP_NAME, XVP = -223, -239, -258, -307, -309
ALL_ENCODINGS = (COPY_RECT, HEXTILE, RAW, DESKTOP_SIZE, CURSOR, DESKTOP_NAME)
RETURN, BACKSPACE, CONTROL, ALT, DELETE = 0xFF0D, 0xFF08, 0xFFE3, 0xFFE9, 0xFFFF
TIMEOUT_S = 60.0


class RfbClosed(Exception):
    """The server closed the connection; the arguments are the close code and the reason."""


@dataclass
class Picture:
    """Pixels as the server sent them, `bytes_per_pixel` each."""

    width: int
    height: int
    bytes_per_pixel: int = 4
    pixels: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.pixels = bytearray(self.width * self.height * self.bytes_per_pixel)

    def put(self, x: int, y: int, width: int, data: bytes) -> None:
        """Write rows of `width` pixels with the top left corner at (x, y)."""
        size = self.bytes_per_pixel
        for i in range(len(data) // (width * size)):
            at = ((y + i) * self.width + x) * size
            self.pixels[at : at + width * size] = data[i * width * size : (i + 1) * width * size]

    def cut(self, x: int, y: int, width: int, height: int) -> bytes:
        size = self.bytes_per_pixel
        starts = [((y + i) * self.width + x) * size for i in range(height)]
        return b"".join(bytes(self.pixels[at : at + width * size]) for at in starts)


class RfbClient:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.name = b""
        self.picture = Picture(0, 0)
        self.kinds: Counter[int] = Counter()
        """Rectangles so far, by encoding."""
        self.clipboards: list[bytes] = []
        self.bells = 0
        self.xvp: list[int] = []
        self._buffer = bytearray()

    async def read(self, count: int) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            while len(self._buffer) < count:
                await self.receive()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def receive(self) -> None:
        """Read one frame. Raises RfbClosed for anything else."""
        message = await self.socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise RfbClosed(self.socket.close_code, message.extra)
        self._buffer += message.data

    async def send(self, data: bytes) -> None:
        await self.socket.send_bytes(data)

    async def handshake(
        self, version: str = "3.8", *, password: str | None = None, shared: bool = True
    ) -> "RfbClient":
        """Go through the handshake. Raises PermissionError with the server's reason."""
        assert (await self.read(12)).startswith(b"RFB 003.")
        await self.send(f"RFB 003.00{version[-1]}\n".encode())
        if version == "3.3":
            (kind,) = struct.unpack(">I", await self.read(4))
        else:
            kinds = await self.read((await self.read(1))[0])
            kind = 2 if password is not None else 1
            assert kind in kinds, kinds
            await self.send(bytes((kind,)))
        if kind == 2:
            await self.send(respond(await self.read(16), password or ""))
        if kind == 2 or version == "3.8":
            (failed,) = struct.unpack(">I", await self.read(4))
            if failed:
                raise PermissionError(await self._read_text() if version == "3.8" else b"")
        await self.send(bytes((int(shared),)))
        width, height = struct.unpack(">HH", await self.read(4))
        await self.read(16)
        self.name = await self._read_text()
        self.picture = Picture(width, height)
        return self

    async def set_encodings(self, *encodings: int) -> None:
        count = len(encodings)
        await self.send(struct.pack(f">BxH{count}i", 2, count, *encodings))

    async def set_pixels(
        self,
        bits: int,
        maxima: tuple[int, int, int],
        shifts: tuple[int, int, int],
        *,
        big_endian: bool = False,
    ) -> None:
        layout = struct.pack(">BBBBHHHBBBxxx", bits, bits, big_endian, 1, *maxima, *shifts)
        await self.send(b"\0\0\0\0" + layout)
        self.picture = Picture(self.picture.width, self.picture.height, bits // 8)

    async def request(self, *, incremental: bool = True) -> None:
        size = self.picture.width, self.picture.height
        await self.send(struct.pack(">BBHHHH", 3, incremental, 0, 0, *size))

    async def key(self, keysym: int, *, is_down: bool = True) -> None:
        await self.send(struct.pack(">BBxxI", 4, is_down, keysym))

    async def type(self, text: str) -> None:
        for character in text:
            keysym = RETURN if character == "\n" else ord(character)
            await self.key(keysym)
            await self.key(keysym, is_down=False)

    async def copy(self, text: bytes) -> None:
        await self.send(struct.pack(">BxxxI", 6, len(text)) + text)

    async def update(self, *, incremental: bool = True) -> None:
        """Request an update and read messages until it arrives."""
        await self.request(incremental=incremental)
        while await self.read_message() != 0:
            pass

    async def read_message(self) -> int:
        """Read one message of the server; return its type."""
        (kind,) = await self.read(1)
        match kind:
            case 0:
                (count,) = struct.unpack(">xH", await self.read(3))
                for _ in range(count):
                    await self._read_rectangle()
            case 2:
                self.bells += 1
            case 3:
                await self.read(3)
                self.clipboards.append(await self._read_text())
            case 250:
                self.xvp.append((await self.read(3))[2])
            case _:
                raise AssertionError(f"message {kind}")
        return int(kind)

    async def _read_text(self) -> bytes:
        (length,) = struct.unpack(">I", await self.read(4))
        return await self.read(length)

    async def _read_rectangle(self) -> None:
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self.read(12))
        self.kinds[encoding] += 1
        size = self.picture.bytes_per_pixel
        match encoding:
            case 0:
                self.picture.put(x, y, width, await self.read(width * height * size))
            case 1:
                from_x, from_y = struct.unpack(">HH", await self.read(4))
                moved = self.picture.cut(from_x, from_y, width, height)
                self.picture.put(x, y, width, moved)
            case 5:
                await self._read_hextile(x, y, width, height)
            case -223:
                self.picture = Picture(width, height, size)
            case -239:
                await self.read(width * height * size + (width + 7) // 8 * height)
            case -258:
                pass
            case -307:
                self.name = await self._read_text()
            case _:
                raise AssertionError(f"encoding {encoding}")

    async def _read_hextile(self, left: int, top: int, width: int, height: int) -> None:
        size = self.picture.bytes_per_pixel
        background = foreground = bytes(size)
        for y in range(top, top + height, 16):
            for x in range(left, left + width, 16):
                wide, high = min(16, left + width - x), min(16, top + height - y)
                (mask,) = await self.read(1)
                if mask & 1:
                    self.picture.put(x, y, wide, await self.read(wide * high * size))
                    continue
                if mask & 2:
                    background = await self.read(size)
                if mask & 4:
                    foreground = await self.read(size)
                self.picture.put(x, y, wide, background * (wide * high))
                for _ in range((await self.read(1))[0] if mask & 8 else 0):
                    colour = await self.read(size) if mask & 16 else foreground
                    place, extent = await self.read(2)
                    w, h = (extent >> 4) + 1, (extent & 15) + 1
                    assert (place >> 4) + w <= wide
                    assert (place & 15) + h <= high
                    self.picture.put(x + (place >> 4), y + (place & 15), w, colour * (w * h))


@asynccontextmanager
async def connect_rfb(
    url: str, *, tls: ssl.SSLContext | None = None, protocols: tuple[str, ...] = (), **headers: str
) -> AsyncIterator[RfbClient]:
    """Open a WebSocket; the handshake of RFB is the caller's."""
    tcp = None
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http,
            http.ws_connect(
                url, ssl=tls or True, protocols=protocols, headers=headers, max_msg_size=1 << 30
            ) as socket,
        ):
            tcp = socket.get_extra_info("socket")
            yield RfbClient(socket)
    finally:
        # aiohttp does not wait for the end of TLS; the event loop must not end before.
        async with asyncio.timeout(TIMEOUT_S):
            while tcp is not None and tcp.fileno() != -1:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
