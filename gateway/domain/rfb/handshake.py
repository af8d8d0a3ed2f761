"""The handshake of RFB 3.3 to 3.8, of both sides. Pure.

Both sides take turns, so one generator reads them in order. Bytes of a side whose turn it is not
end the session: a browser cannot send a message before the gateway knows how to read it.

- Versions: 3.3, 3.7 and 3.8. A later server (Apple 3.889, Intel AMT 4.0, RealVNC 4.1 and 5.0)
  offers 3.8 to the browser, as noVNC would request it; 3.4 to 3.6 count as 3.3 (RFC 6143, 7.1.1).
- Security types: None and VNC Authentication. Others encrypt or wrap what follows, so the gateway
  could not inspect it; they are removed from the server's list. With none left the session ends.
- The shared flag is set: the gateway decides how many people use a console, not the VNC server.
- ServerInit is always parsed: a screen above `pixels_max` ends the session. Later changes of the
  size are inside rectangles; they are seen where the server's side is parsed, and by the page
  otherwise.
"""

import re
import struct
from collections.abc import Generator
from enum import Enum
from typing import Final

from gateway.domain.rfb.pixel_format import PixelFormat
from gateway.domain.rfb.rules import TURN_BYTES_MAX, RelayRules
from gateway.domain.rfb.violation import RfbViolation, ViolationKind


class Side(Enum):
    """The two peers of the relay."""

    BROWSER = "browser"
    CLOUD = "cloud"


class ConsoleRejected(Exception):
    """The VNC server rejected the browser: no security type, or a wrong password."""


_GREETING: Final = re.compile(rb"RFB (\d{3})\.(\d{3})\n")
_VERSIONS: Final = {b"RFB 003.003\n": 3, b"RFB 003.007\n": 7, b"RFB 003.008\n": 8}
_NONE: Final = 1
_VNC_AUTHENTICATION: Final = 2
_INSPECTABLE: Final = frozenset({_NONE, _VNC_AUTHENTICATION})
_SHARED: Final = b"\x01"

_Turns = Generator[tuple[Side, int], bytes, None]


