"""`gateway recordings`: its commands. The module of each registers its options when needed."""

from typing import Final

from gateway.commands.arguments import CommandParser, add_commands, hex_id

COMMANDS: Final = {
    "list": "list the recordings that you may view",
    "play": "open a recording in the browser",
    "export": "save a recording as one HTML file that plays offline, not encrypted",
    "verify": "report recordings that were changed, removed or cut short by a crash",
    "rewrap": "encrypt the data keys of all recordings with the first of recordings.keys",
    "hold": "keep a recording beyond its retention, or lift that",
}


def register(parser: CommandParser) -> None:
    add_commands(parser, COMMANDS, "recordings_")


recording_id: Final = hex_id("gateway recordings list")


def add_recording_argument(parser: CommandParser) -> None:
    parser.add_argument(
        "recording", type=recording_id, metavar="ID", help="recording, as `list` prints it"
    )
