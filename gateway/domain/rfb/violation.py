"""The error of a peer that breaks the rules of RFB, or of this gateway. Pure."""

from enum import Enum


class ViolationKind(Enum):
    """The rule that is broken. The value is the text in the page; it has no word of a peer."""

    SECURITY_TYPES = (
        "The console offers only security types that the gateway cannot inspect. Enable None or"
        " VNC Authentication on the server."
    )
    RFB_VERSION = "The console does not speak RFB 3.3 or later."
    SCREEN_SIZE = "The server's screen is too large. Set a lower resolution on the server."
    MESSAGE_TYPE = "A message has a type that the gateway does not allow."
    MESSAGE_SIZE = "A message is larger than the gateway allows."
    MESSAGE = "A message breaks a rule of the protocol."


class RfbViolation(Exception):
    """The stream cannot be inspected further; the session ends with `protocol_error`.

    The text holds numbers and names of the protocol, never bytes of the stream.
    """

    def __init__(self, detail: str, kind: ViolationKind = ViolationKind.MESSAGE) -> None:
        super().__init__(detail)
        self.kind = kind
