"""The parser of `gateway`. Each command's module registers its options when they are needed."""

import argparse
import gc
from collections.abc import Sequence
from typing import Final

from gateway import __version__
from gateway.commands.arguments import add_commands
from gateway.commands.terminal import print_error
from gateway.config.errors import InvalidConfig

COMMANDS: Final = {
    "serve": "run the gateway",
    "check": "find errors in the config and the policy",
    "explain": "show why a person may, or may not, use a permission on a server",
    "policy": "test the policy, and list who has a permission",
    "config": "print the effective config, or the JSON Schemas of config and policy",
    "console": "open or print a console link of a server",
    "servers": "list the servers visible to you and your permissions on them",
    "sessions": "list your live consoles, or end one",
    "login": "log in with a browser; later commands use the login",
    "logout": "forget the login at a gateway",
    "whoami": "show as whom the commands act at a gateway",
    "requests": "request access for a limited time, and decide on the requests of others",
    "admin": "inspect and control a running gateway (admin API)",
    "audit": "search and verify the audit log",
    "recordings": "list, play, export, verify and retain recordings of live consoles",
    "completion": "print the completion script of bash, zsh or fish",
    "demo": "run the gateway with a simulated cloud on loopback",
}
"""Each command and its description; its module in this package has the same name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    # Parsing imports the command. What the imports make stays for good, so collections in between
    # would search it again and again: an eighth of the start of `serve`.
    gc.disable()
    try:
        options = build_parser().parse_args(arguments)
    finally:
        gc.enable()
    try:
        code: int = options.run(options)
    except InvalidConfig as invalid:
        for error in invalid.errors:
            print_error(error)
        return 1
    return code


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Authenticating gateway to the consoles of physical servers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_commands(parser, COMMANDS, "")
    return parser
