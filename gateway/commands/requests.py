"""`gateway requests`: request access for a limited time, and decide on the requests of others."""

import argparse
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from gateway.commands.arguments import CommandParser, hex_id, nonempty
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import OK, REJECTED, CommandFailed, usage_error
from gateway.commands.gateway_client import GatewayClient, require_member, unexpected_response
from gateway.commands.terminal import print_error, print_json, print_line, print_table
from gateway.commands.times import DURATION_HELP, duration
from gateway.config.policy_schema import DURATION_MAX_S

Json = dict[str, Any]

_PATH: Final = "/requests"
_request_id: Final = hex_id("gateway requests list")


def register(parser: CommandParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, description: str, perform: Callable[[argparse.Namespace, GatewayClient], int]
    ) -> CommandParser:
        one: CommandParser = kinds.add_parser(name, help=description, description=description)
        add_client_options(one)
        one.set_defaults(run=lambda options: run_client_command(options, perform))
        return one

    command("rules", "list what you may request", _rules)
    create = command("create", "request a role on servers for a limited time", _create)
    create.add_argument("servers", nargs="+", metavar="PROJECT/SERVER", help="servers by ID")
    create.add_argument(
        "--role", required=True, type=nonempty, help="from `gateway requests rules`"
    )
    create.add_argument("--rule", type=nonempty, help="rule, where several allow the request")
    create.add_argument(
        "--for",
        dest="duration_s",
        required=True,
        type=duration(1, DURATION_MAX_S),
        metavar="DURATION",
        help=f"how long, from the approval on: {DURATION_HELP}",
    )
    create.add_argument("--reason", required=True, type=nonempty, help="why; approvers read it")
    create.add_argument("--ticket", default=None, type=nonempty, help="number of a ticket")
    create.add_argument(
        "--break-glass",
        action="store_true",
        help="in an emergency: access at once, without approval; security is notified",
    )
    create.add_argument("--yes", action="store_true", help="break the glass without a question")
    listed = command("list", "list your requests and those that you may decide on", _list)
    which = listed.add_mutually_exclusive_group()
    which.add_argument("--mine", action="store_true", help="your own only")
    which.add_argument("--to-approve", action="store_true", help="those that wait for you only")
    listed.add_argument(
        "--state", type=nonempty, help="in these states only, for example pending,active"
    )
    for name, description, perform in (
        ("show", "show one request", _show),
        ("approve", "approve a request of another person", _approve),
        ("deny", "deny a request of another person", _close("deny")),
        ("withdraw", "withdraw your pending request", _close("withdraw")),
        ("end", "end access before its time", _close("end")),
    ):
        one = command(name, description, perform)
        one.add_argument("id", type=_request_id, metavar="ID", help="from `gateway requests list`")
        if name == "approve":
            one.add_argument(
                "--hash",
                type=hex_id("gateway requests show", 64),
                help="what you approve, as `show` printed it (required without a terminal)",
            )
        elif name != "show":
            one.add_argument("--reason", default="", help="shown to the requester")


def _rules(options: argparse.Namespace, gateway: GatewayClient) -> int:
    data = gateway.request(f"{_PATH}/rules").data
    rules = require_member(data, "rules", list)
    if options.json:
        print_json(data)
    elif not rules:
        print_error("The policy lets you request nothing.")
    else:
        _print(lambda: print_table(_RULE_HEAD, map(_rule_row, rules)))
    return OK


def _create(options: argparse.Namespace, gateway: GatewayClient) -> int:
    pairs = [one.partition("/") for one in options.servers]
    projects = {project for project, _, _ in pairs}
    if len(projects) != 1 or not all(project and server for project, _, server in pairs):
        raise usage_error("Specify each server as PROJECT/SERVER, all of one project.")
    if options.break_glass and not options.yes:
        _confirm("Break the glass? You get access at once, and security is notified.", "--yes")
    body = {
        "role": options.role,
        "rule": options.rule,
        "project_id": projects.pop(),
        "server_ids": [server for _, _, server in pairs],
        "duration_s": options.duration_s,
        "reason": options.reason,
        "ticket": options.ticket,
        "break_glass": options.break_glass,
    }
    made = gateway.request(_PATH, body=body).data
    return _printed(options, made)


def _list(options: argparse.Namespace, gateway: GatewayClient) -> int:
    query = {"limit": "1000"}
    if options.mine or options.to_approve:
        query["filter"] = "mine" if options.mine else "to_approve"
    if options.state:
        query["state"] = options.state
    data = gateway.request(f"{_PATH}?{urlencode(query)}").data
    requests = require_member(data, "requests", list)
    if options.json:
        print_json(data)
        return OK
    if not requests:
        print_error("No requests.")
    else:
        _print(lambda: print_table(_HEAD, map(_row, requests)))
    if data.get("truncated"):
        print_error(f"{data['truncated']} more; narrow the list with --state.")
    return OK


