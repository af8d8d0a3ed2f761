"""`gateway login`: log in at the gateway's identity provider, with a browser or a code."""

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
    from gateway.commands.cli_issuer import CliIssuer


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument("--issuer", metavar="NAME", help="issuer (default: the only one)")
    parser.add_argument(
        "--device",
        action="store_true",
        help="enter a code in a browser on another device (default where this machine has none)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_without_token(options, _login)


def _login(options: argparse.Namespace, gateway: GatewayClient) -> int:
    from gateway.commands.browser import has_browser
    from gateway.commands.cli_issuer import CliIssuer
    from gateway.commands.client_login import ClientLogins
    from gateway.commands.device_login import log_in_by_device, offers_device_login
    from gateway.commands.login_provider import LoginProvider
    from gateway.commands.loopback_login import log_in_by_loopback

    logins = ClientLogins()
    logins.folder.check()  # before the person has logged in in vain
    address = str(gateway_address(options)[0])
    document = gateway.request("/.well-known/console-gateway").data
    issuers = [CliIssuer.parse(one) for one in require_member(document, "issuers", list)]
    issuer = _choose(issuers, options.issuer)
    provider = LoginProvider(issuer.issuer, issuer.client_id, ca_file=options.ca_file)
    if options.device or (not has_browser() and offers_device_login(issuer, provider)):
        login = log_in_by_device(address, issuer, provider)
    else:
        login = log_in_by_loopback(address, issuer, provider)
    stored = logins.describe(logins.store_new(login))
    if options.json:
        fields = {"gateway": address, "issuer": issuer.name, "subject": login.subject}
        print_json({**fields, "stored": stored})
    else:
        print_line(f"Logged in at {address} as {login.subject} ({issuer.name}).")
        print_line(f"Tokens: {stored}.")
    return OK


def _choose(issuers: "list[CliIssuer]", name: str | None) -> "CliIssuer":
    if not issuers:
        raise CommandFailed(REJECTED, "This gateway has no issuer with `cli`: bring a token.")
    found = [one for one in issuers if name in (None, one.name)]
    if len(found) != 1:
        names = ", ".join(one.name for one in issuers)
        raise usage_error(f"Specify one of the issuers by --issuer: {names}.")
    return found[0]
