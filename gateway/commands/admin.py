"""`gateway admin …`: the admin API by name, for people and for scripts."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from gateway.commands.client import (
    LATER,
    OK,
    REFUSED,
    Client,
    print_table,
    printable,
    require_member,
    run_command,
    usage_error,
)
from gateway.domain.timestamps import iso

Json = dict[str, Any]


def admin(options: argparse.Namespace) -> int:
    return run_command(options, _perform)


def _perform(options: argparse.Namespace, gateway: Client) -> int:
    path, asked, show = _COMMANDS[options.command]
    body, reloads = None, options.command == "policy" and options.reload
    if asked is not None:
        named = {name: value for name, value in asked(options).items() if value is not None}
        body = {**named, "reason": options.reason}
    elif reloads:
        path, body = "/policy/reload", {"reason": options.reason}
    elif options.command == "sessions":
        path += _query(_named(options, "issuer", "subject", "server"))
    answer = gateway.request(f"/admin{path}", body=body).data
    if options.json:
        print(json.dumps(answer))
    else:
        show(answer)
    return _reloaded(answer) if reloads else OK


def _reloaded(answer: Json) -> int:
    """Tell a file that is in force everywhere from one that is not, or may not be."""
    if any(one["file_rejected"] for one in require_member(answer, "processes", list)):
        return REFUSED
    return LATER if require_member(answer, "missing", int) else OK


def _query(asked: Json) -> str:
    named = urlencode({name: value for name, value in asked.items() if value is not None})
    return f"?{named}" if named else ""


def _revoke(options: argparse.Namespace) -> Json:
    before = None
    if options.before is not None:
        before = datetime.fromtimestamp(options.before, UTC).isoformat()
    if (options.token_id is None) == (options.subject is None and before is None):
        raise usage_error("Name --token-id, or --subject, or --before, or the latter two.")
    asked = _named(options, "issuer", "token_id", "subject")
    return {**asked, "before": before}


def _drop_links(options: argparse.Namespace) -> Json:
    which = _named(options, "project", "server", "issuer", "subject")
    if options.all == any(which.values()):
        raise usage_error("Say whose links, by --project, --server or --subject; or --all.")
    if (options.issuer is None) != (options.subject is None):
        raise usage_error("Name a person by --issuer and --subject.")
    return {"all": True} if options.all else which


def _named(options: argparse.Namespace, *names: str) -> Json:
    return {name: getattr(options, name) for name in names}


def _show_orders(answer: Json) -> None:
    if not require_member(answer, "known", bool):
        print("This replica was told by neither Redis nor its file what is ordered.")
    _print_rows(
        ("ORDER", "UNTIL", "BY", "WHAT", "REASON"),
        [
            (one["id"], one["until"], one["by"], _what(one["what"]), one["reason"])
            for one in require_member(answer, "orders", list)
        ],
        none="Nothing is ordered.",
    )


def _show_given(answer: Json) -> None:
    order = require_member(answer, "order", dict)
    what = printable(_what(order["what"]))
    print(f"Ordered until {order['until']}: {what} (order {order['id']}).")
    if note := answer.get("note"):
        print(printable(str(note)))
    if not require_member(answer, "all_replicas_told", bool):
        print("Redis is away: this process obeys now, the others once Redis is there again.")


def _show_sessions(answer: Json) -> None:
    _print_rows(
        ("PROCESS", "ISSUER", "SUBJECT", "TOKEN", "ISSUED", "ENDS"),
        _by_process(answer, "tokens", _TOKEN),
        none="No such token is remembered.",
    )
    print()
    _print_rows(
        ("PROCESS", "ACCOUNT", "PROJECT", "SERVER", "PERSON", "SECONDS LEFT", "FINGERPRINT"),
        _by_process(answer, "links", _LINK),
        none="No such link is held.",
    )
    left_out = sum(
        require_member(one, "left_out", int) for one in require_member(answer, "processes", list)
    )
    if left_out:
        print(f"{left_out} more are left out: name a --subject or a --server.")
    _show_who_told(answer)


def _show_queue(answer: Json) -> None:
    _print_rows(
        ("PROCESS", "ACCOUNT", "BUDGET", "CEILING/S", "RATE/S", "PAUSE S", "WAITING", "HERE"),
        [
            (
                one["process"],
                line["account"],
                line["budget"],
                f"{line['ceiling_per_s']:g}",
                f"{line['rate_per_s']:g}" + (" (alone)" if line["alone"] else ""),
                f"{line['pause_s']:.1f}",
                line["waiting"],
                ", ".join(f"{who}: {count}" for who, count in line["waiting_here"].items()),
            )
            for one in require_member(answer, "processes", list)
            for line in require_member(one, "budgets", list)
        ],
        none="There is no budget.",
    )
    _show_who_told(answer)


def _show_policy(answer: Json) -> None:
    _print_rows(
        ("PROCESS", "VERSION", "RULES", "LOADED", "FILE"),
        [
            (
                one["process"],
                one["version"],
                one["rules"],
                one["loaded_at"],
                _of_the_file(one),
            )
            for one in require_member(answer, "processes", list)
        ],
        none="No process told.",
    )
    _show_who_told(answer)


def _of_the_file(here: Json) -> str:
    if not here["file_rejected"]:
        return "in force"
    # A process of an earlier version tells no mistake.
    return f"refused: {here.get('error') or '`gateway check` says why'}"


def _show_who_told(answer: Json) -> None:
    missing, there_are = (
        require_member(answer, "missing", int),
        require_member(answer, "there_are", int),
    )
    if missing:
        print(f"{missing} of {there_are} processes did not tell what they hold; ask again.")


_TOKEN: Final = ("issuer", "subject", "token_id", "issued_at", "expires_at")
_LINK: Final = ("account", "project", "server", "person", "seconds_left", "fingerprint")


def _by_process(answer: Json, name: str, columns: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (one["process"], *(row[column] for column in columns))
        for one in require_member(answer, "processes", list)
        for row in require_member(one, name, list)
    ]


def _print_rows(head: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    if rows:
        print_table(head, rows)
    else:
        print(none)


def _what(what: Json) -> str:
    facts = [
        f"{name} {_text(name, value)}"
        for name, value in what.items()
        if name != "kind" and value != ""
    ]
    if what["kind"] == "links" and not facts:
        return "all links"
    return " ".join([what["kind"], *facts])


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return iso(value) if name == "before" else str(value)


_COMMANDS: Final[
    Mapping[
        str,
        tuple[str, Callable[[argparse.Namespace], Json] | None, Callable[[Json], None]],
    ]
] = {
    "orders": ("/orders", None, _show_orders),
    "lift": ("/orders/lift", lambda options: _named(options, "order"), _show_given),
    "revoke": ("/revocations", _revoke, _show_given),
    "drop-links": ("/links/drop", _drop_links, _show_given),
    "sessions": ("/sessions", None, _show_sessions),
    "queue": ("/queue", None, _show_queue),
    "ceiling": (
        "/budget/ceiling",
        lambda options: _named(options, "account", "per_s", "budget", "for_s"),
        _show_given,
    ),
    "policy": ("/policy", None, _show_policy),
    "log-level": (
        "/log-levels",
        lambda options: {"levels": dict(options.levels), "for_s": options.for_s},
        _show_given,
    ),
}
"""Path, what is asked there, and how the answer is shown."""
