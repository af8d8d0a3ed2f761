"""The browser's side of RFB after the handshake, by an allow-list of message types. Pure.

The types are those that the pinned noVNC 1.7.0 sends (`RFB.messages` in `core/rfb.js`). A message
of another type ends the session, since its length is unknown. So does a message of an extension
that the browser has not announced in the SetEncodings that passed: a server without the extension
could read another length. A message passes whole, after its last byte is checked; what may not pass
is dropped whole. The server therefore never sees part of one.

View-only passes three types that every server knows and that carry nothing of a person:
SetPixelFormat, SetEncodings and FramebufferUpdateRequest. A session that becomes view-only
withdraws the extensions whose messages no longer pass, so that the server does not wait for them.
"""

import struct
import zlib
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, Protocol

from gateway.domain.consoles.model import Clipboard, SessionMode
from gateway.domain.rfb.encodings import KNOWN, MEASURABLE, Encoding
from gateway.domain.rfb.pixel_format import NOVNC_FORMAT, PixelFormat
from gateway.domain.rfb.power import PowerAction, PowerRequest
from gateway.domain.rfb.rules import CLIPBOARD_BYTES_MAX, RelayRules
from gateway.domain.rfb.stream import ParsedStream, Parser
from gateway.domain.rfb.violation import RfbViolation, ViolationKind


class ClientMessage(IntEnum):
    """The first byte of a message to the server."""

    SET_PIXEL_FORMAT = 0
    SET_ENCODINGS = 2
    UPDATE_REQUEST = 3
    KEY_EVENT = 4
    POINTER_EVENT = 5
    CUT_TEXT = 6
    ENABLE_CONTINUOUS_UPDATES = 150
    FENCE = 248
    XVP = 250
    SET_DESKTOP_SIZE = 251
    QEMU = 255


_FIXED_SIZES: Final = {
    ClientMessage.SET_PIXEL_FORMAT: 20,
    ClientMessage.UPDATE_REQUEST: 10,
    ClientMessage.KEY_EVENT: 8,
    ClientMessage.POINTER_EVENT: 6,
    ClientMessage.ENABLE_CONTINUOUS_UPDATES: 10,
    ClientMessage.XVP: 4,
    ClientMessage.QEMU: 12,
}
_HEADER_SIZES: Final = {
    ClientMessage.SET_ENCODINGS: 4,
    ClientMessage.CUT_TEXT: 8,
    ClientMessage.FENCE: 9,
    ClientMessage.SET_DESKTOP_SIZE: 8,
}
_INPUTS: Final = frozenset(
    {
        ClientMessage.KEY_EVENT,
        ClientMessage.POINTER_EVENT,
        ClientMessage.CUT_TEXT,
        ClientMessage.QEMU,
    }
)
"""Messages of a person: they restart the idle time."""
_KEYS: Final = frozenset({ClientMessage.KEY_EVENT, ClientMessage.QEMU})
_UPDATE_REQUESTS: Final = frozenset(
    {ClientMessage.UPDATE_REQUEST, ClientMessage.ENABLE_CONTINUOUS_UPDATES}
)
_PASS_IN_VIEW: Final = frozenset(
    {
        ClientMessage.SET_PIXEL_FORMAT,
        ClientMessage.SET_ENCODINGS,
        ClientMessage.UPDATE_REQUEST,
    }
)

_ANNOUNCED_BY: Final = {
    ClientMessage.ENABLE_CONTINUOUS_UPDATES: Encoding.CONTINUOUS_UPDATES,
    ClientMessage.FENCE: Encoding.FENCE,
    ClientMessage.SET_DESKTOP_SIZE: Encoding.EXTENDED_DESKTOP_SIZE,
    ClientMessage.QEMU: Encoding.QEMU_EXTENDED_KEY,
}
"""The encoding that announces an extension's message."""
_NOT_IN_VIEW: Final = frozenset(
    {Encoding.FENCE, Encoding.CONTINUOUS_UPDATES, Encoding.EXTENDED_CLIPBOARD, Encoding.XVP}
)
"""Extensions whose servers wait for messages that do not pass in a view-only session.

A fence's payload is free: a server that skips only the type of an unknown message would read keys
in it. Without the extended clipboard the server sends its text at once, and needs no request.
"""

