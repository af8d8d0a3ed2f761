"""`gateway recordings rewrap`: wraps data keys anew after `recordings.keys` has changed."""

import argparse
from hashlib import sha256
from pathlib import Path

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.exit_codes import CommandFailed
from gateway.commands.recordings_writable import open_index, writable_directory
from gateway.commands.terminal import print_error, print_line
from gateway.config.settings import Settings, load_settings
from gateway.domain.recordings.index_lines import keys_rewrapped
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.recording_directory import (
    read_wrapped_keys,
    replace_wrapped_keys,
)
from gateway.drivers.recordings.recording_index import RecordingIndex
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
    clock, index = SystemClock(), open_index(config, directory)
    renewed = current = failed = 0
    try:
        for path in directory.recordings():
            try:
                if rewrap_recording(path, keys, index, clock.now()):
                    renewed += 1
                else:
                    current += 1
            except (RecordingKeyMissing, OSError) as error:
                if isinstance(error, FileNotFoundError) and not path.exists():
                    continue  # retention has removed it
                failed += 1
                print_error(f"recording {path.name}: {_reason(error)}")
    finally:
        index.close()
    print_line(f"rewrapped: {renewed}, already with the first key: {current}, failed: {failed}")
    return INCOMPLETE if failed else DONE


def rewrap_recording(path: Path, keys: RecordingKeys, index: RecordingIndex, now: float) -> bool:
    """Return whether another key than the first wrapped the data keys, and they are rewrapped.

    Raises OSError, RecordingKeyMissing.
    """
    wrapped = keys.rewrap(path.name, read_wrapped_keys(path))
    if wrapped is None:
        return False
    # The hash is in the index before the file: after a crash, either file verifies.
    index.append(keys_rewrapped(now, path.name, sha256(wrapped).hexdigest()))
    replace_wrapped_keys(path, wrapped)
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "keys.json is missing: restore it from a backup"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"{error}. `gateway recordings verify` tells a missing key from a changed file."
