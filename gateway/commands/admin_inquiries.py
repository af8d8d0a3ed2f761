"""`gateway admin explain` and `gateway admin audit`: why a decision, and what was recorded."""

import argparse
from typing import Any

from gateway.commands.arguments import CommandParser, nonempty
from gateway.commands.exit_codes import usage_error
from gateway.commands.gateway_client import require_member
from gateway.commands.terminal import print_line, print_rows
from gateway.commands.times import TIME_HELP, time_or_age

Json = dict[str, Any]


def explain_options(parser: CommandParser) -> None:
    parser.add_argument("--issuer", type=nonempty, required=True, help="name in the config")
    parser.add_argument("--subject", type=nonempty, required=True, help="the person")
    parser.add_argument(
        "--group",
        dest="groups",
        action="append",
        type=nonempty,
        help="repeat it for each group (default: the groups of the person's newest token)",
    )
    parser.add_argument(
        "--permission", default="console:open", help="permission (default: %(default)s)"
    )
    parser.add_argument("target", metavar="PROJECT[/SERVER]", help="server by ID, or a project")


def explain_body(options: argparse.Namespace) -> Json:
    project, _, server = options.target.partition("/")
    if not project:
        raise usage_error("Specify PROJECT or PROJECT/SERVER.")
    return {
        "issuer": options.issuer,
        "subject": options.subject,
        "groups": options.groups,
        "permission": options.permission,
        "project": project,
        "server": server or None,
    }


def show_explanation(response: Json) -> None:
    for lock in require_member(response, "locks", list):
        print_line(f"DENIED by lock {lock['id']}, set by {lock['created_by']}")
    rule = response["rule"]
    verdict = "ALLOWED" if require_member(response, "allowed", bool) else "DENIED"
    if rule is None:
        print_line("DENIED: no grant applies")
    elif response["locks"]:
        print_line(f"  without locks: {rule['kind']} {rule['location']}: {rule['label']}")
    else:
        print_line(f"{verdict} by {rule['location']}: {rule['label']}")
    for other in require_member(response, "others", list):
        print_line(f"  also {other['location']}: {other['label']}")
    groups = ", ".join(require_member(response, "groups", list)) or "none"
    print_line(f"  groups: {groups} (from: {response['groups_from']})")
    if not require_member(response, "attributes_known", bool):
        print_line(
            "  the server's attributes are unknown: grants by attributes do not apply, denials by"
            " attributes do"
        )


def audit_options(parser: CommandParser) -> None:
    parser.add_argument("--issuer", type=nonempty, help="the person's issuer")
    parser.add_argument("--subject", type=nonempty, help="the person")
    parser.add_argument("--server", type=nonempty, metavar="ID", help="a server")
    parser.add_argument("--request-id", type=nonempty, metavar="ID", help="X-Request-Id")
    parser.add_argument("--event", type=nonempty, help="such as console_link_issued")
    parser.add_argument(
        "--since", type=time_or_age, metavar="TIME", help=f"this time or later: {TIME_HELP}"
    )
    parser.add_argument(
        "--until", type=time_or_age, metavar="TIME", help=f"before this time: {TIME_HELP}"
    )


def show_records(response: Json) -> None:
    print_rows(
        (
            *("TIME", "EVENT", "PERSON", "DECISION", "TARGET", "SERVERS", "REQUEST", "FROM"),
            *("DETAIL", "PROOF"),
        ),
        [
            (
                *(one["at"], one["event"], f"{one['issuer']}:{one['subject']}"),
                *(one["decision"], one["target"], ",".join(one["servers"])),
                *(one["request_id"], one["client_address"], one["detail"], one["proof"]),
            )
            for one in require_member(response, "records", list)
        ],
        none="No record matches.",
    )
    if not require_member(response, "complete", bool):
        print_line("There may be more records: search a shorter time.")
    if not require_member(response, "intact", bool):
        print_line("The chain of these records is broken: run `gateway audit verify`.")
    print_line(
        f"Searched: the audit directory of {', '.join(require_member(response, 'hosts', list))}"
    )
    if others := require_member(response, "other_hosts", list):
        print_line(f"Not searched: {', '.join(others)}. Use `--gateway` with their admin listener.")
    if missing := require_member(response, "missing", int):
        print_line(f"{missing} processes did not respond: there may be other hosts.")
