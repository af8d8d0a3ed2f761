"""The commands of `gateway admin` on access requests, and on notices about them."""

import argparse
from typing import Any

from gateway.commands.arguments import CommandParser, nonempty
from gateway.commands.exit_codes import usage_error
from gateway.commands.gateway_client import require_member
from gateway.commands.terminal import print_line, print_rows

Json = dict[str, Any]


def requests_options(parser: CommandParser) -> None:
    parser.add_argument("action", nargs="?", choices=("end",), help="end a request")
    parser.add_argument("id", nargs="?", type=nonempty, metavar="ID", help="the one to end")
    parser.add_argument("--issuer", type=nonempty, help="the person's issuer")
    parser.add_argument("--subject", type=nonempty, help="those of this person")
    parser.add_argument("--state", type=nonempty, help="in this state (default: pending, active)")


def webhooks_options(parser: CommandParser) -> None:
    parser.add_argument("action", nargs="?", choices=("replay",), help="try notices again")
    parser.add_argument("id", nargs="?", type=nonempty, metavar="ID", help="the notice")
    parser.add_argument("--webhook", type=nonempty, metavar="NAME", help="those of this webhook")


def end_request(options: argparse.Namespace) -> Json:
    if options.id is None:
        raise usage_error("Specify the ID of the request.")
    return {"id": options.id}


def replay(options: argparse.Namespace) -> Json:
    if (options.id is None) == (options.webhook is None):
        raise usage_error("Specify the ID of a notice, or --webhook for all of a webhook.")
    return {"id": options.id, "webhook": options.webhook}


def show_requests(response: Json) -> None:
    print_rows(
        ("ID", "STATE", "ISSUER", "SUBJECT", "ROLE", "SERVERS", "ENDS", "APPROVED BY", "REASON"),
        [
            (
                *(one[column] for column in ("id", "state", "issuer", "subject", "role")),
                ", ".join(one["servers"]),
                one["ends_at"],
                "break-glass" if one["break_glass"] else ", ".join(one["approved_by"]),
                one["reason"],
            )
            for one in require_member(response, "requests", list)
        ],
        none="No access requests.",
    )
    show_incomplete(response)


def show_incomplete(response: Json) -> None:
    """Say that changes by other replicas may be missing."""
    if not require_member(response, "complete", bool):
        print_line("Redis is unavailable: changes by other replicas may be missing. Try again.")


def show_dead_notices(response: Json) -> None:
    columns = ("id", "webhook", "event", "request", "at", "given_up_at", "attempts", "error")
    print_rows(
        ("ID", "WEBHOOK", "EVENT", "REQUEST", "AT", "GIVEN UP", "ATTEMPTS", "ERROR"),
        [
            tuple(one[column] for column in columns)
            for one in require_member(response, "notices", list)
        ],
        none="No dead notices.",
    )


def show_replayed(response: Json) -> None:
    for one in require_member(response, "replayed", list):
        print_line(f"Tried again: {one}")
