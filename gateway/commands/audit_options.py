"""`gateway audit`: the options of its commands."""

import argparse
import re
from pathlib import Path
from typing import Any

from gateway.commands.arguments import CommandParser, add_config_option, instant


def register(parser: CommandParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")
    places: dict[str, Any] = {"type": Path, "nargs": "+", "metavar": "DIR"}
    about = "audit.directory of one gateway host, or of several"

    verify = kinds.add_parser(
        "verify",
        help="was anything removed, changed, reordered or inserted?",
        epilog="exit codes: 0 intact, 1 broken, 2 wrong usage, or no chain there",
    )
    verify.add_argument("directories", help=about, **places)
    verify.add_argument(
        "--public-key",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="check signatures: the public half of audit.signing_key in PEM; one for each key",
    )
    verify.add_argument(
        "--head",
        type=_head,
        action="append",
        default=[],
        metavar="CHAIN:SEQ:HASH",
        help="this line must be there: a head kept elsewhere, e.g. from a log's audit_checkpoint",
    )
    verify.add_argument("--json", action="store_true", help="one JSON document")
    verify.set_defaults(run=_audit_verify)

    search = kinds.add_parser(
        "search",
        help="records by person, server and time, one a line",
        epilog="exit codes: 0 found, 1 nothing found, 2 wrong usage",
    )
    search.add_argument("directories", help=about, **places)
    search.add_argument("--subject", help="who asked, or whom an administrator meant")
    search.add_argument("--issuer", help="its name in the config")
    search.add_argument("--server", metavar="ID")
    search.add_argument("--project", metavar="ID")
    search.add_argument("--event", help="e.g. console_link_issued, refused")
    search.add_argument(
        "--request-id", metavar="ID", help="of a request's log line, or its X-Request-Id"
    )
    search.add_argument("--since", type=instant, help="an instant with time zone, included")
    search.add_argument("--until", type=instant, help="an instant with time zone, not included")
    search.add_argument("--json", action="store_true", help="each record as JSON")
    search.set_defaults(run=_audit_search)

    export = kinds.add_parser(
        "export",
        help="write the Redis stream as chain directories, for verify and search",
        epilog="exit codes: 0 written, 1 nothing to write or Redis is away, 2 wrong usage",
    )
    add_config_option(export)
    export.add_argument("directory", type=Path, metavar="DIR", help="one that is not there yet")
    export.set_defaults(run=_audit_export)


def _audit_verify(options: argparse.Namespace) -> int:
    from gateway.commands.audit import verify_audit_log

    return verify_audit_log(
        options.directories, options.public_key, options.head, as_json=options.json
    )


def _audit_search(options: argparse.Namespace) -> int:
    from gateway.commands.audit import RecordFilter, search_audit_log

    question = RecordFilter(
        subject=options.subject,
        issuer=options.issuer,
        server=options.server,
        project=options.project,
        event=options.event,
        request_id=options.request_id,
        since=options.since,
        until=options.until,
    )
    return search_audit_log(options.directories, question, as_json=options.json)


def _audit_export(options: argparse.Namespace) -> int:
    from gateway.commands.audit_export import export

    return export(options.config, options.directory)


def _head(text: str) -> Any:
    from gateway.domain.audit.chain import Head

    chain, _, rest = text.partition(":")
    seq, _, digest = rest.partition(":")
    if not chain or not seq.isdecimal() or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise argparse.ArgumentTypeError("is no CHAIN:SEQ:HASH")
    return Head(chain, int(seq), digest)