def _show(options: argparse.Namespace, gateway: GatewayClient) -> int:
    return _printed(options, gateway.request(_path_of(options)).data)


def _approve(options: argparse.Namespace, gateway: GatewayClient) -> int:
    shown = options.hash
    if shown is None:
        request = gateway.request(_path_of(options)).data
        shown = require_member(request, "hash", str)
        for line in _lines(request):
            print_error(line)
        _confirm("Approve exactly this?", "--hash")
    approved = gateway.request(f"{_path_of(options)}/approve", body={"hash": shown}).data
    return _printed(options, approved)


def _close(step: str) -> Callable[[argparse.Namespace, GatewayClient], int]:
    def close(options: argparse.Namespace, gateway: GatewayClient) -> int:
        closed = gateway.request(f"{_path_of(options)}/{step}", body={"reason": options.reason})
        return _printed(options, closed.data)

    return close


def _confirm(question: str, option: str) -> None:
    if not sys.stdin.isatty():
        raise usage_error(f"Without a terminal, specify {option}.")
    print_error(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed(REJECTED, "Nothing was done.")


def _path_of(options: argparse.Namespace) -> str:
    return f"{_PATH}/{quote(options.id, safe='')}"


def _printed(options: argparse.Namespace, request: Json) -> int:
    if options.json:
        print_json(request)
        return OK
    for line in _lines(request):
        print_line(line)
    return OK


def _print(show: Callable[[], None]) -> None:
    try:
        show()
    except (LookupError, TypeError, ValueError) as error:
        raise unexpected_response() from error


_RULE_HEAD: Final = ("RULE", "ROLE", "AT MOST", "APPROVALS", "TICKET", "BREAK-GLASS", "SERVERS")
_HEAD: Final = ("ID", "STATE", "PERSON", "ROLE", "SERVERS", "HOURS", "ENDS", "REASON")


def _rule_row(rule: Json) -> tuple[object, ...]:
    glass = rule["break_glass"]
    servers = ", ".join([*rule["project_ids"], *rule["server_ids"]]) or "everything"
    return (
        rule["rule"],
        rule["role"],
        f"{rule['duration_max_s'] / 3600:g} h",
        rule["approvals_required"],
        "required" if rule["ticket_required"] else "",
        "" if glass is None else f"{glass['per_day']} a day",
        f"{servers}, by attributes" if rule["selects_by_attributes"] else servers,
    )


def _row(request: Json) -> tuple[object, ...]:
    return (
        request["id"],
        _state(request),
        request["requester"]["subject"],
        request["role"],
        ", ".join(f"{request['project_id']}/{one}" for one in request["server_ids"]),
        f"{request['duration_s'] / 3600:g}",
        _local(request["ends_at"]),
        request["reason"],
    )


def _lines(request: Json) -> list[str]:
    """Return a request for people, a fact per line."""
    try:
        requester = request["requester"]
        facts = [
            ("request", request["id"]),
            ("state", _state(request)),
            ("person", f"{requester['subject']} (issuer {requester['issuer']})"),
            ("role", f"{request['role']} (rule {request['rule']})"),
            *(("server", f"{request['project_id']}/{one}") for one in request["server_ids"]),
            ("for", f"{request['duration_s'] / 3600:g} h from the approval on"),
            ("reason", request["reason"]),
            ("ticket", request["ticket"]),
            *(("approved", f"by {_by(one)}") for one in request["approvals"]),
            ("ends", _local(request["ends_at"])),
            ("hash", request["hash"]),
        ]
        closed = request["closed"]
        if closed is not None:
            facts.append((request["state"], f"by {_by(closed)} {closed['reason']}".rstrip()))
        elif request["state"] == "pending":
            facts.append(("approvers", _approvers(request)))
    except (LookupError, TypeError, ValueError) as error:
        raise unexpected_response() from error
    return [f"{name + ':':<11}{value}" for name, value in facts if value]


def _state(request: Json) -> str:
    glass = " by break-glass" if request["break_glass"] else ""
    unused = "" if request["in_force"] or request["state"] != "active" else " (not in force)"
    return f"{request['state']}{glass}{unused}"


def _approvers(request: Json) -> str:
    approvers = request["approvers"]
    if approvers is None:
        return "none: the rule has gone"
    names = [*approvers["users"], *(f"group {one}" for one in approvers["groups"])]
    left = request["approvals_required"] - len(request["approvals"])
    return f"{', '.join(names)}; {left} more must approve; until {_local(request['pending_until'])}"


def _by(step: Json) -> str:
    return f"{step['by']['subject'] or 'another replica'} at {_local(step['at'])}"


def _local(instant: str | None) -> str:
    """Return an instant in the reader's zone."""
    if instant is None:
        return ""
    return datetime.fromisoformat(instant).astimezone().isoformat(" ", "seconds")
