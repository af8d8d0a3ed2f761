"""`gateway completion`: the completion script of a shell, and the names that it offers."""

import argparse
import os
import sys
import threading
from contextlib import suppress
from typing import Any, Final

from gateway.commands.arguments import CommandParser
from gateway.commands.exit_codes import OK, USAGE
from gateway.commands.terminal import print_line

SHELLS: Final = ("bash", "zsh", "fish")
_FRESH_S: Final = 300.0
_STALE_S: Final = 86_400.0
_CALL_S: Final = 1.5
_LIMIT_S: Final = 2.0
"""A person waits for it, with the cursor at the end of the line."""


def register(parser: CommandParser) -> None:
    parser.add_argument(
        "shell", nargs="?", choices=SHELLS, help="print its script (default: $SHELL)"
    )
    parser.add_argument(
        "--servers",
        metavar="PREFIX",
        help="print names of servers that begin with PREFIX, as the scripts need them: from a"
        " cache, or from the gateway within 2 s; silent on errors",
    )
    parser.exit_codes = {OK: "done", USAGE: "wrong usage"}
    parser.epilog = (
        "bash:  source <(gateway completion bash)\n"
        "zsh:   source <(gateway completion zsh)\n"
        "fish:  gateway completion fish | source"
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.servers is not None:
        return _print_servers(options.servers)
    if options.shell is None:
        options.shell = os.path.basename(os.environ.get("SHELL", ""))  # noqa: PTH119 - a word
    if options.shell not in SHELLS:
        print_line("Specify the shell: bash, zsh or fish.", file=sys.stderr)
        return USAGE
    from gateway.commands.completion_scripts import script
    from gateway.commands.parser import build_parser

    for line in script(options.shell, build_parser()).splitlines():
        print_line(line)
    return OK


def _print_servers(prefix: str) -> int:
    """Print names, one a line; never an error, and never later than the limit."""
    found: list[str] = []

    def look_up() -> None:
        # The shell must stay clean after every error.
        with suppress(Exception, SystemExit):
            found.extend(_names(prefix))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_LIMIT_S)
    for name in [*found]:
        print_line(name)
    if thread.is_alive():
        sys.stdout.flush()
        os._exit(OK)  # a name service may keep the thread for minutes
    return OK


def _names(prefix: str) -> list[str]:
    from gateway.commands.completion_names import ServerNames
    from gateway.commands.server_list import list_servers

    client = _client()
    names = ServerNames.of(client)
    if names.age_s() > _FRESH_S:
        with suppress(Exception):
            names.remember(list_servers(client) or [])
    return [*names.beginning_with(prefix)] if names.age_s() < _STALE_S else []


def _client() -> Any:
    """Return a client with the present token, without a command and without a refresh."""
    import ssl

    from gateway.commands.client_login import ClientLogins
    from gateway.commands.client_token import LOGIN_VARIABLE, ClientToken
    from gateway.commands.gateway_address import parse_url
    from gateway.commands.gateway_client import GatewayClient
    from gateway.domain.model import Secret

    address = parse_url(os.environ.get("CONSOLE_GATEWAY_URL", ""))
    token = os.environ.get(LOGIN_VARIABLE, "").strip()
    if not token:
        token = ClientLogins().folder.find(str(address))[0].token
    tls = ssl.create_default_context() if address.is_https else None
    return GatewayClient(address, ClientToken(Secret(token), ""), tls=tls, wait_s=_CALL_S)
