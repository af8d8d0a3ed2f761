"""Quotation of values from outside in messages for operators. Pure."""

from typing import Final

_CHARS_MAX: Final = 80


def quoted(value: object) -> str:
    """Return a value from outside as short, printable ASCII; text is in quotes."""
    text = ascii(value)
    return text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}…"
