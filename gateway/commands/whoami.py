"""`gateway whoami`: the person of the stored login, or of the token that takes its place."""

import argparse
from datetime import UTC, datetime

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import (
    add_client_options,
    gateway_address,
    run_client_command,
)
from gateway.commands.client_token import LOGIN_SOURCE
from gateway.commands.exit_codes import OK
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.terminal import print_json, print_line


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _whoami)


def _whoami(options: argparse.Namespace, gateway: GatewayClient) -> int:
    """Show what the token says; only the gateway can verify it."""
    from gateway.commands.client_login import ClientLogins
    from gateway.commands.login_provider import unverified_claims

    token, address = gateway.token, str(gateway_address(options)[0])
    claims = {} if token.token is None else unverified_claims(token.token.reveal())
    stored = None
    if token.source == LOGIN_SOURCE:
        logins = ClientLogins()
        stored = next(map(logins.describe, logins.folder.find(address)), None)
    expires_at = claims.get("exp")
    fields = {
        "gateway": address,
        "subject": claims.get("sub"),
        "issuer": claims.get("iss"),
        "expires_at": _text(expires_at) if isinstance(expires_at, int | float) else None,
        "source": token.source or "the certificate of --cert",
        "stored": stored,
    }
    if options.json:
        print_json(fields)
    else:
        for name, value in fields.items():
            print_line(f"{name.replace('_', ' ')}: {'-' if value is None else value}")
    return OK


def _text(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OSError, OverflowError):
        return "-"
