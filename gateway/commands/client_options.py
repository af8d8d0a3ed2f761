"""Options of the commands that send requests to a gateway, and how such a command runs."""

import argparse
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.commands.arguments import CommandParser, add_output_options, nonempty
from gateway.commands.client_token import ClientToken, load_token
from gateway.commands.exit_codes import CLIENT_EXIT_CODES, CommandFailed, usage_error
from gateway.commands.gateway_address import GatewayAddress, parse_url
from gateway.commands.gateway_client import GatewayClient
from gateway.commands.terminal import print_error, print_json
from gateway.commands.times import DURATION_HELP, duration

CONNECTION_OPTIONS: Final = "connection options"
_PUBLIC_URL: Final = "CONSOLE_GATEWAY_URL"
_PRINTED_FIELDS: Final = ("error_code", "request_id")

ClientCommand = Callable[[argparse.Namespace, GatewayClient], int]
"""Returns the exit code; raises CommandFailed."""


def add_client_options(parser: CommandParser, *, prefix: str = "CONSOLE_GATEWAY") -> None:
    """`prefix` is that of the environment variables with the URL and the token."""
    parser.exit_codes = CLIENT_EXIT_CODES
    url = f"URL of the gateway, with the path if it has one (default: ${prefix}_URL)"
    add_connection_options(parser, CONNECTION_OPTIONS, prefix=prefix, url=url)
    parser.set_defaults(url_variable=f"{prefix}_URL")
    add_output_options(parser, "for programs, errors as well")


def add_connection_options(parser: CommandParser, title: str, *, prefix: str, url: str) -> None:
    """Add the options of `open_client`; `url` is the help text of `--gateway`."""
    parser.set_defaults(url_variable="")
    group = parser.add_argument_group(title)
    group.add_argument("--gateway", type=nonempty, metavar="URL", help=url)
    token = group.add_mutually_exclusive_group()
    token.add_argument(
        "--token-env",
        metavar="NAME",
        default=f"{prefix}_TOKEN",
        help="environment variable with the token (default: %(default)s)",
    )
    token.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token")
    token.add_argument("--token-command", metavar="COMMAND", help="command that prints the token")
    group.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="CA certificates that TLS trusts"
    )
    group.add_argument("--cert", type=Path, metavar="FILE", help="client certificate")
    group.add_argument(
        "--key", type=Path, metavar="FILE", help="private key of --cert (default: in --cert)"
    )
    group.add_argument(
        "--wait",
        type=duration(0.1, 86_400),
        default="60s",
        metavar="DURATION",
        help=f"time limit, retries included: {DURATION_HELP} (default: %(default)s)",
    )


def run_client_command(options: argparse.Namespace, command: ClientCommand) -> int:
    """Run a command with a client; print its failure and return the exit code."""
    return _run(options, command, open_client)


def run_without_token(options: argparse.Namespace, command: ClientCommand) -> int:
    """Run a command, as `run_client_command` does, with a client that sends no token."""
    return _run(options, command, _open_without_token)


def _run(
    options: argparse.Namespace,
    command: ClientCommand,
    open_it: Callable[[argparse.Namespace], GatewayClient],
) -> int:
    gateway = None
    try:
        gateway = open_it(options)
        return command(options, gateway)
    except CommandFailed as failure:
        if gateway is not None and failure.is_refusal and options.url_variable == _PUBLIC_URL:
            from gateway.commands.refusal_help import add_help

            add_help(failure, gateway)
        if options.json:
            print_json(failure.fields)
        else:
            print_failure(failure)
        return failure.code


def print_failure(failure: CommandFailed) -> None:
    fields = [
        f"{name} {value}"
        for name, value in failure.fields.items()
        if name in _PRINTED_FIELDS and value
    ]
    suffix = f" ({', '.join(fields)})" if fields else ""
    print_error(f"{failure}{suffix}")
    for line in failure.help:
        print_error(line)


def open_client(options: argparse.Namespace) -> GatewayClient:
    """Raise CommandFailed if the options name no gateway or no credential."""
    address, tls = gateway_address(options)
    return GatewayClient(address, load_token(options, address), tls=tls, wait_s=options.wait)


def _open_without_token(options: argparse.Namespace) -> GatewayClient:
    address, tls = gateway_address(options)
    return GatewayClient(address, ClientToken(None, ""), tls=tls, wait_s=options.wait)


def gateway_address(options: argparse.Namespace) -> tuple[GatewayAddress, ssl.SSLContext | None]:
    """Return the gateway and how to reach it; raise CommandFailed if the options name none."""
    url = options.gateway or os.environ.get(options.url_variable, "")
    if not url:
        raise usage_error(f"Specify the gateway by --gateway or {options.url_variable}.")
    address = parse_url(url)
    tls = None
    if address.is_https:
        tls = _tls_context(options)
    elif options.ca_file or options.cert or options.key:
        raise usage_error("--ca-file, --cert and --key require an https URL.")
    return address, tls


def _tls_context(options: argparse.Namespace) -> ssl.SSLContext:
    if options.key is not None and options.cert is None:
        raise usage_error("--key requires --cert.")
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except OSError as error:  # ssl's own errors are such
        reason = error.strerror or type(error).__name__
        message = f"--ca-file, --cert or --key cannot be used: {reason}"
        raise usage_error(message) from None
    return context
