"""Options and argument types that several commands share."""

import argparse
import os
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_CONFIG_VARIABLE: Final = "CONSOLE_GATEWAY_CONFIG"


class CommandParser(argparse.ArgumentParser):
    """The parser of one command; it imports the command's module when it is first needed.

    The module's `register` adds the options and sets `run`, which returns the exit code.
    """

    def __init__(self, *arguments: Any, module: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.exit_codes: Mapping[int, str] = {}
        self._module = module

    def load(self) -> None:
        """Add the command's options, once."""
        module, self._module = self._module, ""
        if module:
            import_module(module).register(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.load()
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:  # here, so that the usage is that of the command
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def format_help(self) -> str:
        self.load()
        codes = "".join(f"  {code}  {meaning}\n" for code, meaning in self.exit_codes.items())
        return super().format_help() + (f"\nexit codes:\n{codes}" if codes else "")


def add_commands(
    parser: argparse.ArgumentParser, descriptions: Mapping[str, str], modules: str
) -> None:
    """Add a command for each description; its module is `modules` followed by its name."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, description in descriptions.items():
        commands.add_parser(
            name,
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            module=f"gateway.commands.{modules}{name}",
        )


def add_config_option(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    default = os.environ.get(_CONFIG_VARIABLE) or None
    parser.add_argument(
        "--config",
        type=Path,
        default=default,
        required=required and default is None,
        metavar="FILE",
        help=f"config file (default: ${_CONFIG_VARIABLE})",
    )


def add_output_options(parser: argparse.ArgumentParser, json_help: str) -> None:
    """Add `--output` and its short form `--json`; both set `options.json`."""
    parser.set_defaults(json=False)
    parser.add_argument(
        "--output",
        action=_OutputFormat,
        dest="json",
        choices=("table", "json"),
        help=f"table for people, or json: {json_help} (default: table)",
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="same as --output json"
    )


class _OutputFormat(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        setattr(namespace, self.dest, values == "json")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be an integer, 1 or more")
    return int(text)


def number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError("must be a number") from None
        if not low <= value <= high:  # false for NaN as well
            raise argparse.ArgumentTypeError(f"must be from {low:,} to {high:,}")
        return value

    return read


def hex_id(command: str, digits: int = 32) -> Callable[[str], str]:
    """Return the type of an argument that is an ID or a hash; `command` prints such ones."""
    pattern = re.compile(f"[0-9a-f]{{{digits}}}")

    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            message = f"must have {digits} hexadecimal digits, as `{command}` prints them"
            raise argparse.ArgumentTypeError(message)
        return text

    return read


def nonempty(text: str) -> str:
    """Reject an empty value: an unset variable of a script must not select every person."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text