class Handshake:
    """Reads both sides until ServerInit; after that `is_done` is true."""

    def __init__(self, rules: RelayRules, pixel_format: PixelFormat) -> None:
        self.is_done = False
        self.turn = Side.CLOUD
        """The side that has to send."""
        self._rules = rules
        self._pixel_format = pixel_format
        self._input = bytearray()
        self._output = bytearray()
        self._needed = 0
        self._steps = self._run()
        self.turn, self._needed = next(self._steps)

    def feed(self, side: Side, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes for the other side, and those that follow the handshake.

        Raises:
            RfbViolation: if the protocol or this gateway does not allow the bytes.
            ConsoleRejected: after the last bytes for the browser: `rejection` has them.

        """
        self._input += data
        while self._input:
            if side is not self.turn:
                raise RfbViolation(f"the {side.value} sent data before its turn")
            if len(self._input) < self._needed:
                break
            piece = bytes(self._input[: self._needed])
            del self._input[: self._needed]
            try:
                self.turn, self._needed = self._steps.send(piece)
            except StopIteration:
                self.is_done = True
                break
        return self._flush(), self._rest()

    def rejection(self) -> bytes:
        """Return the bytes for the browser that explain a `ConsoleRejected`."""
        return self._flush()

    def _flush(self) -> bytes:
        passed = bytes(self._output)
        self._output.clear()
        return passed

    def _rest(self) -> bytes:
        if not self.is_done:
            return b""
        rest = bytes(self._input)
        self._input.clear()
        return rest

    def _run(self) -> _Turns:
        offered = _offered_version((yield Side.CLOUD, 12))
        self._output += b"RFB 003.00%d\n" % offered
        answer = yield Side.BROWSER, 12
        version = _VERSIONS.get(answer, 0)
        if not version or version > offered:
            raise RfbViolation("the browser requested a version that was not offered")
        self._output += answer
        security = yield from self._old_security() if version == 3 else self._security()
        if security == _VNC_AUTHENTICATION:
            self._output += yield Side.CLOUD, 16
            self._output += yield Side.BROWSER, 16
        if security == _VNC_AUTHENTICATION or version == 8:
            yield from self._security_result(version)
        yield Side.BROWSER, 1
        self._output += _SHARED
        yield from self._server_init()

    def _security(self) -> Generator[tuple[Side, int], bytes, int]:
        (count,) = yield Side.CLOUD, 1
        if count == 0:
            self._output.append(0)
            yield from self._reason("the console offers no security type")
        types = yield Side.CLOUD, count
        passing = bytes(number for number in types if number in _INSPECTABLE)
        if not passing:
            raise _not_inspectable(types)
        self._output += bytes((len(passing),)) + passing
        choice = yield Side.BROWSER, 1
        if choice not in passing:
            raise RfbViolation(f"the browser chose security type {choice[0]}, which is not offered")
        self._output += choice
        return choice[0]

    def _old_security(self) -> Generator[tuple[Side, int], bytes, int]:
        """Before 3.7 the server decides."""
        word = yield Side.CLOUD, 4
        (number,) = struct.unpack(">I", word)
        if number == 0:
            self._output += word
            yield from self._reason("the console rejected the connection")
        if number not in _INSPECTABLE:
            raise _not_inspectable([number])
        self._output += word
        return int(number)

    def _security_result(self, version: int) -> _Turns:
        word = yield Side.CLOUD, 4
        self._output += word
        if word == b"\0\0\0\0":
            return
        if version == 8:
            yield from self._reason("the console rejected the password")
        raise ConsoleRejected("the console rejected the password")

    def _reason(self, what: str) -> _Turns:
        """Pass the server's reason to the browser, then end."""
        size = yield Side.CLOUD, 4
        (count,) = struct.unpack(">I", size)
        _check_text(count, "reason of a rejection")
        self._output += size
        if count:
            self._output += yield Side.CLOUD, count
        raise ConsoleRejected(what)

    def _server_init(self) -> _Turns:
        head = yield Side.CLOUD, 24
        width, height = struct.unpack_from(">HH", head)
        check_screen(width, height, self._rules.pixels_max)
        (count,) = struct.unpack_from(">I", head, 20)
        _check_text(count, "desktop name")
        if self._rules.parses_server:
            self._pixel_format.replace(PixelFormat.parse(head[4:20]))
        self._output += head
        if count:
            self._output += yield Side.CLOUD, count


def check_screen(width: int, height: int, pixels_max: int) -> None:
    """Check the size of the server's screen.

    Raises:
        RfbViolation: if it has too many pixels.

    """
    if width * height > pixels_max:
        raise RfbViolation(
            f"a screen of {width} x {height} is above {pixels_max} pixels",
            ViolationKind.SCREEN_SIZE,
        )


def _offered_version(greeting: bytes) -> int:
    parts = _GREETING.fullmatch(greeting)
    if parts is None:
        raise RfbViolation("the console does not speak RFB", ViolationKind.RFB_VERSION)
    version = int(parts[1]), int(parts[2])
    if version < (3, 3):
        raise RfbViolation(
            f"RFB {version[0]}.{version[1]} is not supported; 3.3 is the oldest",
            ViolationKind.RFB_VERSION,
        )
    if version < (3, 7):
        return 3
    return min(8, version[1]) if version[0] == 3 else 8


def _not_inspectable(types: bytes | list[int]) -> RfbViolation:
    numbers = ", ".join(str(number) for number in types)
    return RfbViolation(
        f"the console offers only security types that cannot be inspected ({numbers});"
        " enable None (1) or VNC Authentication (2)",
        ViolationKind.SECURITY_TYPES,
    )


def _check_text(count: int, what: str) -> None:
    if count > TURN_BYTES_MAX:
        raise RfbViolation(
            f"{what}: {count} bytes are above the limit of {TURN_BYTES_MAX}",
            ViolationKind.MESSAGE_SIZE,
        )
