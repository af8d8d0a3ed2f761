"""`gateway audit search`: prints the records of an audit log that match a filter."""

import argparse
import heapq
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from gateway.commands.arguments import CommandParser, add_output_options
from gateway.commands.audit import DIRECTORIES
from gateway.commands.terminal import print_error, print_line, to_json
from gateway.commands.times import TIME_HELP, time_or_age
from gateway.domain.audit.report import Segment
from gateway.domain.audit.search import RecordFilter, as_text
from gateway.drivers.audit.segments import ending_after, read_chains, without_copies

FOUND, NO_MATCH, USAGE = 0, 1, 2


def register(parser: CommandParser) -> None:
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help=DIRECTORIES)
    parser.add_argument(
        "--subject", help="the caller, or the person that an administrator's request is about"
    )
    parser.add_argument(
        "--issuer", metavar="NAME", help="issuer of the person, by its name in the config"
    )
    parser.add_argument("--server", metavar="ID", help="ID of a server that the request touches")
    parser.add_argument("--project", metavar="ID", help="ID of the project")
    parser.add_argument("--event", help="such as console_link_issued or refused")
    parser.add_argument("--request-id", metavar="ID", help="X-Request-Id of the response")
    parser.add_argument(
        "--since",
        type=time_or_age,
        metavar="TIME",
        help=f"this time or later: {TIME_HELP}",
    )
    parser.add_argument(
        "--until", type=time_or_age, metavar="TIME", help="before this time, in the same form"
    )
    add_output_options(parser, "each record on a line")
    parser.exit_codes = {FOUND: "found", NO_MATCH: "no match", USAGE: "wrong usage"}
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    since, until = options.since, options.until
    if since is not None and until is not None and since >= until:
        print_error("--since must be earlier than --until")
        return USAGE
    wanted = RecordFilter(
        subject=options.subject,
        issuer=options.issuer,
        server=options.server,
        project=options.project,
        event=options.event,
        request_id=options.request_id,
        since=since,
        until=until,
    )
    return search_audit_log(options.directories, wanted, as_json=options.json)


def search_audit_log(directories: Sequence[Path], wanted: RecordFilter, *, as_json: bool) -> int:
    """Print the matching records in the order of time; return the exit code."""
    unreadable: list[str] = []
    count = 0
    try:
        chains = [
            _records(segments, wanted, unreadable.append, to_json if as_json else as_text)
            for segments in read_chains(directories).values()
        ]
        for _, text in heapq.merge(*chains, key=itemgetter(0)):
            count += 1
            print_line(text)
    except OSError as error:  # an error of a read, unlike one of an open, has no file name
        print_error(f"{error.filename or 'audit log'}: {error.strerror}")
        return USAGE
    if unreadable:
        print_error(f"{len(unreadable)} unreadable lines, the first is {unreadable[0]}")
    return FOUND if count else NO_MATCH


def _records(
    segments: Sequence[Segment],
    wanted: RecordFilter,
    on_unreadable: Callable[[str], None],
    encode: Callable[[dict[str, Any]], str],
) -> Iterator[tuple[float, str]]:
    distinct: Sequence[Segment] = without_copies(segments)
    if wanted.since is not None:
        distinct = ending_after(distinct, wanted.since)
    for segment in distinct:
        for number, line in enumerate(segment.lines, 1):
            try:
                record = orjson.loads(line)
                if wanted.matches(record):
                    at = float(record["at"])
                    yield at, encode({**record, "at": at})
            except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
                on_unreadable(f"{segment.file}:{number}")
