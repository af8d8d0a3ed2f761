"""The tiny system on a simulated screen: a login prompt that echoes, and a shell."""

import shlex
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.demo.cloud.screen.text_screen import GREEN, GREY, WHITE, TextScreen

_TYPED_MAX: Final = 65_536
_LINE_MAX: Final = 1_024
_SEQUENCE_MAX: Final = 10_000
_CONTROLS: Final = frozenset((0xFFE3, 0xFFE4))
_ALTS: Final = frozenset((0xFFE9, 0xFFEA))
_DELETE, _BACKSPACE, _TAB = 0xFFFF, 0xFF08, 0xFF09
_RETURNS: Final = frozenset((0xFF0D, 0xFF8D))
_UNICODE: Final = 0x0100_0000
_HELP: Final = "cat clear echo exit help hostname ls reboot seq uname whoami; echo TEXT > FILE"


class ScreenShell:
    """Takes keys, writes to the screen, and remembers what was typed."""

    def __init__(self, screen: TextScreen, host: str, reboot: Callable[[], None]) -> None:
        """`host` is the server's name; `reboot` starts this system anew."""
        self.typed: deque[str] = deque(maxlen=_TYPED_MAX)
        """Each character that was typed, the password's included."""
        self.keysyms: deque[int] = deque(maxlen=_TYPED_MAX)
        """Each key that was pressed."""
        self.lines: deque[str] = deque(maxlen=1_000)
        """Command lines."""
        self.files: dict[str, str] = {"README": "This server exists only in the simulated cloud.\n"}
        self._screen = screen
        self._host = host
        self._reboot = reboot
        self._pressed: set[int] = set()
        self._line = ""
        self._user: str | None = None
        self._is_logged_in = False
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "cat": self._cat,
            "echo": lambda words: " ".join(words) + "\n",
            "help": lambda _: _HELP + "\n",
            "hostname": lambda _: self._host + "\n",
            "ls": lambda _: "  ".join(sorted(self.files)) + "\n",
            "seq": _count,
            "uname": lambda _: f"Demo {self._host} 1.0 simulated\n",
            "whoami": lambda _: f"{self._user}\n",
        }

    def boot(self) -> None:
        """Clear the screen and ask for a login; files survive."""
        self._pressed.clear()
        self._screen.clear()
        self._screen.write("Demo Linux 1.0", WHITE)
        self._screen.write(f" on {self._host}, console tty1\n")
        self._screen.write("Log in with any name and any password.\n\n")
        self._prompt_login()

    def key(self, keysym: int, *, is_down: bool) -> None:
        if not is_down:
            self._pressed.discard(keysym)
            return
        self._pressed.add(keysym)
        self.keysyms.append(keysym)
        if self._pressed & _CONTROLS:
            self._control(keysym)
        elif keysym in _RETURNS:
            self.typed.append("\n")
            self._screen.write("\n")
            line, self._line = self._line, ""
            self._enter(line)
        elif keysym == _BACKSPACE:
            self._erase()
        elif (character := _character(keysym)) and len(self._line) < _LINE_MAX:
            self.typed.append(character)
            self._line += character
            if self._user is None or self._is_logged_in:
                self._screen.write(character, WHITE)

    def _control(self, keysym: int) -> None:
        if keysym == _DELETE and self._pressed & _ALTS:
            self._reboot()
        elif keysym in {ord("c"), ord("C")}:
            self._line = ""
            self._screen.write("^C\n")
            self._prompt()
        elif keysym in {ord("d"), ord("D")} and self._is_logged_in and not self._line:
            self._log_out()
        elif keysym in {ord("l"), ord("L")} and self._is_logged_in:
            self._screen.clear()
            self._prompt()

    def _erase(self) -> None:
        if self._line:
            self._line = self._line[:-1]
            if self._user is None or self._is_logged_in:
                self._screen.erase()

    def _enter(self, line: str) -> None:
        if self._user is None:
            self._user = line.strip() or None
            self._prompt()
        elif not self._is_logged_in:
            self._is_logged_in = True
            self._screen.write(f"Welcome, {self._user}. `help` lists the commands.\n")
            self._prompt()
        else:
            self.lines.append(line)
            self._run(line)

    def _run(self, line: str) -> None:
        try:
            words = shlex.split(line)
        except ValueError as error:
            self._screen.write(f"sh: {error}\n")
            words = []
        match words:
            case ["exit" | "logout"]:
                self._log_out()
                return
            case ["reboot"]:
                self._reboot()
                return
            case ["clear"]:
                self._screen.clear()
            case ["echo", *text, ">", name]:
                self.files[name] = " ".join(text) + "\n"
            case [name, *arguments]:
                command = self._commands.get(name)
                unknown = f"sh: {name}: command not found\n"
                self._screen.write(unknown if command is None else command(arguments))
            case _:
                pass
        self._prompt()

    def _cat(self, names: list[str]) -> str:
        missing = "cat: {}: no such file\n"
        return "".join(self.files.get(name, missing.format(name)) for name in names)

    def _log_out(self) -> None:
        self._screen.write("\n")
        self._prompt_login()

    def _prompt_login(self) -> None:
        self._line, self._user, self._is_logged_in = "", None, False
        self._prompt()

    def _prompt(self) -> None:
        if self._user is None:
            self._screen.write(f"{self._host} login: ", GREY)
        elif not self._is_logged_in:
            self._screen.write("Password: ", GREY)
        else:
            self._screen.write(f"{self._user}@{self._host}:~$ ", GREEN)


def _character(keysym: int) -> str:
    if 0x20 <= keysym < 0x7F or 0xA0 <= keysym <= 0xFF:
        return chr(keysym)
    if _UNICODE < keysym <= _UNICODE + 0x10FFFF and not 0xD800 <= keysym - _UNICODE < 0xE000:
        return chr(keysym - _UNICODE)
    return " " if keysym == _TAB else ""


def _count(words: list[str]) -> str:
    if len(words) != 1 or not words[0].isdecimal():
        return "usage: seq COUNT\n"
    return "".join(f"{number}\n" for number in range(1, min(int(words[0]), _SEQUENCE_MAX) + 1))
