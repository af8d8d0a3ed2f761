"""`gateway recordings play`: request a one-time address of the player, and open or print it."""

import argparse
import re
from typing import Final

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK, REJECTED, CommandFailed
from gateway.commands.gateway_client import GatewayClient, require_member
from gateway.commands.open_or_print import add_open_options, open_or_print
from gateway.commands.recordings import add_recording_argument
from gateway.commands.terminal import print_json
from gateway.commands.times import TIME_HELP, rfc3339, time_or_age

_ADDRESS: Final = re.compile(r"https?://[!-~]+")


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    add_recording_argument(parser)
    parser.add_argument(
        "--at",
        type=time_or_age,
        metavar="TIME",
        help=f"begin at this time, such as that of an alert: {TIME_HELP}",
    )
    parser.add_argument(
        "--keys", action="store_true", help="with the keystrokes (permission recording:keys)"
    )
    add_open_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _play)


def _play(options: argparse.Namespace, gateway: GatewayClient) -> int:
    path = f"/console/recordings/{options.recording}"
    at = "" if options.at is None else f"&at={rfc3339(options.at)}"
    data = gateway.request(f"{path}/views", body={"keys": options.keys}).data
    url = require_member(data, "url", str) + at
    if not _ADDRESS.fullmatch(url):
        # A server in the gateway's place must not start a program other than the browser.
        raise CommandFailed(REJECTED, "The response has no usable address. Check --gateway.")
    left_s = require_member(data, "expires_in", int)
    if options.json:
        print_json({"url": url, "expires_in_s": left_s})
    else:
        open_or_print(options, url, expires_in_s=left_s)
    return OK
