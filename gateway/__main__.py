"""The process that a command runs in: how it ends at Ctrl-C, and when its output goes nowhere."""

import io
import os
import sys
from typing import Final

_INTERRUPTED: Final = 130
_READER_LEFT: Final = 141
"""Both are 128 and the signal's number, as shells say it."""
_NOT_WRITTEN: Final = 1


class _OutputLost(Exception):
    """Standard output takes no more.

    No OSError, which commands expect of the files and connections that they are about.
    """


class _Output(io.FileIO):
    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            raise _OutputLost from error


def main() -> int:
    try:
        return _run()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except _OutputLost as lost:
        # What is still held here would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(lost.__cause__, BrokenPipeError):
            return _READER_LEFT
        why = getattr(lost.__cause__, "strerror", None)
        sys.stderr.write(f"The output cannot be written: {why}.\n")
        return _NOT_WRITTEN


def _run() -> int:
    # Imports take most of the first second, in which Ctrl-C may come, too.
    from gateway.commands.parser import main as run_command

    if sys.stdout is None:  # whoever started us has closed it
        return run_command()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(sys.stdout.fileno(), "wb", closefd=False)),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=sys.stdout.isatty(),
    )
    try:
        return run_command()
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
