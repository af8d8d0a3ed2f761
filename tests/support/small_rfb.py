"""A small RFB 3.8 server (RFC 6143) over any two functions that receive and send bytes."""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache

from gateway.demo.cloud.screen.font import HEIGHT, glyph

Receive = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]

_PIXEL_FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
_FIXED_LENGTHS = {0: 20, 3: 10, 4: 8, 5: 6, 250: 4}
_CHALLENGE = bytes(range(16))
_TEXT = """\

 Debian GNU/Linux 12 db-primary-01 tty1

 db-primary-01 login: root
 Password:
 Last login: Mon Nov 30 08:12:44 UTC 2026 on tty1
 root@db-primary-01:~# systemctl status postgresql
 * postgresql.service - PostgreSQL RDBMS
      Loaded: loaded (/lib/systemd/system/postgresql.service; enabled)
      Active: active (exited) since Mon 2026-11-30 06:01:07 UTC; 2h 11min ago
     Process: 812 ExecStart=/bin/true (code=exited, status=0/SUCCESS)
    Main PID: 812 (code=exited, status=0/SUCCESS)
         CPU: 3ms
 root@db-primary-01:~# _""".splitlines()


@dataclass(slots=True)
class SmallScreen:
    """A picture of one frame, and a record of what the client sent."""

    width: int = 800
    height: int = 600
    name: str = "screen"
    requires_password: bool = False
    rejects_password: bool = False
    extra: bytes = b""
    """Raw bytes after the first update: other messages of a server, also hostile ones."""
    keys: list[tuple[int, bool]] = field(default_factory=list)
    """Keysym and whether it was pressed."""
    pointers: int = 0
    power: list[int] = field(default_factory=list)
    """Operations of xvp."""
    cut_texts: list[str] = field(default_factory=list)
    encodings: list[int] = field(default_factory=list)
    challenges: int = 0

    async def serve(self, receive: Receive, send: Send) -> None:
        """Serve one client until `receive` raises."""
        stream = _Stream(receive)
        await send(b"RFB 003.008\n")
        await stream.read(12)
        if not await self._authenticate(stream, send):
            return
        await stream.read(1)
        name = self.name.encode()
        await send(
            struct.pack(">HH", self.width, self.height)
            + _PIXEL_FORMAT
            + struct.pack(">I", len(name))
            + name
        )
        is_drawn = False
        while True:
            if await self._read_message(stream) and not is_drawn:
                is_drawn = True
                await send(_picture(min(self.width, 800), min(self.height, 600)))
                if self.extra:
                    await send(self.extra)

    async def _authenticate(self, stream: "_Stream", send: Send) -> bool:
        kind = 2 if self.requires_password else 1
        await send(bytes([1, kind]))
        await stream.read(1)
        if self.requires_password:
            await send(_CHALLENGE)
            await stream.read(16)
            self.challenges += 1
            if self.rejects_password:
                text = b"wrong <b>password</b>"
                await send(struct.pack(">II", 1, len(text)) + text)
                return False
        await send(bytes(4))
        return True

    async def _read_message(self, stream: "_Stream") -> bool:
        """Read one message, and return whether it requests an update."""
        kind = (await stream.read(1))[0]
        if kind == 2:
            (count,) = struct.unpack(">xH", await stream.read(3))
            self.encodings = list(struct.unpack(f">{count}i", await stream.read(4 * count)))
        elif kind == 6:
            (length,) = struct.unpack(">3xI", await stream.read(7))
            self.cut_texts.append((await stream.read(length)).decode("latin-1"))
        else:
            body = await stream.read(_FIXED_LENGTHS[kind] - 1)
            if kind == 4:
                down, keysym = struct.unpack(">B2xI", body)
                self.keys.append((keysym, bool(down)))
            elif kind == 5:
                self.pointers += 1
            elif kind == 250:
                self.power.append(body[2])
        return kind == 3

    def typed(self) -> str:
        """Return the characters of the pressed Latin-1 keys."""
        return "".join(chr(key) for key, down in self.keys if down and key < 0x100)


class _Stream:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._buffer = b""

    async def read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await self._receive()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


@cache
def _picture(width: int, height: int) -> bytes:
    """Return an update of one raw rectangle with the text of a console."""
    dark, bright = b"\x18\x14\x12\x00", b"\xd4\xd0\xc8\x00"
    rows = []
    for y in range(height):
        line, within = divmod(y, HEIGHT)
        text = _TEXT[line] if line < len(_TEXT) else ""
        bits = "".join(f"{glyph(ord(character))[within]:08b}" for character in text)
        row = b"".join(bright if bit == "1" else dark for bit in bits[:width])
        rows.append(row + dark * (width - len(row) // 4))
    return struct.pack(">BxHHHHHi", 0, 1, 0, 0, width, height, 0) + b"".join(rows)
