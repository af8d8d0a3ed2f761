"""`gateway audit verify` and `gateway audit search`: they read the trail and change nothing."""

import errno
import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from filecmp import cmp
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from gateway.domain.audit.chain import CHAIN_EVENTS, LINE_BYTES_MAX, Head
from gateway.domain.audit.neighbours import recorded_neighbours, verify_chains
from gateway.domain.audit.verify import Report, Segment, SignatureCheck, summary
from gateway.domain.timestamps import iso
from gateway.drivers.audit.paths import chain_directories, segment_files
from gateway.drivers.audit.reader import ChainUnreadable, read_first_line
from gateway.drivers.audit.signing_keys import load_verifier

_LINE_TIMEOUT_S = 1.0
"""For so long a last line without an end may be one that is being written."""
_POLL_S = 0.02

OK, BROKEN, NOTHING_FOUND, USAGE = 0, 1, 1, 2


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """What records are looked for; None: any."""

    subject: str | None = None
    issuer: str | None = None
    server: str | None = None
    project: str | None = None
    event: str | None = None
    request_id: str | None = None
    since: float | None = None
    until: float | None = None

    def matches(self, record: dict[str, Any]) -> bool:
        event, at = record.get("event"), record.get("at", 0.0)
        if event in CHAIN_EVENTS and self.event is None:
            return False
        exactly = {"project": self.project, "event": self.event, "request_id": self.request_id}
        if any(asked not in (None, record.get(name)) for name, asked in exactly.items()):
            return False
        asker = record.get("issuer"), record.get("subject")
        about = tuple(str(record.get("target", "")).split(":", 1))
        if not self._is_person(asker) and not self._is_person(about):
            return False
        if self.server is not None and not _contains(self.server, record.get("servers", ())):
            return False
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def _is_person(self, person: tuple[Any, ...]) -> bool:
        """Tell whether that is who is looked for: who asked, or whom an administrator meant."""
        issuer, *subject = person
        return self.issuer in (None, issuer) and self.subject in (None, *subject)


def _contains(server: str, servers: Iterable[str]) -> bool:
    """Tell whether it is one of them; one id may be written in either case."""
    return any(server.lower() == one.lower() for one in servers)


def verify_audit_log(
    directories: Sequence[Path],
    public_keys: Sequence[Path],
    heads: Sequence[Head],
    *,
    as_json: bool,
) -> int:
    """Print what is known of each chain; return 0 when all are intact, 1 when not, 2 for usage."""
    try:
        keys = _keys(public_keys)
        told = recorded_neighbours(_chains(directories))
        reports = verify_chains(_chains(directories), keys, heads, told)
    except ValueError as error:
        return _usage(str(error))
    except OSError as error:
        return _unreadable(error)
    if not reports and not heads:
        return _usage(_no_chain_message(directories))
    found = {report.chain for report in reports}
    lost = [head for head in heads if head.chain not in found]
    not_compared = [head for head in heads if any(head in one.not_compared for one in reports)]
    intact = not lost and all(report.intact for report in reports)
    if as_json:
        answer = {
            "intact": intact,
            "chains": [*map(summary, reports)],
            "lost": [*map(str, lost)],
            "not_compared": [*map(str, not_compared)],
        }
        print(orjson.dumps(answer).decode())
    else:
        for report in reports:
            _print_report(report, checked=keys is not None)
        for head in not_compared:
            print(f"line {head.seq} of the chain {head.chain} was removed and cannot be compared")
        for head in lost:
            print(f"BROKEN: the chain {head.chain} is not there, which had line {head.seq}")
    return OK if intact else BROKEN


def _no_chain_message(directories: Sequence[Path]) -> str:
    places = ", ".join(map(str, directories))
    return (
        f"There is no chain in {places}, so nothing is verified. Is it the audit.directory of the"
        " config? If it is, the whole trail was removed; --head proves that."
    )


def search_audit_log(directories: Sequence[Path], wanted: RecordFilter, *, as_json: bool) -> int:
    """Print the records in the order of time; return 0 when there are any, 1 when none."""
    unreadable: list[str] = []
    found = 0
    try:
        chains = [
            _records(segments, wanted, unreadable.append, _as_json if as_json else _as_text)
            for segments in _chains(directories).values()
        ]
        for _, text in heapq.merge(*chains, key=itemgetter(0)):
            found += 1
            print(text)
    except OSError as error:
        return _unreadable(error)
    if unreadable:
        print(
            f"{len(unreadable)} lines cannot be read, the first is {unreadable[0]}", file=sys.stderr
        )
    return OK if found else NOTHING_FOUND


def _keys(files: Sequence[Path]) -> dict[str, SignatureCheck] | None:
    """Read public keys; None: none are given. Raises ValueError."""
    keys = {}
    for file in files:
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: cannot be read: {error.strerror}") from None
        if b"PRIVATE KEY-----" in text:
            raise ValueError(
                f"{file}: is the private half of a key, which stays with the gateway; make the"
                " public one with `openssl pkey -pubout`"
            )
        found = load_verifier(text)
        if found is None:
            raise ValueError(f"{file}: is no Ed25519 public key in PEM")
        keys[found[0]] = found[1]
    return keys or None


