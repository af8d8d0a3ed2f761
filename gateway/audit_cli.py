"""`gateway audit verify` and `gateway audit search`: they read the trail and change nothing."""

import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from gateway.drivers.audit_keys import verifier_of
from gateway.drivers.audit_reading import chain_places, segment_files
from gateway.rules.audit_chain import LINE_BYTES_MAX, STRUCTURAL, Head, parse
from gateway.rules.audit_verify import Report, Segment, Verify, summary, verify_all

_WRITTEN_WITHIN_S = 1.0
"""For so long a last line without an end may be one that is being written."""
_ASK_EVERY_S = 0.02

OK, BROKEN, NOTHING_FOUND, USAGE = 0, 1, 1, 2


@dataclass(frozen=True, slots=True)
class Question:
    """What records are looked for; None: any."""

    subject: str | None = None
    issuer: str | None = None
    server: str | None = None
    project: str | None = None
    event: str | None = None
    since: float | None = None
    until: float | None = None

    def is_met_by(self, record: dict[str, Any]) -> bool:
        event, at = record.get("event"), record.get("at", 0.0)
        if event in STRUCTURAL and self.event is None:
            return False
        wanted = (
            (self.subject, record.get("subject")),
            (self.issuer, record.get("issuer")),
            (self.project, record.get("project")),
            (self.event, event),
        )
        if any(asked is not None and asked != found for asked, found in wanted):
            return False
        if self.server is not None and self.server.lower() not in record.get("servers", ()):
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def verify_trail(
    directories: Sequence[Path],
    public_keys: Sequence[Path],
    heads: Sequence[Head],
    *,
    as_json: bool,
) -> int:
    """Print what is known of each chain; return 0 when all are intact, 1 when not, 2 for usage."""
    places = _places(directories)
    try:
        keys = _keys(public_keys)
    except ValueError as error:
        return _usage(str(error))
    if places is None:
        return USAGE
    try:
        chains = {place: _chain_of(place) for place in places}
        reports = verify_all({str(place): _segments(place) for place in places}, keys, heads)
    except OSError as error:
        return _usage(f"{error.filename}: {error.strerror}")
    lost = [head for head in heads if head.chain not in chains.values()]
    intact = bool(reports) and not lost and all(report.intact for report in reports)
    if as_json:
        told = {"intact": intact, "chains": [*map(summary, reports)], "lost": [*map(str, lost)]}
        print(orjson.dumps(told).decode())
    else:
        for report in reports:
            _print_report(report, heads, checked=keys is not None)
        for head in lost:
            print(f"BROKEN: the chain {head.chain} is not there")
        if not reports:
            print("BROKEN: there is no chain")
    return OK if intact else BROKEN


def search_trail(directories: Sequence[Path], question: Question, *, as_json: bool) -> int:
    """Print the records in the order of time; return 0 when there are any, 1 when none."""
    places = _places(directories)
    if places is None:
        return USAGE
    unreadable: list[str] = []
    found = 0
    try:
        chains = [_records(place, question, unreadable.append) for place in places]
        for record in heapq.merge(*chains, key=lambda record: float(record["at"])):
            found += 1
            print(orjson.dumps(record).decode() if as_json else _sentence(record))
    except OSError as error:
        return _usage(f"{error.filename}: {error.strerror}")
    if unreadable:
        print(
            f"{len(unreadable)} lines cannot be read, the first is {unreadable[0]}", file=sys.stderr
        )
    return OK if found else NOTHING_FOUND


def _keys(files: Sequence[Path]) -> dict[str, Verify] | None:
    """Read public keys; None: none are given. Raises ValueError."""
    keys = {}
    for file in files:
        found = verifier_of(file.read_bytes()) if file.is_file() else None
        if found is None:
            raise ValueError(f"{file}: is no Ed25519 public key in PEM")
        keys[found[0]] = found[1]
    return keys or None


def _places(directories: Sequence[Path]) -> list[Path] | None:
    """Return the chains' directories, or say which is none and return None."""
    places: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            _usage(f"{directory}: is no directory")
            return None
        places += [directory] if segment_files(directory) else chain_places(directory)
    return [place for place in places if segment_files(place)]


