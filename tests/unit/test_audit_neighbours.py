"""Verification of several chains: each must have the neighbours that others record."""

from collections.abc import Sequence

import pytest

from gateway.domain.audit.chain import (
    Head,
    Neighbour,
    checkpoint_body,
    empty_head,
    encode_body,
    link_lines,
    neighbour_fields,
    parse_line,
    segment_opened_body,
    segment_removed_body,
)
from gateway.domain.audit.neighbours import Chains, recorded_neighbours, verify_chains
from gateway.domain.audit.report import Problem, Report, Segment
from tests.support.audit import SigningKey

KEY = SigningKey()
NOW = 1_000.0
KEEP_S = 400.0


def a_segment(
    *bodies: bytes, chain: str = "abc", after: Head | None = None, number: int = 1, at: float = NOW
) -> list[bytes]:
    lines, head = link_lines(after or empty_head(chain), [segment_opened_body(number, at), *bodies])
    sealed, _ = link_lines(head, [checkpoint_body(head, at, KEY.signer)])
    return lines + sealed


def head_of(lines: Sequence[bytes]) -> Head:
    return parse_line(lines[-1]).head


def opening_body(*neighbours: Neighbour, keep_s: float = 0.0) -> bytes:
    return encode_body(
        {"event": "audit_chain_opened", "at": NOW, **neighbour_fields(neighbours, keep_s)}
    )


def verified(**chains: Sequence[Sequence[bytes]]) -> list[Report]:
    named: Chains = {
        name: [
            Segment(parse_line(lines[0]).fields["segment"], f"{name} {i}", lines)
            for i, lines in enumerate(segments)
        ]
        for name, segments in chains.items()
    }
    return verify_chains(named, KEY.verifiers, recorded=recorded_neighbours(named))


def problems(reports: Sequence[Report]) -> list[Problem | None]:
    return [None if report.finding is None else report.finding.problem for report in reports]


OTHER = a_segment(encode_body({"event": "refused", "at": NOW}), chain="other")


def test_recorded_neighbour_must_exist() -> None:
    recording = a_segment(opening_body(Neighbour(head_of(OTHER), NOW)))
    assert problems(verified(one=[recording], other=[OTHER])) == [None, None]
    (report,) = verified(one=[recording])
    assert report.finding is not None
    assert (report.finding.problem, report.finding.line) == (Problem.REMOVED, 2)
    assert "records the chain other, which is missing" in report.finding.text


def test_recorded_neighbour_must_contain_recorded_line() -> None:
    recording = a_segment(opening_body(Neighbour(head_of(OTHER), NOW)))
    assert problems(verified(one=[recording], other=[OTHER[:-1]])) == [None, Problem.NOT_SIGNED]
    longer = OTHER + link_lines(head_of(OTHER), [encode_body({"event": "refused", "at": NOW})])[0]
    assert problems(verified(one=[recording], other=[longer])) == [None, None]
    shorter = a_segment(chain="other")
    assert problems(verified(one=[recording], other=[shorter])) == [None, Problem.TRUNCATED]


def test_recorded_neighbour_hash_must_match() -> None:
    recording = a_segment(opening_body(Neighbour(head_of(OTHER), NOW)))
    rewritten = a_segment(
        *[encode_body({"event": "refused", "at": NOW, "subject": "x"})] * 2, chain="other"
    )
    assert problems(verified(one=[recording], other=[rewritten])) == [None, Problem.HEAD_DIFFERS]


def removal_of(head: Head, *, expired_before: float = NOW + 1) -> bytes:
    return segment_removed_body(
        NOW, segment=1, head=head, expired_before=expired_before, reason="old"
    )


def test_neighbour_with_recorded_removal_may_be_missing() -> None:
    recording = opening_body(Neighbour(head_of(OTHER), NOW), keep_s=KEEP_S)
    removal = removal_of(head_of(OTHER))
    assert problems(verified(one=[a_segment(recording, removal)])) == [None]
    unconfirmed = a_segment(recording, removal, encode_body({"event": "refused", "at": NOW}))
    assert problems(verified(one=[unconfirmed])) == [Problem.REMOVED]
    too_short = a_segment(recording, removal_of(parse_line(OTHER[0]).head))
    assert problems(verified(one=[too_short])) == [Problem.REMOVED]


def test_removal_before_expiry_is_ignored() -> None:
    recording = opening_body(Neighbour(head_of(OTHER), NOW), keep_s=KEEP_S)
    too_early = a_segment(recording, removal_of(head_of(OTHER), expired_before=NOW - KEEP_S))
    assert problems(verified(one=[too_early])) == [Problem.REMOVED]


def test_each_segment_records_its_neighbours() -> None:
    first = a_segment()
    removal = neighbour_fields([Neighbour(head_of(OTHER), NOW)], KEEP_S)
    lines, head = link_lines(head_of(first), [segment_opened_body(2, NOW, neighbours=removal)])
    second = lines + link_lines(head, [checkpoint_body(head, NOW, KEY.signer)])[0]
    assert problems(verified(one=[first, second], other=[OTHER])) == [None, None]
    assert problems(verified(one=[first, second])) == [Problem.REMOVED]


@pytest.mark.parametrize(
    ("keep_s", "after_s", "problem"),
    [
        (KEEP_S, KEEP_S - 1, Problem.REMOVED),
        (KEEP_S, KEEP_S, None),
        (0.0, 10 * KEEP_S, Problem.REMOVED),
    ],
)
def test_neighbour_may_be_missing_after_retention_time(
    keep_s: float, after_s: float, problem: Problem | None
) -> None:
    first = a_segment(opening_body(Neighbour(head_of(OTHER), NOW), keep_s=keep_s))
    second = a_segment(after=head_of(first), number=2, at=NOW + after_s)
    assert problems(verified(one=[first, second])) == [problem]


def test_any_chain_may_record_a_removal() -> None:
    second = a_segment(chain="other", after=head_of(OTHER), number=2)
    for removal, problem in (([], Problem.REMOVED), ([removal_of(head_of(OTHER))], None)):
        assert problems(verified(one=[a_segment(*removal)], other=[second])) == [None, problem]


@pytest.mark.parametrize(
    "neighbours",
    [
        {"neighbours": 5, "keep_s": 0},
        {"neighbours": [5, {}, {"chain": 1}], "keep_s": 0},
        {"neighbours": [{"chain": "x", "seq": 1, "hash": "", "at": 1}], "keep_s": None},
        {"neighbours": [{"chain": "x", "seq": 1, "hash": "", "at": "now"}], "keep_s": 0},
    ],
)
def test_malformed_neighbour_records_are_ignored(neighbours: dict[str, object]) -> None:
    (report,) = verified(
        one=[a_segment(encode_body({"event": "audit_chain_opened", "at": NOW, **neighbours}))]
    )
    assert report.intact
