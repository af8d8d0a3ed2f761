"""`gateway audit`: its commands. The module of each registers its options when they are needed."""

from typing import Final

from gateway.commands.arguments import CommandParser, add_commands

COMMANDS: Final = {
    "verify": "report removed, changed, inserted or reordered lines of the audit log",
    "search": "print records of the audit log by person, server and time",
    "export": "write the audit log of the Redis stream as files, for verify and search",
}
DIRECTORIES: Final = "audit.directory of one gateway host, or of several"


def register(parser: CommandParser) -> None:
    add_commands(parser, COMMANDS, "audit_")