def _chain_of(place: Path) -> str:
    (_, first), *_ = segment_files(place)
    with first.open("rb") as opened:
        try:
            return parse(opened.readline(LINE_BYTES_MAX)).chain
        except ValueError:
            return ""


def _segments(place: Path) -> list[Segment]:
    files = segment_files(place)
    return [
        Segment(number, str(file), _lines(file, grows=number == files[-1][0]))
        for number, file in files
    ]


def _lines(file: Path, *, grows: bool) -> Iterator[bytes]:
    """Read a segment line by line; the last one of a file that grows is given time to end."""
    with file.open("rb") as opened:
        while line := opened.readline(LINE_BYTES_MAX):
            waited_s = 0.0
            while grows and not line.endswith(b"\n") and waited_s < _WRITTEN_WITHIN_S:
                time.sleep(_ASK_EVERY_S)
                waited_s += _ASK_EVERY_S
                line += opened.readline(LINE_BYTES_MAX)
            yield line


def _print_report(report: Report, heads: Iterable[Head], *, checked: bool) -> None:
    head = report.head
    if report.finding is not None:
        print(f"BROKEN: {report.finding}")
    if head is None:
        return
    verdict = "intact" if report.intact else "intact before that"
    print(
        f"{report.name}: {verdict}, chain {head.chain}, lines {report.first_seq} to {head.seq},"
        f" {report.records} records in {report.segments} segments"
    )
    for first, through in report.removed:
        print(f"  segments {first} to {through} were removed when old, as the trail tells")
    _print_proof(report, checked=checked)
    if report.intact:
        print(f"  head {head}    keep it elsewhere, and compare: --head")
    for kept in heads:
        if kept.chain == head.chain and kept.seq < report.first_seq - 1:
            print(f"  line {kept.seq} was removed with its segment and cannot be compared")


def _print_proof(report: Report, *, checked: bool) -> None:
    """Say what is proved, and what nothing here can prove."""
    signed = report.signed
    if signed is None:
        print("  no checkpoint is signed: who can write these files can have made all of them anew")
        return
    how = "" if checked else ", NOT CHECKED: give --public-key"
    print(
        f"  last signed checkpoint: line {signed.seq} at {_instant(signed.at)},"
        f" key {signed.key}{how}"
    )
    if report.unsigned_lines:
        print(
            f"  {report.unsigned_lines} lines after it follow from one another; that none of them"
            " was made anew or cut off is proved by a later head only"
        )
    else:
        print("  whether lines after it were cut off is proved by a later head only")


def _records(
    place: Path, question: Question, unreadable: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    for file in _files_of_the_time(place, question):
        for number, line in enumerate(_lines(file, grows=False), 1):
            try:
                record = orjson.loads(line)
                if question.is_met_by(record):
                    yield {**record, "at": float(record["at"])}
            except (ValueError, TypeError, AttributeError, KeyError):
                unreadable(f"{file}:{number}")


def _files_of_the_time(place: Path, question: Question) -> list[Path]:
    """Leave out segments that ended before `since`: the next one's first line tells when."""
    files = [file for _, file in segment_files(place)]
    if question.since is None:
        return files
    first = 0
    for i, (_, following) in enumerate(pairwise(files), 1):
        with following.open("rb") as opened:
            try:
                if parse(opened.readline(LINE_BYTES_MAX)).at < question.since:
                    first = i
            except ValueError:
                break
    return files[first:]


def _sentence(record: dict[str, Any]) -> str:
    """Say a record on one line; no text in it can begin another."""
    who = "/".join(filter(None, (record.get("issuer"), record.get("subject"))))
    servers = ",".join(record.get("servers", ()))
    where = "/".join(filter(None, (record.get("project"), servers)))
    parts = [
        _instant(record["at"]),
        record["event"],
        record.get("decision", ""),
        who,
        record.get("operation", ""),
        where,
        _named("by", record.get("rule")),
        _named("link", record.get("link_fingerprint")),
        _named("source", record.get("source")),
        _named("request", record.get("request_id")),
        _named("from", record.get("client_address")),
        record.get("detail", ""),
    ]
    text = "  ".join(filter(None, map(str, parts)))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _named(name: str, value: object) -> str:
    return f"{name} {value}" if value else ""


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _usage(message: str) -> int:
    print(message, file=sys.stderr)
    return USAGE
