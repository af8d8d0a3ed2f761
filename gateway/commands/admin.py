"""`gateway admin`: the commands of the admin API."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, get_args
from urllib.parse import urlencode

from gateway.commands import admin_logins, admin_requests
from gateway.commands.admin_inquiries import (
    audit_options,
    explain_body,
    explain_options,
    show_explanation,
    show_records,
)
from gateway.commands.arguments import CommandParser, nonempty, number
from gateway.commands.client_options import add_client_options, run_client_command
from gateway.commands.exit_codes import LATER, OK, REJECTED, usage_error
from gateway.commands.gateway_client import GatewayClient, require_member, unexpected_response
from gateway.commands.terminal import print_json, print_line, print_rows
from gateway.commands.times import DURATION_HELP, TIME_HELP, duration, rfc3339, time_or_age
from gateway.domain.model import Logger, LogLevel
from gateway.domain.timestamps import iso
from gateway.flow.admin.action_specs import ACTION_SPECS

Json = dict[str, Any]


def register(parser: CommandParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, description: str) -> CommandParser:
        description = f"{description} ({_required_permission(name)})"
        one: CommandParser = kinds.add_parser(name, help=description, description=description)
        add_client_options(one, prefix="CONSOLE_GATEWAY_ADMIN")
        one.add_argument("--reason", default="", help="recorded in the audit log")
        one.set_defaults(run=run, command=name)
        return one

    command(
        "overrides",
        "list overrides in force: revocations, locks, dropped links, ceilings, log levels",
    )
    clear = command("clear", "clear an override")
    clear.add_argument("id", type=nonempty, metavar="ID", help="from `gateway admin overrides`")
    _revoke_options(
        command(
            "revoke",
            "revoke a token, a person's tokens, or all tokens issued up to a time; tokens issued"
            " later are valid",
        )
    )
    _lock_options(
        command(
            "lock",
            "keep out a person or group, or close a server or project, also for tokens issued"
            " later, until it is unlocked",
        )
    )
    command("locks", "list the locks in force")
    unlock = command("unlock", "lift a lock")
    unlock.add_argument("id", type=nonempty, metavar="ID", help="from `gateway admin locks`")
    _drop_links_options(command("drop-links", "drop cached links"))
    _sessions_options(
        command("sessions", "list the tokens and links in the caches of all processes")
    )
    _consoles_options(
        command(
            "consoles",
            "list the live consoles of all processes, or end some; the person can open a new one",
        )
    )
    admin_logins.logins_options(
        command("logins", "list the logins of browsers, or end some; the person can log in again")
    )
    admin_requests.requests_options(command("requests", "list access requests, or end one"))
    admin_requests.webhooks_options(
        command("webhooks", "list notices that their webhooks did not get, or try them again")
    )
    command("queue", "show budgets and the calls that wait for them")
    _rate_ceiling_options(
        command("rate-ceiling", "change the rate ceiling of an account's budget for a time")
    )
    policy = command("policy", "show the policy in force and when it was loaded")
    policy.add_argument("--reload", action="store_true", help="reload the file in every process")
    explain_options(command("explain", "explain why a person may open a server, or may not"))
    audit_options(command("audit", "search the audit log in the files of the gateway's host"))
    _log_level_options(command("log-level", "change log levels for a time"))


def _required_permission(command: str) -> str:
    """Return which admin permission a command requires, for its help."""
    texts: dict[str, str] = {}
    for spec in ACTION_SPECS.values():
        name, *words = spec.command.split()
        if name == command:
            needed = " or ".join(spec.permissions)
            rest = " ".join(one for one in words if one.islower())  # without arguments
            how = "with" if rest.startswith("--") else "to"
            texts.setdefault(needed, f"{needed} {how} {rest}" if rest else needed)
    return f"permission: {', '.join(texts.values())}"


def _revoke_options(parser: CommandParser) -> None:
    parser.add_argument("--issuer", type=nonempty, required=True, help="name in the config")
    parser.add_argument("--token-id", type=nonempty, metavar="JTI", help="revoke one token")
    parser.add_argument("--subject", type=nonempty, help="revoke all tokens of this person")
    parser.add_argument(
        "--before",
        type=time_or_age,
        metavar="TIME",
        help=f"revoke tokens issued up to this time: {TIME_HELP} (default with --subject: now)",
    )


def _lock_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--issuer",
        type=nonempty,
        help="issuer of the person or group (default: each); `certificate` for administrators",
    )
    parser.add_argument("--subject", type=nonempty, help="lock this person")
    parser.add_argument("--group", type=nonempty, help="lock the members of this group")
    parser.add_argument("--server", type=nonempty, metavar="ID", help="lock a server")
    parser.add_argument("--project", type=nonempty, metavar="ID", help="lock a project")
    parser.add_argument(
        "--for",
        dest="duration_s",
        type=duration(1, 31_536_000),
        metavar="DURATION",
        help=f"how long the lock lasts: {DURATION_HELP} (default: until it is unlocked)",
    )


def _drop_links_options(parser: CommandParser) -> None:
    parser.add_argument("--all", action="store_true", help="drop every link")
    parser.add_argument(
        "--project", type=nonempty, metavar="ID", help="drop the links of a project"
    )
    parser.add_argument("--server", type=nonempty, metavar="ID", help="drop the links of a server")
    parser.add_argument("--issuer", type=nonempty, help="the person's issuer; requires --subject")
    parser.add_argument("--subject", type=nonempty, help="drop the links of a person")


def _sessions_options(parser: CommandParser) -> None:
    parser.add_argument("--issuer", type=nonempty, help="name in the config")
    parser.add_argument("--subject", type=nonempty, help="filter by person")
    parser.add_argument("--server", type=nonempty, metavar="ID", help="filter by server")


def _consoles_options(parser: CommandParser) -> None:
    parser.add_argument("action", nargs="?", choices=("end",), help="end live consoles")
    parser.add_argument("id", nargs="?", type=nonempty, metavar="ID", help="the one to end")
    parser.add_argument("--issuer", type=nonempty, help="the person's issuer")
    parser.add_argument("--subject", type=nonempty, help="those of this person")
    parser.add_argument("--server", type=nonempty, metavar="ID", help="those on this server")


def _rate_ceiling_options(parser: CommandParser) -> None:
    parser.add_argument("account", type=nonempty, metavar="ACCOUNT", help="name in the config")
    parser.add_argument(
        "rate_per_s",
        type=number(0.001, 100_000),
        metavar="CALLS_PER_SECOND",
        help="new rate ceiling",
    )
    parser.add_argument(
        "--budget",
        choices=("console", "iam"),
        default="console",
        help="kind of calls (default: %(default)s)",
    )
    _duration_option(parser, default="1d")


def _log_level_options(parser: CommandParser) -> None:
    parser.add_argument(
        "levels", nargs="+", type=_level, metavar="LOGGER=LEVEL", help="see the lists below"
    )
    _duration_option(parser, default="1h")
    loggers = "\n  ".join(get_args(Logger))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"levels: {', '.join(get_args(LogLevel))}\nloggers:\n  {loggers}"


def _duration_option(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument(
        "--for",
        dest="duration_s",
        type=duration(1, 2_592_000),
        default=default,
        metavar="DURATION",
        help=f"how long the change lasts: {DURATION_HELP} (default: %(default)s)",
    )


def _level(text: str) -> tuple[str, str]:
    logger, is_given, level = text.partition("=")
    if not is_given:
        raise argparse.ArgumentTypeError("must be LOGGER=LEVEL, e.g. gateway.policy=debug")
    return logger, level


def run(options: argparse.Namespace) -> int:
    return run_client_command(options, _perform)


def _perform(options: argparse.Namespace, gateway: GatewayClient) -> int:
    action = getattr(options, "action", None) or ""
    path, body_of, show = _COMMANDS[f"{options.command} {action}".rstrip()]
    body, is_reload = None, options.command == "policy" and options.reload
    if body_of is not None:
        fields = {name: value for name, value in body_of(options).items() if value is not None}
        body = {**fields, "reason": options.reason}
    elif is_reload:
        path, body = "/policy/reload", {"reason": options.reason}
    else:
        filters = _FILTERS.get(options.command, ())
        path += _query({**_named(options, *filters), "reason": options.reason or None})
    response = gateway.request(f"/admin{path}", body=body).data
    if options.json:
        print_json(response)
    else:
        _show(show, response)
    return _reload_code(response) if is_reload else OK


def _show(show: Callable[[Json], None], response: Json) -> None:
    try:
        show(response)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        # Not the admin API, or another version of it.
        raise unexpected_response() from error


def _reload_code(response: Json) -> int:
    """Return REJECTED if a process rejected the file, and LATER if a process did not respond."""
    if any(one["file_rejected"] for one in require_member(response, "processes", list)):
        return REJECTED
    return LATER if require_member(response, "missing", int) else OK


def _query(fields: Json) -> str:
    texts = {
        name: rfc3339(value) if isinstance(value, float) else value  # a time
        for name, value in fields.items()
        if value is not None
    }
    query = urlencode(texts)
    return f"?{query}" if query else ""


def _revoke(options: argparse.Namespace) -> Json:
    before = None
    if options.before is not None:
        before = datetime.fromtimestamp(options.before, UTC).isoformat()
    if (options.token_id is None) == (options.subject is None and before is None):
        raise usage_error("Specify either --token-id, or --subject, --before or both.")
    return {**_named(options, "issuer", "token_id", "subject"), "before": before}


def _lock(options: argparse.Namespace) -> Json:
    targets = _named(options, "subject", "group", "server", "project")
    if sum(target is not None for target in targets.values()) != 1:
        raise usage_error("Specify exactly one of --subject, --group, --server and --project.")
    if options.issuer is not None and options.subject is None and options.group is None:
        raise usage_error("--issuer requires --subject or --group.")
    return {**targets, **_named(options, "issuer", "duration_s")}


def _drop_links(options: argparse.Namespace) -> Json:
    fields = _named(options, "project", "server", "issuer", "subject")
    if options.all == any(fields.values()):
        raise usage_error("Specify --project, --server or --subject, or --all.")
    if (options.issuer is None) != (options.subject is None):
        raise usage_error("Specify a person by both --issuer and --subject.")
    return {"all": True} if options.all else fields


def _end_consoles(options: argparse.Namespace) -> Json:
    targets = _named(options, "id", "subject", "server")
    if sum(target is not None for target in targets.values()) != 1:
        raise usage_error("Specify exactly one of ID, --subject and --server.")
    if options.issuer is not None and options.subject is None:
        raise usage_error("--issuer requires --subject.")
    return {**targets, "issuer": options.issuer}


def _named(options: argparse.Namespace, *names: str) -> Json:
    return {name: getattr(options, name) for name in names}


def _show_overrides(response: Json) -> None:
    if not require_member(response, "loaded", bool):
        print_line("This replica has loaded the overrides neither from Redis nor from its file.")
    print_rows(
        ("ID", "EXPIRES", "BY", "EFFECT", "REASON"),
        [
            (one["id"], _expires(one), one["created_by"], _effect(one["effect"]), one["reason"])
            for one in require_member(response, "overrides", list)
        ],
        none="No overrides.",
    )
    admin_requests.show_incomplete(response)


def _expires(override: Json) -> str:
    expires_at = str(override["expires_at"])
    return "when unlocked" if expires_at.startswith("9999-") else expires_at


def _show_override(response: Json) -> None:
    override = require_member(response, "override", dict)
    effect = override["effect"]
    if effect["kind"] == "cleared_override":
        print_line(f"Override {effect['override_id']} is cleared.")
    else:
        shown = _effect(effect)
        until = _expires(override).removeprefix("when ")
        print_line(f"Override {override['id']} until {until}: {shown}")
    if note := response.get("note"):
        print_line(note)
    if not require_member(response, "all_replicas_notified", bool):
        print_line(_NOT_NOTIFIED)


def _show_sessions(response: Json) -> None:
    print_rows(
        ("PROCESS", "ISSUER", "SUBJECT", "TOKEN", "ISSUED", "EXPIRES"),
        _by_process(response, "tokens", _TOKEN),
        none="No cached tokens.",
    )
    print_line()
    print_rows(
        ("PROCESS", "ACCOUNT", "PROJECT", "SERVER", "PERSON", "SECONDS LEFT", "FINGERPRINT"),
        _by_process(response, "links", _LINK),
        none="No cached links.",
    )
    truncated = sum(
        require_member(one, "truncated", int) for one in require_member(response, "processes", list)
    )
    if truncated:
        print_line(f"{truncated} more entries are omitted. Filter by --subject or --server.")
    _show_missing(response)


def _show_consoles(response: Json) -> None:
    name = "ended" if "ended" in response else "consoles"
    print_rows(
        ("ID", "ISSUER", "SUBJECT", "SERVER", "MODE", "STARTED", "FROM", "PROCESS"),
        [tuple(one[column] for column in _CONSOLE) for one in require_member(response, name, list)],
        none="No live consoles.",
    )
    if name == "consoles" and not require_member(response, "complete", bool):
        print_line("Redis is unavailable: live consoles of other processes are missing. Try again.")


def _show_ended_request(response: Json) -> None:
    print_line(f"Ended: {require_member(response, 'id', str)}")
    if not require_member(response, "all_replicas_notified", bool):
        print_line(_NOT_NOTIFIED)


def _show_queue(response: Json) -> None:
    print_rows(
        ("PROCESS", "ACCOUNT", "BUDGET", "CEILING/S", "RATE/S", "PAUSE S", "WAITING", "CALLERS"),
        [
            (
                one["process"],
                line["account"],
                line["budget"],
                f"{line['ceiling_per_s']:g}",
                f"{line['rate_per_s']:g}" + (" (standalone)" if line["standalone"] else ""),
                f"{line['pause_s']:.1f}",
                line["waiting"],
                ", ".join(f"{who}: {count}" for who, count in line["waiting_by_caller"].items()),
            )
            for one in require_member(response, "processes", list)
            for line in require_member(one, "budgets", list)
        ],
        none="No budgets.",
    )
    _show_missing(response)


def _show_policy(response: Json) -> None:
    print_rows(
        ("PROCESS", "VERSION", "RULES", "LOADED", "FILE"),
        [
            (one["process"], one["version"], one["rules"], one["loaded_at"], _file_state(one))
            for one in require_member(response, "processes", list)
        ],
        none="No process responded.",
    )
    _show_missing(response)


def _file_state(process: Json) -> str:
    if not process["file_rejected"]:
        return "in force"
    return f"rejected: {process.get('error') or 'run `gateway check` for the error'}"


def _show_missing(response: Json) -> None:
    missing, total = (
        require_member(response, "missing", int),
        require_member(response, "total", int),
    )
    if missing:
        print_line(f"{missing} of {total} processes did not respond. Try again.")


_NOT_NOTIFIED: Final = (
    "Redis is unavailable: applied to this process only; the others apply it when Redis recovers."
)
_FILTERS: Final = {
    "consoles": ("issuer", "subject", "server"),
    "sessions": ("issuer", "subject", "server"),
    "logins": ("listener", "issuer", "subject", "before"),
    "requests": ("issuer", "subject", "state"),
    "webhooks": ("webhook",),
    "audit": ("issuer", "subject", "server", "request_id", "event", "since", "until"),
}
_CONSOLE: Final = (
    *("id", "issuer", "subject", "server", "mode", "started_at", "client_address", "process"),
)
_TOKEN: Final = ("issuer", "subject", "token_id", "issued_at", "expires_at")
_LINK: Final = ("account", "project", "server", "person", "seconds_left", "fingerprint")


def _by_process(response: Json, name: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (one["process"], *(row[column] for column in columns))
        for one in require_member(response, "processes", list)
        for row in require_member(one, name, list)
    ]


def _effect(effect: Json) -> str:
    facts = {**effect, **effect.get("levels", {})}
    fields = [
        f"{name}={iso(value) if name == 'before' else value}"
        for name, value in facts.items()
        if name not in ("kind", "levels") and value != ""
    ]
    if effect["kind"] == "dropped_links" and not fields:
        fields = ["all"]
    return " ".join([effect["kind"], *fields])


_COMMANDS: Final[
    Mapping[
        str,
        tuple[str, Callable[[argparse.Namespace], Json] | None, Callable[[Json], None]],
    ]
] = {
    "overrides": ("/overrides", None, _show_overrides),
    "clear": ("/overrides/clear", lambda options: _named(options, "id"), _show_override),
    "revoke": ("/revocations", _revoke, _show_override),
    "lock": ("/locks", _lock, _show_override),
    "locks": ("/locks", None, _show_overrides),
    "unlock": ("/locks/lift", lambda options: _named(options, "id"), _show_override),
    "drop-links": ("/links/drop", _drop_links, _show_override),
    "sessions": ("/sessions", None, _show_sessions),
    "consoles": ("/consoles", None, _show_consoles),
    "consoles end": ("/consoles/end", _end_consoles, _show_consoles),
    "logins": ("/logins", None, admin_logins.show_logins),
    "logins end": ("/logins/end", admin_logins.end_logins, admin_logins.show_ended),
    "requests": ("/requests", None, admin_requests.show_requests),
    "requests end": ("/requests/end", admin_requests.end_request, _show_ended_request),
    "webhooks": ("/webhooks/dead", None, admin_requests.show_dead_notices),
    "webhooks replay": ("/webhooks/replay", admin_requests.replay, admin_requests.show_replayed),
    "queue": ("/queue", None, _show_queue),
    "rate-ceiling": (
        "/rate-ceilings",
        lambda options: _named(options, "account", "rate_per_s", "budget", "duration_s"),
        _show_override,
    ),
    "policy": ("/policy", None, _show_policy),
    "explain": ("/policy/explain", explain_body, show_explanation),
    "audit": ("/audit", None, show_records),
    "log-level": (
        "/log-levels",
        lambda options: {"levels": dict(options.levels), "duration_s": options.duration_s},
        _show_override,
    ),
}
"""By command: the path, the function that makes the body, and the function that prints."""
