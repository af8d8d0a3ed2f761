"""`gateway logout`: forget the logins at a gateway."""

import argparse

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import (
    add_client_options,
    gateway_address,
    run_without_token,
)
from gateway.commands.exit_codes import OK, REJECTED, CommandFailed
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.terminal import print_json, print_line


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_without_token(options, _logout)


def _logout(options: argparse.Namespace, _: GatewayClient) -> int:
    """Delete the stored tokens. The gateway needs not to run."""
    from gateway.commands.stored_logins import LoginFolder

    address, folder = str(gateway_address(options)[0]), LoginFolder.of_person()
    logins = folder.find(address)
    try:
        for one in logins:
            with folder.lock(one):  # a refresh in progress would write it again
                folder.delete(one)
    except OSError as error:
        message = f"The login cannot be deleted from {folder.path}: {error.strerror}."
        raise CommandFailed(REJECTED, message) from None
    if options.json:
        print_json({"gateway": address, "ended": len(logins)})
    elif logins:
        print_line(f"Logged out of {address}. You may still be logged in at the identity provider.")
    else:
        print_line(f"You were not logged in at {address}.")
    return OK
