"""`gateway recordings`: its commands. The module of each registers its options when needed."""

import os
from pathlib import Path
from typing import Final

from gateway.commands.arguments import CommandParser
from gateway.commands.exit_codes import usage_error
from gateway.config.settings import Settings
from gateway.drivers.recordings.recording_directory import RecordingDirectory
from gateway.drivers.recordings.recording_keys import RecordingKeys

COMMANDS: Final = {
    "list": "list the recordings that you may view",
    "play": "open a recording in the browser",
    "export": "save a recording as one HTML file that plays offline, not encrypted",
    "verify": "report recordings that were changed, removed or cut short by a crash",
    "rewrap": "encrypt the data keys of all recordings with the first of recordings.keys",
    "hold": "keep a recording beyond its retention, or lift that",
}


def register(parser: CommandParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, description in COMMANDS.items():
        commands.add_parser(
            name,
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            module=f"gateway.commands.recordings_{name}",
        )


def writable_directory(config: Settings) -> tuple[RecordingDirectory, RecordingKeys]:
    """Return the recordings of a config; raise CommandFailed if this user must not write there.

    The gateway cannot continue files of another user, root included.
    """
    directory = config.recordings.directory
    if directory is None:
        raise usage_error("the config has no `recordings.directory`")
    if not directory.is_dir():
        raise usage_error(f"{directory} does not exist: nothing is recorded there")
    if directory.stat().st_uid != os.geteuid():
        raise usage_error(f"run this as the user of the gateway, which owns {_shown(directory)}")
    return RecordingDirectory(directory), RecordingKeys(config.recordings.keys)


def _shown(directory: Path) -> str:
    return f"{directory} (user ID {directory.stat().st_uid})"
