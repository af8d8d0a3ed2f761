"""Output of the client commands: tables, and progress on a terminal."""

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_INTERVAL_S: Final = 1.0


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    cells = [
        ["-" if value in (None, "") else printable(str(value)) for value in row] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (head, *cells):
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    return "-" if value in (None, "") else printable(str(value))


def printable(text: str) -> str:
    """Replace control characters: a name from outside must not control the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


@contextmanager
def show_progress(activity: str) -> Iterator[None]:
    """Show a line with the elapsed seconds on a terminal, after the first second."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_update, args=(activity, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _update(activity: str, done: threading.Event) -> None:
    seconds = 0
    while not done.wait(_INTERVAL_S):
        seconds += 1
        budget = " and the upstream budget" if seconds > 1 else ""
        print(f"\r{activity}{budget} … {seconds} s\x1b[K", end="", file=sys.stderr, flush=True)
    if seconds:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
