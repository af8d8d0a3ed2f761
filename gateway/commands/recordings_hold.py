"""`gateway recordings hold`: keeps a recording beyond its retention."""

import argparse
import getpass

import orjson

from gateway.commands.arguments import CommandParser, add_config_option, nonempty
from gateway.commands.exit_codes import REJECTED, CommandFailed
from gateway.commands.recordings import writable_directory
from gateway.commands.terminal import print_error, print_line
from gateway.config.settings import Settings, load_settings
from gateway.domain.recordings.index_lines import hold_changed
from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.recording_directory import lift_hold, on_hold, set_hold
from gateway.drivers.recordings.recording_index import RecordingIndex


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument("id", type=nonempty, metavar="ID", help="of the recording")
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
    path = directory.find(recording)
    if path is None:
        raise CommandFailed(REJECTED, f"no recording {recording} in {directory.root}")
    if lifts and not on_hold(path):
        raise CommandFailed(REJECTED, f"recording {recording} is not on hold")
    clock, by = SystemClock(), getpass.getuser()
    signing_key = config.audit.signing_key
    signer = None if signing_key is None else load_signer(signing_key)
    index = RecordingIndex(directory.root, clock, signer)
    line = hold_changed(clock.now(), recording, by=by, reason=reason, is_set=not lifts)
    try:
        if lifts:
            index.append(line)
            lift_hold(path)
        else:  # a hold without its line is safer than a line without its hold
            set_hold(path, orjson.dumps({"at": clock.now(), "by": by, "reason": reason}))
            _append(index, line, recording)
    finally:
        index.close()
    print_line(f"recording {recording}: {'hold lifted' if lifts else 'on hold'}")


def _append(index: RecordingIndex, line: bytes, recording: str) -> None:
    try:
        index.append(line)
    except OSError as error:
        problem = f"is on hold, but the index has no line about it: {error.strerror}. Run it again."
        raise CommandFailed(REJECTED, f"recording {recording} {problem}") from None
