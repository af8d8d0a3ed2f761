"""`gateway recordings rewrap`: wraps data keys anew after `recordings.keys` has changed."""

import argparse

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.recordings import writable_directory
from gateway.commands.terminal import print_error, print_line
from gateway.config.settings import Settings, load_settings
from gateway.drivers.recordings.recording_directory import (
    read_wrapped_keys,
    replace_wrapped_keys,
)
from gateway.drivers.recordings.recording_keys import RecordingKeyMissing, RecordingKeys

DONE, INCOMPLETE, USAGE = 0, 1, 2


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.exit_codes = {
        DONE: "all recordings use the first key",
        INCOMPLETE: "some recordings have a key that is not in the config",
        USAGE: "wrong usage",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        return rewrap(load_settings(options.config))
    except CommandFailed as failure:
        print_error(str(failure))
        return failure.code


def rewrap(config: Settings) -> int:
    """Rewrap every recording that another key than the first wraps; return the exit code."""
    directory, keys = writable_directory(config), RecordingKeys(config.recordings.keys)
    renewed = current = failed = 0
    for path in directory.recordings():
        try:
            wrapped = keys.rewrap(path.name, read_wrapped_keys(path))
            if wrapped is None:
                current += 1
            else:
                replace_wrapped_keys(path, wrapped)
                renewed += 1
        except FileNotFoundError:  # retention has removed it
            continue
        except (RecordingKeyMissing, OSError) as error:
            failed += 1
            reason = error.strerror if isinstance(error, OSError) else error
            print_error(f"recording {path.name}: {reason}")
    print_line(f"rewrapped: {renewed}, already with the first key: {current}, failed: {failed}")
    return INCOMPLETE if failed else DONE
