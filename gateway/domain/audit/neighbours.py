"""Verify the chains of one audit log together: each chain records the chains beside it. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.audit.chain import Head, Line, Neighbour, parse_line
from gateway.domain.audit.report import Finding, Problem, Report, Segment
from gateway.domain.audit.verify import ChainVerifier, Removal, SignatureCheck

Chains = Mapping[str, Sequence[Segment]]
"""Segments of chains, by a name for each chain."""


@dataclass(frozen=True, slots=True)
class RecordedNeighbour:
    """A chain's record of another chain in the same directory."""

    name: str
    """Name of the chain that contains the record."""
    file: str
    line: int
    neighbour: Neighbour
    keep_s: float
    """Retention time of the neighbour in seconds; 0: unlimited."""


def recorded_neighbours(chains: Chains) -> list[RecordedNeighbour]:
    """Return the neighbours that chains record.

    Read them before listing the chains to verify: that list then contains every recorded chain.
    """
    return [
        recorded for name, segments in chains.items() for recorded in _neighbours_in(name, segments)
    ]


def verify_chains(
    chains: Chains,
    keys: Mapping[str, SignatureCheck] | None = None,
    heads: Iterable[Head] = (),
    recorded: Sequence[RecordedNeighbour] = (),
) -> list[Report]:
    """Verify each chain as `verify` does, and require every recorded neighbour."""
    expected = [*heads, *(one.neighbour.head for one in recorded)]
    verifiers = {
        name: ChainVerifier(name, segments, keys, expected) for name, segments in chains.items()
    }
    removals = {removal for verifier in verifiers.values() for removal in verifier.removals}
    for verifier in verifiers.values():
        verifier.conclude(removals)
    reports = {name: verifier.report for name, verifier in verifiers.items()}
    until = max((verifier.checked_at for verifier in verifiers.values()), default=0.0)
    found = {report.chain for report in reports.values()}
    for one in recorded:
        report = reports.get(one.name)  # None: retention removed the chain after it was read
        if report is None or one.neighbour.head.chain in found:
            continue
        if not _may_be_removed(one, removals, until):
            _report_missing(one, report)
    return [*reports.values()]


def _may_be_removed(recorded: RecordedNeighbour, removals: Iterable[Removal], until: float) -> bool:
    """Return whether a removal is recorded, or was due long enough ago to be removed itself."""
    head, at = recorded.neighbour.head, recorded.neighbour.at
    return 0 < recorded.keep_s <= until - at or any(
        removal.head.chain == head.chain
        and removal.head.seq >= head.seq
        and removal.expired_before > at
        for removal in removals
    )


def _report_missing(recorded: RecordedNeighbour, report: Report) -> None:
    if report.finding is None:
        chain = recorded.neighbour.head.chain
        text = f"this line records the chain {chain}, which is missing"
        report.finding = Finding(recorded.file, recorded.line, Problem.REMOVED, text)


def _neighbours_in(name: str, segments: Sequence[Segment]) -> Iterator[RecordedNeighbour]:
    for segment in segments:
        for number, raw in enumerate(segment.lines, 1):
            if b'"neighbours":' not in raw:
                continue
            try:
                line = parse_line(raw)
            except ValueError:
                continue  # ChainVerifier reports it
            for neighbour, keep_s in _parse_neighbours(line):
                yield RecordedNeighbour(name, segment.file, number, neighbour, keep_s)


def _parse_neighbours(line: Line) -> Iterator[tuple[Neighbour, float]]:
    match line.fields:
        case {"neighbours": [*found], "keep_s": int() | float() as keep_s}:
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
