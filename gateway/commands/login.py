"""`gateway login`: log in at the gateway's identity provider with a browser."""

import argparse
from typing import TYPE_CHECKING

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import (
    add_client_options,
    gateway_address,
    run_without_token,
)
from gateway.commands.exit_codes import OK, REJECTED, CommandFailed, usage_error
from gateway.commands.gateway_client import GatewayClient, require_member
from gateway.commands.terminal import print_json, print_line

if TYPE_CHECKING:
    from gateway.commands.client_login import CliIssuer


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument("--issuer", metavar="NAME", help="issuer (default: the only one)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_without_token(options, _login)


def _login(options: argparse.Namespace, gateway: GatewayClient) -> int:
    from gateway.commands.client_login import CliIssuer, log_in, store
    from gateway.commands.login_provider import LoginProvider
    from gateway.commands.stored_logins import LoginFolder

    address = str(gateway_address(options)[0])
    document = gateway.request("/.well-known/console-gateway").data
    issuers = [CliIssuer.parse(one) for one in require_member(document, "issuers", list)]
    issuer = _choose(issuers, options.issuer)
    provider = LoginProvider(issuer.issuer, issuer.client_id, ca_file=options.ca_file)
    login = log_in(address, issuer, provider)
    is_stored = store(login, LoginFolder.of_person())
    if options.json:
        fields = {"gateway": address, "issuer": issuer.name, "subject": login.subject}
        print_json({**fields, "stored": is_stored})
    else:
        print_line(f"Logged in at {address} as {login.subject} ({issuer.name}).")
    return OK


def _choose(issuers: "list[CliIssuer]", name: str | None) -> "CliIssuer":
    if not issuers:
        raise CommandFailed(REJECTED, "This gateway has no issuer with `cli`: bring a token.")
    found = [one for one in issuers if name in (None, one.name)]
    if len(found) != 1:
        names = ", ".join(one.name for one in issuers)
        raise usage_error(f"Specify one of the issuers by --issuer: {names}.")
    return found[0]
