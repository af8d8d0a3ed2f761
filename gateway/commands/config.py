"""`gateway config`: print the effective config, or the JSON Schema of config and policy."""

from pathlib import Path

from gateway.commands.arguments import CommandParser, add_config_option
from gateway.commands.terminal import print_json, print_line
from gateway.config.effective import effective_config
from gateway.config.located_yaml import load
from gateway.config.schema import config_schema, policy_schema
from gateway.config.settings import validate_settings


def register(parser: CommandParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")

    description = "print the config with every default, without secrets"
    show: CommandParser = kinds.add_parser("show", help=description, description=description)
    add_config_option(show)
    show.exit_codes = {0: "printed", 1: "invalid config", 2: "wrong usage"}
    show.set_defaults(run=lambda options: print_effective_config(options.config))

    description = "print the JSON Schema of the config, for editors"
    schema: CommandParser = kinds.add_parser("schema", help=description, description=description)
    schema.add_argument("--policy", action="store_true", help="print that of the policy instead")
    schema.exit_codes = {0: "printed", 2: "wrong usage"}
    schema.set_defaults(run=lambda options: print_schema(of_policy=options.policy))


def print_effective_config(config_file: Path) -> int:
    """Print the config with every default; a secret is shown by its source only."""
    document = load(config_file)
    for line in effective_config(validate_settings(document), document).rstrip("\n").split("\n"):
        print_line(line)
    return 0


def print_schema(*, of_policy: bool) -> int:
    """Print the JSON Schema of the config file, or that of the policy file."""
    print_json(policy_schema() if of_policy else config_schema(), indent=2)
    return 0
