"""`gateway logout`: forget the logins at a gateway."""

import argparse

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import (
    add_client_options,
    gateway_address,
    run_without_token,
)
from gateway.commands.exit_codes import OK, CommandFailed
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.terminal import print_json, print_line


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_without_token(options, _logout)


def _logout(options: argparse.Namespace, _: GatewayClient) -> int:
    """Delete the stored tokens. The gateway needs not to run."""
    from gateway.commands.client_login import ClientLogins
    from gateway.commands.completion_names import ServerNames

    address, saved = str(gateway_address(options)[0]), ClientLogins()
    logins = saved.folder.find(address)
    ServerNames.forget(address)
    failures = []
    for one in logins:
        try:
            saved.delete(one)
        except CommandFailed as failure:
            failures.append(failure)
    if failures:
        raise failures[0]
    if options.json:
        print_json({"gateway": address, "ended": len(logins)})
    elif logins:
        print_line(f"Logged out of {address}. You may still be logged in at the identity provider.")
    else:
        print_line(f"You were not logged in at {address}.")
    return OK
