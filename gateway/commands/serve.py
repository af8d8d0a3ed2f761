"""`gateway serve`: run the gateway."""

import argparse

from gateway.commands.arguments import CommandParser, add_config_option, positive
from gateway.process.serve import serve


def register(parser: CommandParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="COUNT",
        help="worker processes that share the public port (default: %(default)s)",
    )
    parser.exit_codes = {
        0: "stopped by SIGTERM or SIGINT",
        1: "invalid config or policy, or no worker started",
        2: "wrong usage",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return serve(options.config, workers=options.workers)
