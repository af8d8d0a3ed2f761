"""The error of a peer that breaks the rules of RFB, or of this gateway. Pure."""


class RfbViolation(Exception):
    """The stream cannot be inspected further; the session ends with `protocol_error`.

    The text holds numbers and names of the protocol, never bytes of the stream.
    """
