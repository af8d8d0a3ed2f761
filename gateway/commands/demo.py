"""`gateway demo`; the production image does not contain the demo."""

import argparse
import sys

from gateway.commands.arguments import CommandParser

_DEMO_MODULE = "gateway.demo"


def register(parser: CommandParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print addresses and tokens as one line of JSON"
    )
    parser.exit_codes = {
        0: "stopped by a signal",
        1: "gateway failed or demo not installed",
        2: "wrong usage",
    }
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return demo(as_json=options.json)


def demo(*, as_json: bool) -> int:
    """Run the demo and return its exit code; 1 if it is not installed."""
    try:
        from gateway.demo.run import run_demo
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(_DEMO_MODULE):
            raise
        sys.stderr.write(
            "The demo is not part of this image: run `make demo` in a checkout, or install the"
            " console-gateway wheel and run `gateway demo`.\n"
        )
        return 1
    return run_demo(as_json=as_json)
