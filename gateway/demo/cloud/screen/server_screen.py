"""The machine behind a console: its screen, its shell, and the viewers of both.

All viewers share one screen and one keyboard, as on the real machine.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from gateway.demo.cloud.fleet import Server
from gateway.demo.cloud.screen.shell import ScreenShell
from gateway.demo.cloud.screen.text_screen import TextScreen

_CLIPBOARDS_MAX = 100


class ScreenViewer(Protocol):
    """One RFB connection to a screen."""

    def rename(self) -> None: ...
    def ring(self) -> None: ...
    def put_clipboard(self, text: bytes) -> None: ...
    def cut(self, *, reset: bool) -> None: ...
    def describe(self) -> dict[str, Any]: ...


class ServerScreen:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = f"{server.name} console".encode()
        """The desktop name; bytes, because a hostile one need not be text."""
        self.screen = TextScreen()
        self.shell = ScreenShell(self.screen, server.name, self.reboot)
        self.viewers: list[ScreenViewer] = []
        self.messages: Counter[str] = Counter()
        """Messages of all viewers so far, by type."""
        self.clipboards: list[str] = []
        """Texts that viewers put into the clipboard."""
        self.opened = 0
        """Number of viewers so far."""
        self.reboots = -1
        self.power_actions: list[str] = []
        """Actions that viewers requested by xvp."""
        self.reboot()

    def reboot(self) -> None:
        self.reboots += 1
        self.shell.boot()

    @contextmanager
    def shown_to(self, viewer: ScreenViewer, *, shared: bool) -> Iterator[None]:
        """Add a viewer; one that does not share disconnects the others."""
        if not shared:
            for other in list(self.viewers):
                other.cut(reset=False)
        self.opened += 1
        self.viewers.append(viewer)
        try:
            yield
        finally:
            self.viewers.remove(viewer)

    def put_clipboard(self, text: bytes) -> None:
        """Take a text that a viewer copied."""
        self.clipboards = [*self.clipboards, text.decode("latin-1")][-_CLIPBOARDS_MAX:]

    def power(self, action: str) -> None:
        self.power_actions.append(action)
        if action == "shutdown":
            self.screen.clear()
            self.screen.write("Power off.\n")
        else:
            self.reboot()

    def change(self, changes: dict[str, Any]) -> None:
        """Apply `{write, resize, name, bell, clipboard, cut}`, all optional.

        Raises KeyError for an unknown name and ValueError for an unusable size.
        """
        actions: dict[str, Callable[[Any], None]] = {
            "write": self.screen.write,
            "resize": lambda size: self._resize(*size),
            "name": self._rename,
            "bell": lambda _: self._ring(),
            "clipboard": self._offer_clipboard,
            "cut": lambda kind: self._cut(reset={"close": False, "reset": True}[kind]),
        }
        for action, value in [(actions[name], value) for name, value in changes.items()]:
            action(value)

    def describe(self) -> dict[str, Any]:
        screen, shell = self.screen, self.shell
        return {
            "server": self.server.id,
            "name": self.name.decode(errors="replace"),
            "size": [screen.columns, screen.rows],
            "lines": screen.lines(),
            "typed": "".join(shell.typed),
            "keysyms": list(shell.keysyms),
            "commands": list(shell.lines),
            "files": shell.files,
            "clipboards": self.clipboards,
            "messages": dict(self.messages),
            "viewers": [viewer.describe() for viewer in self.viewers],
            "opened": self.opened,
            "reboots": self.reboots,
            "power_actions": self.power_actions,
        }

    async def blink(self, interval_s: float) -> None:
        """Blink the cursor until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            self.screen.blink()

    def _resize(self, columns: int, rows: int) -> None:
        if not (2 <= columns <= 512 and columns % 2 == 0 and 1 <= rows <= 256):
            raise ValueError("columns: even, 2 to 512; rows: 1 to 256")
        self.screen.resize(columns, rows)

    def _rename(self, name: str) -> None:
        self.name = name.encode()
        for viewer in self.viewers:
            viewer.rename()

    def _ring(self) -> None:
        for viewer in self.viewers:
            viewer.ring()

    def _offer_clipboard(self, text: str) -> None:
        for viewer in self.viewers:
            viewer.put_clipboard(text.encode("latin-1", "replace"))

    def _cut(self, *, reset: bool) -> None:
        for viewer in list(self.viewers):
            viewer.cut(reset=reset)
