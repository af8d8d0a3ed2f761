"""`gateway console`: request a console link and open or print it, or renew a live console."""

import argparse
import re
from typing import Final
from urllib.parse import quote

from gateway.commands.arguments import CommandParser
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK, REJECTED, CommandFailed
from gateway.commands.gateway_client import (
    GatewayClient,
    remaining_lifetime_s,
    require_member,
)
from gateway.commands.open_or_print import add_open_options, open_or_print
from gateway.commands.server_lookup import find_server
from gateway.commands.terminal import print_json, print_line

_LINK: Final = re.compile(r"https?://[!-~]+")
"""A URL in printable ASCII."""


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument(
        "server",
        metavar="SERVER",
        help="NAME, ID or AREA/NAME, where AREA is a project, region or account"
        " (without `page.enabled`: PROJECT/NAME or PROJECT/ID)",
    )
    parser.add_argument("--fresh", action="store_true", help="request a new link, not a cached one")
    add_open_options(parser).add_argument(
        "--renew",
        action="store_true",
        help="let your live consoles on this server follow the token that you have now",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _console)


def _console(options: argparse.Namespace, gateway: GatewayClient) -> int:
    found = find_server(gateway, options.server)
    project, server = found.project, found.id
    if options.renew:
        return _renew(options, gateway, project, server)
    headers = {"Cache-Control": "no-cache"} if options.fresh else {}
    path = f"/v1/{quote(project, safe='')}/physicalservers/{server}/remote-console-address"
    response = gateway.request(path, headers)
    url, left_s = require_member(response.data, "url", str), remaining_lifetime_s(response)
    if not _LINK.fullmatch(url):
        # A server in the gateway's place must not start a program other than the browser.
        raise CommandFailed(REJECTED, "The response has no usable link. Check --gateway.")
    if options.json:
        print_json({"url": url, "expires_in_s": left_s, "server_id": server})
    else:
        open_or_print(options, url, expires_in_s=left_s)
    return OK


def _renew(options: argparse.Namespace, gateway: GatewayClient, project: str, server: str) -> int:
    """Let each live console of the person on the server follow a newer token."""
    sessions = require_member(gateway.request("/console/sessions").data, "sessions", list)
    target = (project, server.lower())
    ids = [one["id"] for one in sessions if (one["project_id"], one["server_id"]) == target]
    if not ids:
        raise CommandFailed(REJECTED, "You have no live console on this server.")
    for session_id in ids:
        gateway.request(f"/console/sessions/{quote(str(session_id), safe='')}/renew", body={})
    if options.json:
        print_json({"renewed": ids})
    else:
        print_line(f"Renewed: {', '.join(map(str, ids))}")
    return OK
