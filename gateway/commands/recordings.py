"""`gateway recordings`: its commands. The module of each registers its options when needed."""

import argparse
import os
import re
from typing import Final

from gateway.commands.arguments import CommandParser, add_commands
from gateway.commands.exit_codes import usage_error
from gateway.config.settings import Settings
from gateway.drivers.audit.signing_keys import load_signer
from gateway.drivers.host.clock import SystemClock
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_index import RecordingIndex

COMMANDS: Final = {
    "list": "list the recordings that you may view",
    "play": "open a recording in the browser",
    "export": "save a recording as one HTML file that plays offline, not encrypted",
    "verify": "report recordings that were changed, removed or cut short by a crash",
    "rewrap": "encrypt the data keys of all recordings with the first of recordings.keys",
    "hold": "keep a recording beyond its retention, or lift that",
}


_ID: Final = re.compile(r"[0-9a-f]{32}")


def register(parser: CommandParser) -> None:
    add_commands(parser, COMMANDS, "recordings_")


def recording_id(text: str) -> str:
    """Return the ID of a recording; the type of an argument."""
    if not _ID.fullmatch(text):
        message = "must have 32 hexadecimal digits, as `gateway recordings list` prints them"
        raise argparse.ArgumentTypeError(message)
    return text


def add_recording_argument(parser: CommandParser) -> None:
    parser.add_argument(
        "recording", type=recording_id, metavar="ID", help="recording, as `list` prints it"
    )


def writable_directory(config: Settings) -> RecordingDirectory:
    """Return the recordings of a config; raise CommandFailed if this user must not write there.

    The gateway cannot continue files of another user, root included.
    """
    directory = config.recordings.directory
    if directory is None:
        raise usage_error("the config has no `recordings.directory`")
    if not directory.is_dir():
        raise usage_error(f"{directory} does not exist: nothing is recorded there")
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise usage_error(
            f"run this as the user of the gateway, which owns {directory} (user ID {owner})"
        )
    return RecordingDirectory(directory)


def open_index(config: Settings, directory: RecordingDirectory) -> RecordingIndex:
    """Open the index for new lines, signed as those of the gateway are."""
    key = config.audit.signing_key
    signer = None if key is None else load_signer(key)
    return RecordingIndex(directory.root, SystemClock(), signer)
