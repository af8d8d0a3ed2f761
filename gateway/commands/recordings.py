"""`gateway recordings`: its commands. The module of each registers its options when needed."""

import argparse
import re
from typing import Final

from gateway.commands.arguments import CommandParser, add_commands

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
