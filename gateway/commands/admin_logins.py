"""The commands of `gateway admin` on logins of browsers."""

import argparse
from typing import Any

from gateway.commands.arguments import CommandParser, nonempty
from gateway.commands.exit_codes import usage_error
from gateway.commands.gateway_client import require_member
from gateway.commands.terminal import print_line, print_rows

Json = dict[str, Any]


def logins_options(parser: CommandParser) -> None:
    parser.add_argument("action", nargs="?", choices=("end",), help="end logins")
    parser.add_argument("id", nargs="?", type=nonempty, metavar="ID", help="the one to end")
    parser.add_argument(
        "--listener",
        choices=("public", "admin"),
        help="whose pages: `admin` for the operators' pages (default: public)",
    )
    parser.add_argument("--issuer", type=nonempty, help="the person's issuer; requires --subject")
    parser.add_argument("--subject", type=nonempty, help="those of this person")
    parser.add_argument("--before", metavar="NEXT", help="the page after the one that printed it")


def end_logins(options: argparse.Namespace) -> Json:
    if (options.id is None) == (options.subject is None):
        raise usage_error("Specify exactly one of ID and --subject.")
    if options.issuer is not None and options.subject is None:
        raise usage_error("--issuer requires --subject.")
    return {name: getattr(options, name) for name in ("listener", "id", "issuer", "subject")}


def show_logins(response: Json) -> None:
    columns = (
        *("id", "issuer", "subject", "client_address", "started_at", "used_at"),
        *("idle_ends_at", "ends_at"),
    )
    print_rows(
        ("ID", "ISSUER", "SUBJECT", "FROM", "STARTED", "LAST USED", "ENDS IF IDLE", "ENDS"),
        [
            tuple(one[column] for column in columns)
            for one in require_member(response, "logins", list)
        ],
        none="No logins.",
    )
    if following := require_member(response, "next", str):
        print_line(f"There are more: add --before {following}")


def show_ended(response: Json) -> None:
    print_rows(
        ("ID", "ISSUER", "SUBJECT", "FROM"),
        [
            tuple(one[column] for column in ("id", "issuer", "subject", "client_address"))
            for one in require_member(response, "ended", list)
        ],
        none="The person has no login.",
    )
