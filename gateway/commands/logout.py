"""`gateway logout`: forget the logins at a gateway."""

import argparse
from typing import Final

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import (
    add_client_options,
    gateway_address,
    run_without_token,
)
from gateway.commands.exit_codes import OK, CommandFailed
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.terminal import print_error, print_json, print_line

_REVOKE_S: Final = 3.0
"""How long an issuer that does not answer may delay each step."""


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_without_token(options, _logout)


def _logout(options: argparse.Namespace, _: GatewayClient) -> int:
    """Delete the stored tokens, then revoke them. Neither gateway nor issuer needs to run."""
    from gateway.commands.client_login import ClientLogins
    from gateway.commands.completion_names import ServerNames
    from gateway.commands.login_provider import LoginProvider

    address, saved = str(gateway_address(options)[0]), ClientLogins()
    logins = saved.folder.find(address)
    ServerNames.forget(address)
    failures = []
    for one in logins:
        try:
            refresh_token = saved.delete(one)
        except CommandFailed as failure:
            failures.append(failure)
            continue
        if refresh_token:
            provider = LoginProvider(
                one.issuer, one.client_id, ca_file=options.ca_file, timeout_s=_REVOKE_S
            )
            try:
                provider.revoke(refresh_token)
            except CommandFailed as failure:
                print_error(failure)
                print_error(
                    "Your refresh token is deleted here, but still valid at the issuer. It ends"
                    " when you log out there."
                )
    if failures:
        raise failures[0]
    if options.json:
        print_json({"gateway": address, "ended": len(logins)})
    elif logins:
        print_line(f"Logged out of {address}. You may still be logged in at the identity provider.")
    else:
        print_line(f"You were not logged in at {address}.")
    return OK
