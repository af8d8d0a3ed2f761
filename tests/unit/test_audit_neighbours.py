"""Chains of one trail bear each other out: what one tells of another must be so."""

from collections.abc import Sequence

import pytest

from gateway.domain.audit.chain import (
    Head,
    Neighbour,
    beginning,
    body,
    checkpoint,
    link,
    parse,
    segment_opening,
    segment_removed,
    told_beside,
)
from gateway.domain.audit.chains import Chains, told_in, verify_all
from gateway.domain.audit.verify import Flaw, Report, Segment
from tests.support.audit import SigningKey

KEY = SigningKey()
NOW = 1_000.0
KEEP_S = 400.0


def a_segment(
    *bodies: bytes, chain: str = "abc", after: Head | None = None, number: int = 1, at: float = NOW
) -> list[bytes]:
    lines, head = link(after or beginning(chain), [segment_opening(number, at), *bodies])
    sealed, _ = link(head, [checkpoint(head, at, KEY.signer)])
    return lines + sealed


def head_of(lines: Sequence[bytes]) -> Head:
    return parse(lines[-1]).head


def opening(*beside: Neighbour, keep_s: float = 0.0) -> bytes:
    return body({"event": "audit_chain_opened", "at": NOW, **told_beside(beside, keep_s)})


def judged(**chains: Sequence[Sequence[bytes]]) -> list[Report]:
    named: Chains = {
        name: [
            Segment(parse(lines[0]).fields["segment"], f"{name} {i}", lines)
            for i, lines in enumerate(segments)
        ]
        for name, segments in chains.items()
    }
    return verify_all(named, KEY.verifiers, told=told_in(named))


def flaws(reports: Sequence[Report]) -> list[Flaw | None]:
    return [None if report.finding is None else report.finding.flaw for report in reports]


OTHER = a_segment(body({"event": "refused", "at": NOW}), chain="other")


def test_a_chain_that_stood_beside_another_must_be_there() -> None:
    teller = a_segment(opening(Neighbour(head_of(OTHER), NOW)))
    assert flaws(judged(one=[teller], other=[OTHER])) == [None, None]
    (report,) = judged(one=[teller])
    assert report.finding is not None
    assert (report.finding.flaw, report.finding.line) == (Flaw.REMOVED, 2)
    assert "the chain other " in report.finding.text


def test_it_must_reach_as_far_as_it_was_told_to() -> None:
    teller = a_segment(opening(Neighbour(head_of(OTHER), NOW)))
    assert flaws(judged(one=[teller], other=[OTHER[:-1]])) == [None, Flaw.NOT_SIGNED]
    longer = OTHER + link(head_of(OTHER), [body({"event": "refused", "at": NOW})])[0]
    assert flaws(judged(one=[teller], other=[longer])) == [None, None]
    shorter = a_segment(chain="other")
    assert flaws(judged(one=[teller], other=[shorter])) == [None, Flaw.TRUNCATED]


def test_its_line_must_be_the_one_that_was_told_of() -> None:
    teller = a_segment(opening(Neighbour(head_of(OTHER), NOW)))
    anew = a_segment(*[body({"event": "refused", "at": NOW, "subject": "x"})] * 2, chain="other")
    assert flaws(judged(one=[teller], other=[anew])) == [None, Flaw.HEAD_DIFFERS]


def gone(head: Head, *, due_before: float = NOW + 1) -> bytes:
    return segment_removed(NOW, segment=1, head=head, due_before=due_before, why="old")


def test_it_may_be_gone_where_its_removal_is_told() -> None:
    teller = opening(Neighbour(head_of(OTHER), NOW), keep_s=KEEP_S)
    told = gone(head_of(OTHER))
    assert flaws(judged(one=[a_segment(teller, told)])) == [None]
    unproved = a_segment(teller, told, body({"event": "refused", "at": NOW}))
    assert flaws(judged(one=[unproved])) == [Flaw.REMOVED]
    of_less = a_segment(teller, gone(parse(OTHER[0]).head))
    assert flaws(judged(one=[of_less])) == [Flaw.REMOVED]


def test_a_chain_that_was_made_to_look_old_may_not_be_gone() -> None:
    teller = opening(Neighbour(head_of(OTHER), NOW), keep_s=KEEP_S)
    too_early = a_segment(teller, gone(head_of(OTHER), due_before=NOW - KEEP_S))
    assert flaws(judged(one=[too_early])) == [Flaw.REMOVED]


def test_each_new_segment_tells_what_stands_beside_it() -> None:
    first = a_segment()
    told = told_beside([Neighbour(head_of(OTHER), NOW)], KEEP_S)
    lines, head = link(head_of(first), [segment_opening(2, NOW, beside=told)])
    second = lines + link(head, [checkpoint(head, NOW, KEY.signer)])[0]
    assert flaws(judged(one=[first, second], other=[OTHER])) == [None, None]
    assert flaws(judged(one=[first, second])) == [Flaw.REMOVED]


@pytest.mark.parametrize(
    ("keep_s", "after_s", "flaw"),
    [
        (KEEP_S, KEEP_S - 1, Flaw.REMOVED),
        (KEEP_S, KEEP_S, None),
        (0.0, 10 * KEEP_S, Flaw.REMOVED),
    ],
)
def test_it_may_be_gone_when_it_was_due(keep_s: float, after_s: float, flaw: Flaw | None) -> None:
    first = a_segment(opening(Neighbour(head_of(OTHER), NOW), keep_s=keep_s))
    second = a_segment(after=head_of(first), number=2, at=NOW + after_s)
    assert flaws(judged(one=[first, second])) == [flaw]


def test_another_chain_may_tell_of_a_removal() -> None:
    second = a_segment(chain="other", after=head_of(OTHER), number=2)
    for told, flaw in (([], Flaw.REMOVED), ([gone(head_of(OTHER))], None)):
        assert flaws(judged(one=[a_segment(*told)], other=[second])) == [None, flaw]


@pytest.mark.parametrize(
    "beside",
    [
        {"beside": 5, "keep_s": 0},
        {"beside": [5, {}, {"chain": 1}], "keep_s": 0},
        {"beside": [{"chain": "x", "seq": 1, "hash": "", "at": 1}], "keep_s": None},
        {"beside": [{"chain": "x", "seq": 1, "hash": "", "at": "now"}], "keep_s": 0},
    ],
)
def test_what_nobody_wrote_so_tells_of_nothing(beside: dict[str, object]) -> None:
    (report,) = judged(one=[a_segment(body({"event": "audit_chain_opened", "at": NOW, **beside}))])
    assert report.intact
