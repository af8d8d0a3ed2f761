"""Is a trail of several chains whole? Chains tell of each other, and bear each other out.

Pure, as `audit_verify`, which judges each by itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.audit.chain import Head, Line, Neighbour, parse_line
from gateway.domain.audit.verify import (
    ChainVerifier,
    Finding,
    Problem,
    Removal,
    Report,
    Segment,
    SignatureCheck,
)

Chains = Mapping[str, Sequence[Segment]]
"""Segments of chains, by a name for each chain."""


@dataclass(frozen=True, slots=True)
class RecordedNeighbour:
    """What a chain tells of another that stood beside it."""

    name: str
    """Of the chain that tells it."""
    file: str
    line: int
    of: Neighbour
    keep_s: float
    """The other was to be kept for so long at least; 0: for ever."""


def recorded_neighbours(chains: Chains) -> list[RecordedNeighbour]:
    """Read what they tell of each other; chains that are listed later have all that is told of."""
    return [told for name, segments in chains.items() for told in _neighbours_in(name, segments)]


def verify_chains(
    chains: Chains,
    keys: Mapping[str, SignatureCheck] | None = None,
    heads: Iterable[Head] = (),
    told: Sequence[RecordedNeighbour] = (),
) -> list[Report]:
    """Judge each chain, as `audit_verify.verify` does, with what all of them tell."""
    kept = [*heads, *(one.of.head for one in told)]
    readings = {
        name: ChainVerifier(name, segments, keys, kept) for name, segments in chains.items()
    }
    removals = {removal for reading in readings.values() for removal in reading.removals}
    for reading in readings.values():
        reading.judge(removals)
    reports = {name: reading.report for name, reading in readings.items()}
    until = max((reading.checked_at for reading in readings.values()), default=0.0)
    found = {report.chain for report in reports.values()}
    for one in told:
        teller = reports.get(one.name)  # else it went as well, since it was read
        if teller is None or one.of.head.chain in found or _may_be_removed(one, removals, until):
            continue
        _report_missing(one, teller)
    return [*reports.values()]


def _may_be_removed(told: RecordedNeighbour, removals: Iterable[Removal], until: float) -> bool:
    """Tell whether its removal is told, or was due; then what told it may be removed as well."""
    head, at = told.of.head, told.of.at
    return 0 < told.keep_s <= until - at or any(
        gone.head.chain == head.chain and gone.head.seq >= head.seq and gone.expired_before > at
        for gone in removals
    )


def _report_missing(told: RecordedNeighbour, report: Report) -> None:
    if report.finding is None:
        text = f"the chain {told.of.head.chain} stood beside this one and is not there any more"
        report.finding = Finding(told.file, told.line, Problem.REMOVED, text)


def _neighbours_in(name: str, segments: Sequence[Segment]) -> Iterator[RecordedNeighbour]:
    for segment in segments:
        for number, raw in enumerate(segment.lines, 1):
            if b'"beside":' not in raw:
                continue
            try:
                line = parse_line(raw)
            except ValueError:
                continue  # it is told by who judges the chain
            for neighbour, keep_s in _neighbours(line):
                yield RecordedNeighbour(name, segment.file, number, neighbour, keep_s)


def _neighbours(line: Line) -> Iterator[tuple[Neighbour, float]]:
    match line.fields:
        case {"beside": [*found], "keep_s": int() | float() as keep_s}:
            for one in found:
                match one:
                    case {
                        "chain": str(chain),
                        "seq": int(seq),
                        "hash": str(digest),
                        "at": int() | float() as at,
                    }:
                        yield Neighbour(Head(chain, seq, digest), at), keep_s
                    case _:
                        continue
        case _:
            return