_ENCODINGS_MAX: Final = 256
_FENCE_PAYLOAD_MAX: Final = 64
"""The bound of the protocol."""
_SCREENS_MAX: Final = 16
_PRESSED_MAX: Final = 64
"""Keys that are remembered as pressed; more fingers than a person has."""
_BUTTONS: Final = 0x7F
_POWER_ACTIONS: Final = frozenset(PowerAction)
_POWER_MAX: Final = 8
"""Power operations in one WebSocket message, which wait for their audit records."""

_CLIPBOARD_CAPS: Final = 1 << 24
_CLIPBOARD_PROVIDE: Final = 1 << 28
_CLIPBOARD_ACTIONS: Final = 0x1F << 24
_CLIPBOARD_FORMATS_MAX: Final = 16
_COMPRESSION_OVERHEAD: Final = 1024
"""Flags, sizes of formats, and what deflate adds to text that it cannot compress."""


class OnKey(Protocol):
    def __call__(self, keysym: int, *, is_down: bool) -> None: ...


class ClientMessages:
    """Filters the messages of one browser; the mode and `power` may change at any time."""

    def __init__(
        self, rules: RelayRules, pixel_format: PixelFormat, on_key: OnKey | None = None
    ) -> None:
        """`on_key` receives each key that passes to the server."""
        self.mode = rules.mode
        self.power = rules.power
        self.inputs = 0
        """Messages of a person since the start; a dropped one counts too."""
        self._rules = rules
        self._on_key = on_key
        self._pixel_format = pixel_format
        self._requested_update = False
        self._has_novnc_format = False
        self._announced: frozenset[int] = frozenset()
        self._encodings: tuple[int, ...] = ()
        """Of the last SetEncodings that passed."""
        self._continuous_area = b""
        """Area of continuous updates; empty unless they are on."""
        self._power_requests: list[PowerRequest] = []
        self._pressed: dict[bytes, bytes] = {}
        """Keysym of each pressed key, with the message that releases it."""
        self._pointer = bytes(6)
        self._stream = ParsedStream()
        self._stream.start(self._messages())

    def feed(self, data: bytes) -> bytes:
        """Return the messages for the server that `data` completes.

        Raises:
            RfbViolation: for a type outside the allow-list, or a message out of bounds.

        """
        return self._stream.feed(data)

    def take_power_requests(self) -> list[PowerRequest]:
        """Return the power operations since the last call; none of them has passed."""
        requests, self._power_requests = self._power_requests, []
        return requests

    def become_view_only(self) -> bytes:
        """Pass no more input; return the messages for the server that the change requires."""
        self.mode = SessionMode.VIEW
        return self._released() + self._withdrawn()

    def _released(self) -> bytes:
        """Return the messages that release what is pressed.

        Otherwise the server would never see the key released, because its release is dropped.
        """
        messages = b"".join(self._pressed.values())
        self._pressed.clear()
        if self._pointer[1]:
            messages += self._pointer[:1] + b"\0" + self._pointer[2:]
            self._pointer = bytes(6)
        return messages

    def _withdrawn(self) -> bytes:
        """Return the messages that end the use of extensions that do not pass in view-only.

        The server would wait for the browser's fences otherwise, and send no further picture. The
        browser requests updates again once it has the one that is requested here.
        """
        messages, area = b"", self._continuous_area
        if area:
            messages += bytes((ClientMessage.ENABLE_CONTINUOUS_UPDATES, 0)) + area
            self._continuous_area = b""
        if not _NOT_IN_VIEW.isdisjoint(self._encodings):
            messages += self._set_encodings(self._encodings)
        if area:
            messages += bytes((ClientMessage.UPDATE_REQUEST, 1)) + area
        return messages

    def _messages(self) -> Parser:
        while True:
            first = yield 1
            try:
                kind = ClientMessage(first[0])
            except ValueError:
                raise RfbViolation(
                    f"client message type {first[0]} is not allowed", ViolationKind.MESSAGE_TYPE
                ) from None
            self._check_announced(kind)
            if size := _FIXED_SIZES.get(kind):
                message = first + (yield size - 1)
            else:
                message = first + (yield _HEADER_SIZES[kind] - 1)
                if size := self._body_size(kind, message):
                    message += yield size
            self._complete(kind, message)

    def _check_announced(self, kind: ClientMessage) -> None:
        extension = _ANNOUNCED_BY.get(kind)
        if extension is None or extension in self._announced:
            return
        raise RfbViolation(f"client message type {kind.value} was not announced")

    def _body_size(self, kind: ClientMessage, header: bytes) -> int:
        match kind:
            case ClientMessage.SET_ENCODINGS:
                (count,) = struct.unpack_from(">H", header, 2)
                return 4 * _bounded(count, _ENCODINGS_MAX, "SetEncodings: encodings")
            case ClientMessage.FENCE:
                return _bounded(header[8], _FENCE_PAYLOAD_MAX, "ClientFence: payload bytes")
            case ClientMessage.SET_DESKTOP_SIZE:
                return 16 * _bounded(header[6], _SCREENS_MAX, "SetDesktopSize: screens")
            case _:
                return self._cut_text_size(header)

    def _cut_text_size(self, header: bytes) -> int:
        """Return the size of the text; a negative length marks the extended clipboard.

        The extension passes only where both directions are allowed: it carries requests for text of
        the other direction.
        """
        (length,) = struct.unpack_from(">i", header, 4)
        if length >= 0:
            return _bounded(length, CLIPBOARD_BYTES_MAX, "ClientCutText: bytes")
        if Encoding.EXTENDED_CLIPBOARD not in self._announced:
            raise RfbViolation("ClientCutText: the extended clipboard was not announced")
        if -length < 4:
            raise RfbViolation("ClientCutText: an extended message has at least 4 bytes")
        return _bounded(
            -length, CLIPBOARD_BYTES_MAX + _COMPRESSION_OVERHEAD, "ClientCutText: extended bytes"
        )

    def _complete(self, kind: ClientMessage, message: bytes) -> None:
        if kind in _INPUTS:
            self.inputs += 1
        if self._rules.is_recorded:
            self._check_playable(kind, message)
        if kind is ClientMessage.XVP:
            self._add_power_request(version=message[2], operation=message[3])
            return
        checked = self._checked(kind, message)
        if self.mode is SessionMode.VIEW and kind not in _PASS_IN_VIEW:
            return
        if kind is ClientMessage.CUT_TEXT and not self._rules.clipboard_to_server:
            return
        self._remember(kind, checked)
        if self._on_key is not None and kind in _KEYS:
            self._on_key(int.from_bytes(checked[4:8]), is_down=_is_down(kind, checked))
        self._stream.output += checked

    def _checked(self, kind: ClientMessage, message: bytes) -> bytes:
        match kind:
            case ClientMessage.SET_ENCODINGS:
                return self._filtered_encodings(message)
            case ClientMessage.SET_PIXEL_FORMAT:
                self._set_pixel_format(PixelFormat.parse(message[4:20]))
                return bytes(4) + message[4:17] + bytes(3)  # padding carries nothing
            case ClientMessage.UPDATE_REQUEST:
                self._requested_update = True
                return bytes((kind, bool(message[1]))) + message[2:]
            case ClientMessage.POINTER_EVENT:
                return bytes((message[0], message[1] & _BUTTONS)) + message[2:]
            case ClientMessage.CUT_TEXT if message[4] & 0x80:
                _check_extended_clipboard(message[8:])
            case ClientMessage.SET_DESKTOP_SIZE:
                width, height = struct.unpack_from(">HH", message, 2)
                _bounded(width * height, self._rules.pixels_max, "SetDesktopSize: pixels")
            case ClientMessage.QEMU if message[1] != 0:
                raise RfbViolation(
                    f"QEMU client message {message[1]} is not allowed", ViolationKind.MESSAGE_TYPE
                )
            case _:
                pass
        return message

    def _check_playable(self, kind: ClientMessage, message: bytes) -> None:
        """Reject a format of pixels in which a player of the recording could not show the screen.

        A client of a person's own could hide what it shows otherwise.
        """
        if kind is ClientMessage.SET_PIXEL_FORMAT:
            self._has_novnc_format = message[4:17] == NOVNC_FORMAT
        elif kind not in _UPDATE_REQUESTS:
            return
        if not self._has_novnc_format:
            raise RfbViolation("SetPixelFormat: a recorded session must have noVNC's format")

    def _filtered_encodings(self, message: bytes) -> bytes:
        return self._set_encodings(one for (one,) in struct.iter_unpack(">i", message[4:]))

    def _set_encodings(self, encodings: Iterable[int]) -> bytes:
        allowed = self._passing_encodings()
        passing = self._encodings = tuple(one for one in encodings if one in allowed)
        self._announced |= set(passing)
        return struct.pack(
            f">BxH{len(passing)}i", ClientMessage.SET_ENCODINGS, len(passing), *passing
        )

    def _passing_encodings(self) -> frozenset[int]:
        passing = MEASURABLE if self._rules.parses_server else KNOWN
        if not self.power:
            passing -= {Encoding.XVP}
        if self._rules.is_recorded:
            passing -= {Encoding.H264}
        if self._rules.clipboard is not Clipboard.BOTH:
            passing -= {Encoding.EXTENDED_CLIPBOARD}
        if self.mode is SessionMode.VIEW:
            passing -= _NOT_IN_VIEW
        return passing

    def _add_power_request(self, *, version: int, operation: int) -> None:
        if version != 1 or operation not in _POWER_ACTIONS:
            raise RfbViolation(f"xvp {version}, operation {operation} is not allowed")
        if len(self._power_requests) == _POWER_MAX:
            raise RfbViolation(f"xvp: more than {_POWER_MAX} operations at once")
        is_allowed = self.power and self.mode is SessionMode.CONTROL
        self._power_requests.append(PowerRequest(PowerAction(operation), is_allowed))

    def _set_pixel_format(self, pixel_format: PixelFormat) -> None:
        """Follow the format, unless pixels change their size while updates are outstanding.

        Nothing in an update says which of two formats it has, so its length would be unknown.
        """
        changes = not pixel_format.has_sizes_of(self._pixel_format)
        if self._rules.parses_server and self._requested_update and changes:
            raise RfbViolation("SetPixelFormat: a new size of pixels after an update was requested")
        self._pixel_format.replace(pixel_format)

    def _remember(self, kind: ClientMessage, message: bytes) -> None:
        if kind is ClientMessage.POINTER_EVENT:
            self._pointer = message
            return
        if kind is ClientMessage.ENABLE_CONTINUOUS_UPDATES:
            self._continuous_area = message[2:] if message[1] else b""
            return
        if kind is ClientMessage.KEY_EVENT:
            key, released = message[4:8], message[:1] + b"\0" + message[2:]
        elif kind is ClientMessage.QEMU:
            key, released = message[8:12], message[:2] + b"\0\0" + message[4:]
        else:
            return
        if not _is_down(kind, message):
            self._pressed.pop(message[:1] + key, None)
        elif len(self._pressed) < _PRESSED_MAX:
            self._pressed[message[:1] + key] = released


