"""`gateway recordings hold`: keeps a recording beyond its retention."""

import argparse
import getpass
from typing import Final

import orjson

from gateway.commands.arguments import CommandParser, add_config_option, nonempty
from gateway.commands.exit_codes import REJECTED, CommandFailed
from gateway.commands.recordings import recording_id
from gateway.commands.recordings_writable import open_index, writable_directory
from gateway.commands.terminal import print_error, print_line
from gateway.config.settings import Settings, load_settings
from gateway.domain.recordings.index_lines import hold_changed
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.recording_directory import (
    RecordingDirectory,
    lift_hold,
    on_hold,
    removals_locked,
    set_hold,
)
from gateway.drivers.recordings.recording_index import RecordingIndex, find_lines

_LOCK_WAIT_S: Final = 10.0
_BUSY: Final = "the hold is not changed: retention is removing a recording. Run it again."


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "id",
        type=recording_id,
        metavar="ID",
        help="of the recording; its files may be brought back later",
    )
    parser.add_argument(
        "--reason", type=nonempty, required=True, help="recorded in the index of recordings"
    )
    parser.add_argument("--lift", action="store_true", help="let retention apply again")
    parser.exit_codes = {0: "done", 1: "no such recording, or it is not on hold", 2: "wrong usage"}
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        config = load_settings(options.config)
        hold(config, options.id, reason=options.reason, lifts=options.lift)
    except CommandFailed as failure:
        print_error(str(failure))
        return failure.code
    except OSError as error:
        print_error(f"the hold is not changed: {error.strerror}")
        return REJECTED
    return 0


def hold(config: Settings, recording: str, *, reason: str, lifts: bool) -> None:
    """Set or lift the hold of a recording, and record that; raise CommandFailed, OSError."""
    directory = writable_directory(config)
    root = directory.root
    if not _is_known(directory, recording):
        raise CommandFailed(REJECTED, f"no recording {recording} in {root} or its index")
    if lifts and not on_hold(root, recording):
        raise CommandFailed(REJECTED, f"recording {recording} is not on hold")
    clock, by = SystemClock(), getpass.getuser()
    index = open_index(config, directory)
    line = hold_changed(clock.now(), recording, by=by, reason=reason, is_set=not lifts)
    try:
        if lifts:
            index.append(line)
            lift_hold(root, recording)
        else:  # a hold without its line is safer than a line without its hold
            content = orjson.dumps({"at": clock.now(), "by": by, "reason": reason})
            with removals_locked(root, wait_s=_LOCK_WAIT_S) as is_locked:
                if not is_locked:
                    raise CommandFailed(REJECTED, _BUSY)
                set_hold(root, recording, content)
            _append(index, line, recording)
    finally:
        index.close()
    print_line(f"recording {recording}: {'hold lifted' if lifts else 'on hold'}")
    if not lifts and directory.find(recording) is None:
        print_error(f"its files are not in {root}: removed, or moved. The hold applies on return.")


def _is_known(directory: RecordingDirectory, recording: str) -> bool:
    """Return whether the recording is there, or was: its files may be brought back later."""
    return directory.find(recording) is not None or any(find_lines(directory.root, [recording]))


def _append(index: RecordingIndex, line: bytes, recording: str) -> None:
    try:
        index.append(line)
    except OSError as error:
        problem = f"is on hold, but the index has no line about it: {error.strerror}. Run it again."
        raise CommandFailed(REJECTED, f"recording {recording} {problem}") from None
