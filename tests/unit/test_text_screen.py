"""The text screen and the changes that it reports; the shell on it."""

import random

from gateway.demo.cloud.screen.shell import ScreenShell
from gateway.demo.cloud.screen.text_screen import Cell, ScreenDamage, TextScreen

RETURN, BACKSPACE, CONTROL, ALT, DELETE = 0xFF0D, 0xFF08, 0xFFE3, 0xFFE9, 0xFFFF


def cells_of(screen: TextScreen) -> list[list[Cell]]:
    return [screen.row(row, 0, screen.columns) for row in range(screen.rows)]


def apply(damage: ScreenDamage, screen: TextScreen, shown: list[list[Cell]]) -> list[list[Cell]]:
    """Return what a viewer shows after an update: scrolled, then redrawn where it changed."""
    if damage.resized:
        damage.resized = False
        shown = [[(0, 0, 0)] * screen.columns for _ in range(screen.rows)]
    scrolled, tiles = damage.take()
    shown = shown[scrolled:] + [[(0, 0, 0)] * screen.columns] * min(scrolled, screen.rows)
    shown = [list(row) for row in shown]
    for column, row in tiles:
        shown[row][2 * column : 2 * column + 2] = screen.row(row, 2 * column, 2 * column + 2)
    return shown


def test_changes_lead_to_the_same_screen() -> None:
    """Updates at random moments, with scrolled rows between them, lose no character."""
    chance = random.Random(11)
    screen = TextScreen(10, 5)
    with screen.watched() as damage:
        shown: list[list[Cell]] = [[(0, 0, 0)] * 10 for _ in range(5)]
        for _ in range(2_000):
            match chance.randrange(20):
                case 0:
                    screen.write("\n" * chance.randrange(8))
                case 1:
                    screen.clear()
                case 2 | 3:
                    screen.erase()
                case 4:
                    screen.resize(chance.choice((8, 10, 14)), chance.choice((3, 5, 8)))
                case 5:
                    screen.blink()
                case 6 | 7 | 8:
                    shown = apply(damage, screen, shown)
                    assert shown == cells_of(screen)
                case _:
                    screen.write(chance.choice("abc") * chance.randrange(9), chance.randrange(16))


def test_two_viewers_have_their_own_changes() -> None:
    screen = TextScreen(10, 5)
    with screen.watched() as first, screen.watched() as second:
        first.take()
        screen.write("x")
        assert first.take() == (0, {(0, 0)})
        assert len(second.take()[1]) == 25


def test_erase_at_the_start_of_a_row_goes_back() -> None:
    screen = TextScreen(4, 3)
    screen.write("abcde")
    screen.erase()
    screen.erase()
    assert screen.lines()[0] == "abc"


def make_shell() -> tuple[ScreenShell, TextScreen, list[None]]:
    screen, reboots = TextScreen(), []
    shell = ScreenShell(screen, "box", lambda: reboots.append(None))
    shell.boot()
    return shell, screen, reboots


def type_text(shell: ScreenShell, text: str) -> None:
    for character in text:
        keysym = RETURN if character == "\n" else ord(character)
        shell.key(keysym, is_down=True)
        shell.key(keysym, is_down=False)


def text_of(screen: TextScreen) -> str:
    return "\n".join(screen.lines())


def test_login_echoes_the_name_but_not_the_password() -> None:
    shell, screen, _ = make_shell()
    type_text(shell, "olga\nhunter2\nwhoami\n")
    assert "box login: olga" in text_of(screen)
    assert "hunter2" not in text_of(screen)
    assert "\nolga\n" in text_of(screen)
    assert "".join(shell.typed) == "olga\nhunter2\nwhoami\n"
    assert list(shell.lines) == ["whoami"]


def test_shell_writes_and_shows_files() -> None:
    shell, screen, _ = make_shell()
    type_text(shell, "olga\n\necho 'a  b' c > note\ncat note nothing\nls\n")
    assert shell.files["note"] == "a  b c\n"
    text = text_of(screen)
    assert "\na  b c\n" in text
    assert "cat: nothing: no such file" in text
    assert "README  note" in text


def test_shell_reports_what_it_does_not_know() -> None:
    shell, screen, _ = make_shell()
    type_text(shell, "olga\n\nrm -rf /\necho 'open\n\nseq x\n")
    text = text_of(screen)
    assert "sh: rm: command not found" in text
    assert "sh: No closing quotation" in text
    assert "usage: seq COUNT" in text


def test_shell_edits_the_line() -> None:
    shell, screen, _ = make_shell()
    type_text(shell, "olga\n\nechx")
    shell.key(BACKSPACE, is_down=True)
    type_text(shell, "o done\n")
    shell.key(CONTROL, is_down=True)
    type_text(shell, "c")
    shell.key(CONTROL, is_down=False)
    assert list(shell.lines) == ["echo done"]
    assert "^C" in text_of(screen)


def test_exit_clear_and_reboot() -> None:
    shell, screen, reboots = make_shell()
    type_text(shell, "olga\n\nclear\nexit\n")
    assert screen.lines()[0] == "olga@box:~$ exit"
    assert text_of(screen).rstrip().endswith("box login:")
    type_text(shell, "olga\n\nreboot\n")
    assert len(reboots) == 1
    for keysym in (CONTROL, ALT, DELETE):
        shell.key(keysym, is_down=True)
    assert len(reboots) == 2


def test_composed_characters_are_typed() -> None:
    shell, screen, _ = make_shell()
    shell.key(0x0100_4E2D, is_down=True)
    shell.key(0xE9, is_down=True)
    shell.key(0xFFE1, is_down=True)  # Shift
    assert "".join(shell.typed) == "\u4e2d\u00e9"
    assert "box login: \u4e2d\u00e9" in text_of(screen)
