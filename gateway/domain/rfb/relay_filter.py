"""One connection's RFB stream, from its first byte, in both directions. Pure."""

from gateway.domain.consoles.model import SessionMode
from gateway.domain.rfb.client_messages import ClientMessages, OnKey
from gateway.domain.rfb.handshake import Handshake, Side
from gateway.domain.rfb.pixel_format import PixelFormat
from gateway.domain.rfb.power import PowerRequest
from gateway.domain.rfb.rules import RelayRules
from gateway.domain.rfb.server_messages import ServerMessages


class RelayFilter:
    """Returns what of each side's bytes the other side may receive.

    Every method raises `RfbViolation` where the stream breaks a rule, and `ConsoleRejected` where
    the VNC server rejects the browser; `rejection` then has the last bytes for the browser.
    """

    def __init__(self, rules: RelayRules, on_key: OnKey | None = None) -> None:
        pixel_format = PixelFormat()
        self.handshake = Handshake(rules, pixel_format)
        self._from_browser = ClientMessages(rules, pixel_format, on_key)
        self._from_server = ServerMessages(rules, pixel_format) if rules.parses_server else None

    @property
    def passes_server(self) -> bool:
        """True: the server's bytes pass untouched from now on, without `from_server`."""
        return self.handshake.is_done and self._from_server is None

    @property
    def inputs(self) -> int:
        """Messages of a person so far: keys, pointer, clipboard text."""
        return self._from_browser.inputs

    def from_browser(self, data: bytes) -> bytes:
        if self.handshake.is_done:
            return self._from_browser.feed(data)
        passed, _ = self.handshake.feed(Side.BROWSER, data)
        return passed

    def from_server(self, data: bytes) -> bytes:
        if self.handshake.is_done:
            return data if self._from_server is None else self._from_server.feed(data)
        passed, rest = self.handshake.feed(Side.CLOUD, data)
        return passed + self.from_server(rest) if rest else passed

    @property
    def passes_power(self) -> bool:
        """Whether power operations may pass now."""
        return self._from_browser.power and self._from_browser.mode is SessionMode.CONTROL

    def take_power_requests(self) -> list[PowerRequest]:
        """Return the browser's power operations since the last call; none of them has passed."""
        return self._from_browser.take_power_requests()

    def forbid_power(self) -> bool:
        """Pass no more power operations; return whether they passed until now."""
        passed, self._from_browser.power = self._from_browser.power, False
        return passed

    def become_view_only(self) -> bytes:
        """Pass no more input; return the messages for the server that the change requires."""
        return self._from_browser.become_view_only()
