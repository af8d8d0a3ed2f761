"""The process of a command: its exit code after SIGINT, and when its output cannot be written."""

import io
import os
import sys
from typing import Final

from gateway.commands import interrupts

_READER_LEFT: Final = 141
"""128 plus the number of SIGPIPE, as shells report it."""
_NOT_WRITTEN: Final = 1


class _OutputLost(Exception):
    """Standard output cannot be written.

    It is not an OSError, which commands expect from the files and connections that they use.
    """


class _Output(io.FileIO):
    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            raise _OutputLost from error


def main() -> int:
    """Run the command in sys.argv and return its exit code."""
    interrupts.install()
    try:
        code = _run()
    except KeyboardInterrupt:
        code = interrupts.EXIT_CODE
    except _OutputLost as lost:
        code = _output_lost(lost)
    except BaseException:
        if not interrupts.was_received():
            raise
        code = interrupts.EXIT_CODE
    interrupts.exit_on_next_sigint()
    return interrupts.EXIT_CODE if interrupts.was_received() else code


def _output_lost(lost: _OutputLost) -> int:
    # The rest of the buffer would fail again when Python exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(lost.__cause__, BrokenPipeError):
        return _READER_LEFT
    reason = getattr(lost.__cause__, "strerror", None)
    sys.stderr.write(f"The output cannot be written: {reason}.\n")
    return _NOT_WRITTEN


def _run() -> int:
    # SIGINT may arrive during these imports, which take most of the first second.
    from gateway.commands.parser import main as run_command

    if sys.stdout is None:  # the parent closed it
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
