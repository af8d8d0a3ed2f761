"""Output of the commands: lines, tables, JSON, and progress on a terminal.

Every command prints through this module: text from a server, a file or an audit record must not
control the terminal.
"""

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

_INTERVAL_S: Final = 1.0


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    cells = [
        ["-" if value in (None, "") else escape_controls(str(value)) for value in row]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (head, *cells):
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print_line("  ".join(padded).rstrip())


def print_rows(head: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    """Print a table, or the line `none` if there are no rows."""
    if rows:
        print_table(head, rows)
    else:
        print_line(none)


def print_line(line: object = "", *, file: TextIO | None = None) -> None:
    """Print one line to stdout or `file`; a line break in it is escaped as well."""
    print(escape_controls(str(line)), file=file)


def print_error(line: object) -> None:
    """Print one line to stderr."""
    print_line(line, file=sys.stderr)


def print_json(document: Any, *, indent: int | None = None) -> None:
    print(to_json(document, indent=indent))


def to_json(document: Any, *, indent: int | None = None) -> str:
    """Return a JSON document in printable ASCII: on one line, or indented."""
    text = json.dumps(document, indent=indent)
    return text.replace("\x7f", "\\u007f")  # the only control character that JSON leaves


def escape_controls(text: str) -> str:
    """Escape control characters, invisible ones and lone surrogates, as Python does."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


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
