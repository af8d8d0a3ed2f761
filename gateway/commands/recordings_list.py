"""`gateway recordings list`: the recordings that the caller may view."""

import argparse
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from gateway.commands.arguments import CommandParser, number
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK
from gateway.commands.gateway_client import GatewayClient, require_member, unexpected_response
from gateway.commands.terminal import print_error, print_json, print_table
from gateway.commands.times import TIME_HELP, rfc3339, time_or_age

_FILTERS = ("project", "server", "subject")
_TIMES = ("since", "until")


def register(parser: CommandParser) -> None:
    add_client_options(parser)
    parser.add_argument("--project", metavar="ID", help="of servers of this project")
    parser.add_argument("--server", metavar="ID", help="of this server")
    parser.add_argument("--subject", metavar="PERSON", help="of sessions of this person")
    parser.add_argument(
        "--since",
        type=time_or_age,
        metavar="TIME",
        help=f"that began at this time or later: {TIME_HELP}",
    )
    parser.add_argument(
        "--until",
        type=time_or_age,
        metavar="TIME",
        help="that began before this time, in the same form",
    )
    parser.add_argument(
        "--limit", type=number(1, 1_000), default=100, help="at most so many (default: 100)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _list)


def _list(options: argparse.Namespace, gateway: GatewayClient) -> int:
    query = {name: getattr(options, name) for name in _FILTERS if getattr(options, name)}
    for name in _TIMES:
        if (at := getattr(options, name)) is not None:
            query[name] = rfc3339(at)
    data = _listed(gateway, query, int(options.limit))
    if options.json:
        print_json(data)
        return OK
    if data["recordings"]:
        print_table(_HEAD, map(_row, data["recordings"]))
    else:
        print_error("No recording that you may view matches.")
    if not data.get("complete", True):
        print_error("The recordings of other hosts are not listed: Redis is unavailable.")
    if data.get("more"):
        print_error(f"There are more: narrow the search, raise --limit, or --until {data['until']}")
    return OK


def _listed(gateway: GatewayClient, query: dict[str, str], limit: int) -> dict[str, Any]:
    """Return the newest recordings, of as many pages as that takes."""
    found: dict[str, dict[str, Any]] = {}
    is_complete = True
    while True:
        query["limit"] = str(limit - len(found))
        data = gateway.request(f"/console/recordings?{urlencode(query)}").data
        recordings = require_member(data, "recordings", list)
        try:
            found |= {one["id"]: one for one in recordings}
        except (LookupError, TypeError) as error:
            raise unexpected_response() from error
        is_complete = is_complete and data.get("complete", True)
        until = data.get("until") if data.get("more") else None
        if until is None or until == query.get("until") or len(found) >= limit:
            return {**data, "recordings": [*found.values()], "complete": is_complete}
        query["until"] = until


_HEAD: Final = (
    "ID", "STARTED", "PERSON", "SERVER", "LENGTH", "END", "HOLD", "HOSTS", "PROBLEMS",
)  # fmt: skip


def _row(recording: dict[str, Any]) -> tuple[object, ...]:
    try:
        began, ended_at = datetime.fromisoformat(recording["started_at"]), recording["ended_at"]
        length = None
        if ended_at is not None:
            seconds = (datetime.fromisoformat(ended_at) - began).total_seconds()
            length = timedelta(seconds=round(seconds))
        server = recording["server"]
        problem = "NOT INTACT" if recording["here"] else "NOT HERE"
        return (
            recording["id"],
            began.astimezone().isoformat(" ", "seconds"),
            recording["person"]["subject"],
            f"{server['project_id']}/{server['id']}",
            length,
            recording["end"] if ended_at is not None else _unfinished(recording),
            "on hold" if recording["held"] else "",
            ", ".join(recording["hosts"]),
            "; ".join(f"{problem}: {one}" for one in recording["problems"]),
        )
    except (LookupError, TypeError, ValueError) as error:
        raise unexpected_response() from error


def _unfinished(recording: dict[str, Any]) -> str:
    return "not closed yet" if recording.get("state") == "not_closed" else "in progress"
