"""docs/reference/cli.md lists every command with its arguments and exit codes."""

import subprocess
import sys

import pytest

from gateway.commands.parser import build_parser
from gateway.commands.reference import Command, list_commands

_SLOW_PACKAGES = ("aiohttp", "redis", "pydantic", "yaml")

COMMANDS = list(list_commands(build_parser(), "gateway"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_describes_itself(command: Command) -> None:
    assert command.description
    assert all(action.help for action in [*command.connection, *command.own])
    assert {0, 2} <= command.parser.exit_codes.keys()
    assert "exit codes" not in (command.parser.epilog or "")


def test_help_imports_no_slow_package() -> None:
    program = (
        "import sys; from gateway.commands.parser import build_parser;"
        " build_parser().format_help();"
        f" assert not sys.modules.keys() & {set(_SLOW_PACKAGES)}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