def _chains(directories: Sequence[Path]) -> dict[str, list[Segment]]:
    """Return each chain's segments in order, wherever they are, by the names of its places."""
    parts: dict[str, list[Path]] = {}
    for chain_directory in _chain_directories(directories):
        parts.setdefault(_chain_of(chain_directory), []).append(chain_directory)
    return {" + ".join(map(str, places)): _segments(places) for places in parts.values()}


def _chain_directories(directories: Sequence[Path]) -> list[Path]:
    """Return the chains' directories; raise OSError when one is none."""
    places: list[Path] = []
    for directory in directories:
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is no directory", str(directory))
        places += [directory] if segment_files(directory) else chain_directories(directory)
    return [
        chain_directory
        for chain_directory in dict.fromkeys(places)
        if segment_files(chain_directory)
    ]


def _chain_of(chain_directory: Path) -> str:
    (_, first), *_ = segment_files(chain_directory)
    try:
        return read_first_line(first).chain
    except ChainUnreadable:
        return str(chain_directory)


@dataclass(frozen=True, slots=True)
class _Lines:
    """A segment's lines; the last one of a file that grows is given time to end."""

    file: Path
    grows: bool

    def __iter__(self) -> Iterator[bytes]:
        with self.file.open("rb") as opened:
            while line := opened.readline(LINE_BYTES_MAX):
                waited_s = 0.0
                while self.grows and not line.endswith(b"\n") and waited_s < _LINE_TIMEOUT_S:
                    time.sleep(_POLL_S)
                    waited_s += _POLL_S
                    line += opened.readline(LINE_BYTES_MAX)
                yield line


def _segments(places: Sequence[Path]) -> list[Segment]:
    files = sorted(file for chain_directory in places for file in segment_files(chain_directory))
    last, _ = files[-1]
    return [
        Segment(number, str(file), _Lines(file, grows=number == last)) for number, file in files
    ]


def _print_report(report: Report, *, checked: bool) -> None:
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


def _print_proof(report: Report, *, checked: bool) -> None:
    """Say what is proved, and what nothing here can prove."""
    signed = report.signed
    if signed is None:
        print("  no checkpoint is signed: who can write these files can have made all of them anew")
        return
    how = "" if checked else ", NOT CHECKED: give --public-key"
    print(f"  last signed checkpoint: line {signed.seq} at {iso(signed.at)}, key {signed.key}{how}")
    if report.unsigned_lines:
        print(
            f"  {report.unsigned_lines} lines after it follow from one another; that none of them"
            " was made anew or cut off is proved by a later head only"
        )
    else:
        print("  whether lines after it were cut off is proved by a later head only")


def _records(
    segments: Sequence[Segment],
    wanted: RecordFilter,
    unreadable: Callable[[str], None],
    told_as: Callable[[dict[str, Any]], str],
) -> Iterator[tuple[float, str]]:
    for segment in _ending_since(_distinct(segments), wanted):
        for number, line in enumerate(segment.lines, 1):
            try:
                record = orjson.loads(line)
                if wanted.matches(record):
                    at = float(record["at"])
                    yield at, told_as({**record, "at": at})
            except (ValueError, TypeError, AttributeError, KeyError, OverflowError):
                unreadable(f"{segment.file}:{number}")


def _as_json(record: dict[str, Any]) -> str:
    return orjson.dumps(record).decode()


def _distinct(segments: Sequence[Segment]) -> list[Segment]:
    found: list[Segment] = []
    for one in segments:
        last = found[-1] if found else None
        if last is None or last.number != one.number or not cmp(last.file, one.file, shallow=False):
            found.append(one)
    return found


def _ending_since(segments: Sequence[Segment], wanted: RecordFilter) -> Sequence[Segment]:
    """Leave out segments that ended before `since`: the next one's first line tells when."""
    if wanted.since is None:
        return segments
    first = 0
    for i, following in enumerate(segments[1:], 1):
        try:
            if read_first_line(Path(following.file)).at < wanted.since:
                first = i
        except ChainUnreadable:
            break
    return segments[first:]


def _as_text(record: dict[str, Any]) -> str:
    """Say a record on one line; no text in it can begin another."""
    who = "/".join(filter(None, (record.get("issuer"), record.get("subject"))))
    servers = ",".join(record.get("servers", ()))
    where = "/".join(filter(None, (record.get("project"), servers)))
    parts = [
        iso(record["at"]),
        record["event"],
        record.get("decision", ""),
        record.get("outcome", ""),
        who,
        record.get("operation", ""),
        where,
        _labelled("about", record.get("target")),
        _labelled("by", record.get("rule")),
        _labelled("link", record.get("link_fingerprint")),
        _labelled("source", record.get("source")),
        _labelled("status", record.get("status")),
        _labelled("key", record.get("access_key")),
        _labelled("until", _instant(record.get("expires_at"))),
        _labelled("request", record.get("request_id")),
        _labelled("from", record.get("client_address")),
        record.get("detail", ""),
    ]
    text = "  ".join(filter(None, map(str, parts)))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _instant(at: float | None) -> str:
    return "" if at is None else iso(at)


def _labelled(name: str, value: object) -> str:
    return f"{name} {value}" if value else ""


def _unreadable(error: OSError) -> int:
    # What fails at a read, and not at the opening, names no file.
    return _usage(f"{error.filename or 'the audit log'}: {error.strerror}")


def _usage(message: str) -> int:
    print(message, file=sys.stderr)
    return USAGE