def _is_down(kind: ClientMessage, message: bytes) -> bool:
    return bool(message[1] if kind is ClientMessage.KEY_EVENT else message[3])


def _bounded(value: int, maximum: int, what: str) -> int:
    if value > maximum:
        raise RfbViolation(
            f"{what}: {value} is above the limit of {maximum}", ViolationKind.MESSAGE_SIZE
        )
    return value


def _check_extended_clipboard(body: bytes) -> None:
    """Check one message of the extended clipboard: its action, and the size of its text.

    Text is compressed, so its size is bounded here as well: 64 KiB can become 64 MiB.
    """
    (flags,) = struct.unpack_from(">I", body)
    actions = flags & _CLIPBOARD_ACTIONS
    if actions & _CLIPBOARD_CAPS:
        if len(body) != 4 + 4 * (flags & 0xFFFF).bit_count():
            raise RfbViolation("ClientCutText: sizes of formats do not match its flags")
    elif actions == _CLIPBOARD_PROVIDE:
        limit = 2 * CLIPBOARD_BYTES_MAX + 5 * _CLIPBOARD_FORMATS_MAX  # LF became CR LF; size, NUL
        try:
            text = zlib.decompressobj().decompress(body[4:], limit + 1)
        except zlib.error:
            raise RfbViolation("ClientCutText: compressed text is damaged") from None
        _bounded(len(text), limit, "ClientCutText: decompressed bytes")
    elif len(body) != 4:
        raise RfbViolation("ClientCutText: an extended message without text has 4 bytes")
