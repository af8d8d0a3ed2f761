"""`gateway sessions`: list your live consoles, or end one."""

import argparse
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from gateway.commands.arguments import CommandParser, nonempty
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK, usage_error
from gateway.commands.gateway_client import GatewayClient, require_member, unexpected_response
from gateway.commands.terminal import print_error, print_json, print_line, print_table

_PATH: Final = "/console/sessions"
_HEAD: Final = ("ID", "SERVER", "MODE", "STARTED", "CONNECTED", "WATCHED BY")


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument("action", nargs="?", choices=("end",), help="end a live console")
    parser.add_argument(
        "id", nargs="?", type=nonempty, metavar="ID", help="the one to end, as the list prints it"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _sessions)


def _sessions(options: argparse.Namespace, gateway: GatewayClient) -> int:
    if options.action == "end":
        return _end(options, gateway)
    data = gateway.request(_PATH).data
    sessions = require_member(data, "sessions", list)
    if options.json:
        print_json(data)
        return OK
    if sessions:
        print_table(_HEAD, map(_row, sessions))
    else:
        print_error("You have no live console.")
    if not data.get("complete", True):
        print_error("Those of other replicas are not listed: Redis is unavailable.")
    return OK


def _end(options: argparse.Namespace, gateway: GatewayClient) -> int:
    if options.id is None:
        raise usage_error("Specify the ID: gateway sessions end ID.")
    gateway.request(f"{_PATH}/{quote(options.id, safe='')}", method="DELETE")
    if options.json:
        print_json({"ended": options.id})
    else:
        print_line(f"Ended: {options.id}")
    return OK


def _row(session: dict[str, Any]) -> tuple[object, ...]:
    try:
        started = datetime.fromisoformat(session["started_at"])
        return (
            session["id"],
            f"{session['project_id']}/{session['server_id']}",
            session["mode"],
            started.astimezone().isoformat(" ", "seconds"),
            "yes" if session["connected"] else "no",
            ", ".join(one["subject"] for one in session["watchers"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise unexpected_response() from error
