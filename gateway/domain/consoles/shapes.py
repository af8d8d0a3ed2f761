"""The shapes of the cloud's console WebSocket that a connection tries, in order. Pure."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.consoles.socket_address import SHAPES

AUTO: Final = "auto"
_SUBPROTOCOL: Final = "binary"
"""websockify before version 0.9 demands it; later versions accept or ignore it."""


@dataclass(frozen=True, slots=True)
class ConsoleShape:
    """An address template and a subprotocol; "" for none."""

    template: str
    """A name of SHAPES, or a template."""
    subprotocol: str = ""

    @property
    def address_template(self) -> str:
        return SHAPES.get(self.template, self.template)

    def __str__(self) -> str:
        return f"{self.template} {self.subprotocol or 'without subprotocol'}"


def configured_shapes(template: str, subprotocol: str) -> tuple[ConsoleShape, ...]:
    """Return the shapes of two config values, in the order in which to try them."""
    templates = tuple(SHAPES) if template == AUTO else (template,)
    subprotocols = {AUTO: (_SUBPROTOCOL, ""), "none": ("",)}.get(subprotocol, (subprotocol,))
    return tuple(ConsoleShape(one, offered) for offered in subprotocols for one in templates)
