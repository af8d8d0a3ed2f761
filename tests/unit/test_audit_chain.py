"""A chain of audit lines: as it was written it is intact; whatever is done to it is seen."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.domain.audit.chain import (
    Head,
    Signer,
    checkpoint_body,
    empty_head,
    encode_body,
    link_lines,
    parse_line,
    segment_opened_body,
    segment_removed_body,
)
from gateway.domain.audit.report import Problem, Report, Segment
from gateway.domain.audit.verify import SignatureCheck, verify
from tests.support.audit import SigningKey

KEY = SigningKey()
CHAIN = "c0ffee"


def a_chain(
    *sizes: int, signer: Signer | None = KEY.signer, head: Head | None = None
) -> list[list[bytes]]:
    """Make segments with so many records each, and a checkpoint at the end of each."""
    head = head if head is not None else empty_head(CHAIN)
    segments = []
    for number, size in enumerate(sizes, 1):
        bodies = [
            encode_body({"event": "refused", "at": 1.5 + i, "subject": f"ann {i}"})
            for i in range(size)
        ]
        lines, head = link_lines(head, [segment_opened_body(number, 1.0), *bodies])
        more, head = link_lines(head, [checkpoint_body(head, 9.0, signer)])
        segments.append(lines + more)
    return segments


def verified(
    segments: Sequence[Sequence[bytes]],
    *,
    first: int = 1,
    keys: dict[str, SignatureCheck] | None = KEY.verifiers,
    heads: Sequence[Head] = (),
) -> Report:
    named = [Segment(i, f"segment-{i}", lines) for i, lines in enumerate(segments, first)]
    return verify("chain-1", named, keys, heads)


def problem_of(report: Report) -> Problem | None:
    return None if report.finding is None else report.finding.problem


def test_a_chain_as_it_was_written_is_intact_to_its_last_line() -> None:
    segments = a_chain(3, 0, 2)
    report = verified(segments)
    assert report.intact
    assert report.head == parse_line(segments[-1][-1]).head
    assert (report.records, report.segments, report.unsigned_lines) == (5, 3, 0)
    assert report.signed is not None
    assert (report.signed.seq, report.signed.at) == (11, 9.0)
    assert report.as_json()["intact"] is True


def test_lines_after_the_last_signed_checkpoint_are_counted() -> None:
    segments = a_chain(2)
    more, _ = link_lines(
        parse_line(segments[0][-1]).head, [encode_body({"event": "refused", "at": 2.0})]
    )
    report = verified([segments[0] + more])
    assert report.intact
    assert report.unsigned_lines == 1


@settings(max_examples=400)
@given(st.data())
def test_every_change_of_a_single_byte_is_seen(data: st.DataObject) -> None:
    segments = a_chain(3, 2)
    which = data.draw(st.integers(0, 1))
    text = bytearray(b"".join(segments[which]))
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda value: value != text[at]))
    text[at] = new
    segments[which] = bytes(text).splitlines(keepends=True)
    assert not verified(segments).intact


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_no_byte_of_the_last_checkpoint_can_be_changed(flip: int) -> None:
    segments = a_chain(1)
    last = segments[0][-1]
    for i in range(len(last)):
        changed = last[:i] + bytes([last[i] ^ flip]) + last[i + 1 :]
        assert not verified([[*segments[0][:-1], changed]]).intact, i


@given(st.data())
def test_every_line_that_is_removed_swapped_inserted_or_repeated_is_seen(
    data: st.DataObject,
) -> None:
    segments = a_chain(4, 3)
    lines = segments[data.draw(st.integers(0, 1))]
    i = data.draw(st.integers(0, len(lines) - 1))
    j = data.draw(st.integers(0, len(lines) - 1).filter(lambda other: other != i))
    match data.draw(st.sampled_from(["remove", "swap", "insert", "repeat", "foreign"])):
        case "remove" if not (lines is segments[1] and i == len(lines) - 1):
            del lines[i]
        case "remove" | "swap":
            lines[i], lines[j] = lines[j], lines[i]
        case "insert":
            before = parse_line(lines[i - 1] if i else a_chain(4)[0][-1]).head
            made, _ = link_lines(before, [encode_body({"event": "refused", "at": 2.0})])
            lines[i:i] = made
        case "repeat":
            lines.insert(i, lines[j])
        case _:
            lines[i] = a_chain(9, head=empty_head("abc"))[0][i]
    assert not verified(segments).intact


@pytest.mark.parametrize(
    ("damage", "line", "problem"),
    [
        (lambda lines: lines.pop(3), 4, Problem.REMOVED),
        (lambda lines: lines.insert(2, lines.pop(4)), 3, Problem.REORDERED),
        (lambda lines: lines.insert(3, lines[2]), 4, Problem.INSERTED),
        (lambda lines: lines.__setitem__(2, lines[2].replace(b"ann", b"bob")), 4, Problem.CHANGED),
        (lambda lines: lines.__setitem__(2, lines[2][:40]), 3, Problem.TRUNCATED),
        (lambda lines: lines.__setitem__(2, b"{}\n"), 3, Problem.CHANGED),
        (lambda lines: lines.__setitem__(2, lines[2].replace(b":", b": ", 1)), 3, Problem.CHANGED),
        (
            lambda lines: lines.insert(2, a_chain(5, head=empty_head("abc"))[0][2]),
            3,
            Problem.INSERTED,
        ),
    ],
)
def test_what_was_done_is_told_with_its_line(damage, line: int, problem: Problem) -> None:
    segments = a_chain(5, 1)
    damage(segments[0])
    finding = verified(segments).finding
    assert finding is not None
    assert (finding.file, finding.line, finding.problem) == ("segment-1", line, problem)
    assert str(finding).startswith(f"segment-1:{line}: {problem.value}: ")


def test_what_is_before_the_flaw_is_told_as_intact() -> None:
    segments = a_chain(5)
    del segments[0][4]
    report = verified(segments)
    assert report.head is not None
    assert report.head.seq == 4


def test_a_segment_that_is_not_there_is_missed() -> None:
    first, _, third = a_chain(1, 1, 1)
    named = [Segment(1, "one", first), Segment(3, "three", third)]
    report = verify("chain-1", named, KEY.verifiers)
    assert problem_of(report) is Problem.REMOVED
    assert "segment 2" in str(report.finding)


def test_a_segment_cut_short_is_missed_when_others_follow() -> None:
    segments = a_chain(3, 1)
    del segments[0][2:]
    assert problem_of(verified(segments)) is Problem.REMOVED


def test_segments_may_be_gone_only_where_the_chain_says_so() -> None:
    first, second, third = a_chain(2, 2, 2)
    assert problem_of(verified([second, third], first=2)) is Problem.REMOVED
    gone = segment_removed_body(
        5.0, segment=1, head=parse_line(first[-1]).head, expired_before=5.0, reason="old"
    )
    told, head = link_lines(parse_line(third[-1]).head, [gone])
    sealed, _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer)])
    report = verified([second, third + told + sealed], first=2)
    assert report.intact
    assert (report.removed_through, report.first_seq) == (1, 5)
    assert problem_of(verified([third + told + sealed], first=3)) is Problem.REMOVED


def test_a_removal_of_another_end_excuses_nothing() -> None:
    _, second = a_chain(2, 2)
    gone = segment_removed_body(
        5.0, segment=1, head=Head(CHAIN, 4, "f" * 64), expired_before=5.0, reason="old"
    )
    told, head = link_lines(parse_line(second[-1]).head, [gone])
    sealed, _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer)])
    assert problem_of(verified([second + told + sealed], first=2)) is Problem.REMOVED


def removal_of(lines: Sequence[bytes], segment: int) -> bytes:
    return segment_removed_body(
        5.0, segment=segment, head=parse_line(lines[-1]).head, expired_before=5.0, reason="old"
    )


def with_more(segment: list[bytes], *bodies: bytes) -> list[bytes]:
    lines, _ = link_lines(parse_line(segment[-1]).head, bodies)
    return segment + lines


def sealed(segment: list[bytes]) -> list[bytes]:
    return with_more(segment, checkpoint_body(parse_line(segment[-1]).head, 9.0, KEY.signer))


def test_a_removal_counts_only_with_a_checkpoint_right_after_it() -> None:
    first, second = a_chain(2, 2)
    told = with_more(second, removal_of(first, 1))
    assert problem_of(verified([told], first=2)) is Problem.REMOVED
    opened = sealed(with_more(told, encode_body({"event": "audit_chain_opened", "at": 6.0})))
    assert problem_of(verified([opened], first=2)) is Problem.REMOVED
    assert verified([sealed(told)], first=2).intact


def test_removals_told_together_hold_for_each_segment_that_is_gone_yet() -> None:
    first, second, third, last = a_chain(2, 2, 2, 2)
    gone = [removal_of(lines, i) for i, lines in enumerate((first, second, third), 1)]
    told = sealed(with_more(last, *gone))
    for left in ([first, second, third], [second, third], [third], []):
        report = verified([*left, told], first=4 - len(left))
        assert report.intact, report.finding
        assert report.removed_through == 3 - len(left)


def test_segments_between_may_be_gone_where_the_chain_says_so() -> None:
    first, second, third = a_chain(2, 2, 2)
    told = sealed(with_more(third, removal_of(second, 2)))
    for end, problem in ((third, Problem.REMOVED), (told, None)):
        named = [Segment(1, "one", first), Segment(3, "three", end)]
        report = verify("chain-1", named, KEY.verifiers)
        assert problem_of(report) is problem
        assert report.removed == ([] if problem else [(2, 2)])
    other = a_chain(2, 2, 2, head=empty_head("abc"))[2]
    assert problem_of(verify("chain-1", [named[0], Segment(3, "three", other)])) is Problem.INSERTED


def test_signatures_prove_only_under_the_keys_that_are_given() -> None:
    other = SigningKey()
    segments = a_chain(2)
    assert problem_of(verified(segments, keys=other.verifiers)) is Problem.UNKNOWN_KEY
    assert verified(segments, keys=KEY.verifiers | other.verifiers).intact
    assert verified(segments, keys=None).intact
    forged = a_chain(2, signer=Signer(KEY.signer.key_id, other.signer.sign))
    assert problem_of(verified(forged)) is Problem.INVALID_SIGNATURE
    assert problem_of(verified(a_chain(2, signer=None))) is Problem.NOT_SIGNED
    assert verified(a_chain(2, signer=None), keys=None).intact


def test_each_segment_but_the_last_ends_with_a_signed_checkpoint() -> None:
    first, _ = a_chain(2, 1)
    without = first[:-1]
    opening = [segment_opened_body(2, 2.0), encode_body({"event": "refused", "at": 2.5})]
    second, head = link_lines(parse_line(without[-1]).head, opening)
    sealed, _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer)])
    assert problem_of(verified([without, second + sealed])) is Problem.NOT_SIGNED
    assert verified([without, second + sealed], keys=None).intact


def test_a_segment_may_begin_with_the_checkpoint_that_the_one_before_lacks() -> None:
    first, _ = a_chain(2, 1)
    without = first[:-1]
    (opening,), head = link_lines(parse_line(without[-1]).head, [segment_opened_body(2, 2.0)])
    assert problem_of(verified([without, [opening]])) is Problem.NOT_SIGNED
    sealed, _ = link_lines(head, [checkpoint_body(head, 2.0, KEY.signer)])
    assert verified([without, [opening, *sealed]]).intact


def with_a_promise(*later: str, at: float, sealed_again: bool = False) -> Report:
    """Judge a chain whose checkpoint at 9.0 promises another within 3 s; these events follow."""
    lines, head = link_lines(empty_head(CHAIN), [segment_opened_body(1, 1.0)])
    promise, head = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer, next_within_s=3.0)])
    more, head = link_lines(head, [encode_body({"event": event, "at": at}) for event in later])
    last, _ = link_lines(head, [checkpoint_body(head, at, KEY.signer)])
    return verified([[*lines, *promise, *more, *(last if sealed_again else [])]])


def test_lines_without_a_signed_checkpoint_end_when_the_last_one_promised() -> None:
    assert with_a_promise("refused", at=12.0).intact
    report = with_a_promise("refused", "refused", at=12.5)
    assert problem_of(report) is Problem.NOT_SIGNED
    assert report.finding is not None
    assert report.finding.line == 3
    assert with_a_promise("refused", at=12.5, sealed_again=True).intact
    assert with_a_promise("audit_chain_opened", at=90.0).intact
    assert (
        problem_of(with_a_promise("audit_chain_opened", "refused", at=90.0)) is Problem.NOT_SIGNED
    )


def test_the_promise_of_a_checkpoint_is_signed() -> None:
    (lines,) = a_chain(1)
    head = parse_line(lines[-1]).head
    (promise,), _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer, next_within_s=3.0)])
    for other in (b'"next_within_s":9e9', b'"next_within_s":"x"', b'"next_within_s":3.5'):
        changed = promise.replace(b'"next_within_s":3.0', other)
        assert changed != promise
        assert not verified([[*lines, changed]]).intact


def test_a_checkpoint_without_a_signature_is_told_when_keys_are_given() -> None:
    (lines,) = a_chain(1)
    head = parse_line(lines[-1]).head
    unsigned, _ = link_lines(head, [checkpoint_body(head, 9.0, None)])
    assert problem_of(verified([lines + unsigned])) is Problem.NOT_SIGNED
    assert verified([lines + unsigned], keys=None).intact


def test_a_signature_of_another_checkpoint_is_wrong() -> None:
    segments = a_chain(2)
    stolen = parse_line(segments[0][-1]).fields["signature"]
    before = parse_line(segments[0][-2]).head
    other = {"event": "checkpoint", "at": 9.5, "key": KEY.signer.key_id, "signature": stolen}
    (line,), _ = link_lines(before, [encode_body(other)])
    assert problem_of(verified([[*segments[0][:-1], line]])) is Problem.INVALID_SIGNATURE


def test_a_head_that_was_kept_shows_a_tail_that_was_cut_off() -> None:
    segments = a_chain(2, 2)
    kept = parse_line(segments[1][-1]).head
    assert verified(segments, heads=[kept]).intact
    del segments[1][2:]
    assert verified(segments, keys=None).intact
    assert problem_of(verified(segments, keys=None, heads=[kept])) is Problem.TRUNCATED


def test_a_head_that_was_kept_shows_a_chain_that_was_made_anew() -> None:
    kept = parse_line(a_chain(2)[0][-1]).head
    anew = a_chain(3)
    assert verified(anew).intact
    assert problem_of(verified(anew, heads=[kept])) is Problem.HEAD_DIFFERS


def test_a_head_of_a_segment_that_was_removed_is_told_as_not_compared() -> None:
    first, second = a_chain(2, 2)
    told = sealed(with_more(second, removal_of(first, 1)))
    last, earlier = parse_line(first[-1]).head, parse_line(first[1]).head
    report = verified([told], first=2, heads=[last, earlier, parse_line(second[0]).head])
    assert report.intact
    assert report.not_compared == [earlier]
    wrong = Head(CHAIN, last.seq, "f" * 64)
    assert problem_of(verified([told], first=2, heads=[wrong])) is Problem.HEAD_DIFFERS


def test_two_heads_that_were_kept_of_one_line_cannot_both_be_right() -> None:
    (lines,) = a_chain(2)
    kept = parse_line(lines[1]).head
    heads = [kept, Head(CHAIN, kept.seq, "f" * 64)]
    assert problem_of(verified([lines], heads=heads)) is Problem.HEAD_DIFFERS
    assert problem_of(verified([lines], heads=heads[::-1])) is Problem.HEAD_DIFFERS


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [([1, 1, 2], None), ([1, 2, 2], Problem.FORKED), ([1, 1], Problem.FORKED)],
)
def test_a_copy_of_a_closed_segment_is_harmless_and_one_of_the_last_is_not(
    numbers: list[int], problem: Problem | None
) -> None:
    chain = a_chain(2, 1)
    named = [Segment(n, f"{n} of {i}", chain[n - 1]) for i, n in enumerate(numbers)]
    report = verify("chain-1", named, KEY.verifiers)
    assert problem_of(report) is problem
    assert report.segments == len(set(numbers))
    assert report.records == (3 if 2 in numbers else 2)


def test_a_segment_that_is_there_twice_and_not_the_same_is_a_fork() -> None:
    first, second = a_chain(2, 1)
    for other in (first[:-1], sealed(first)):
        named = [Segment(1, "one", first), Segment(1, "other", other), Segment(2, "two", second)]
        finding = verify("chain-1", named).finding
        assert finding is not None
        assert (finding.problem, finding.file) == (Problem.FORKED, "other")
        assert "the file differs from one" in finding.text


def test_a_file_that_ends_within_a_line_is_told_so() -> None:
    segments = a_chain(2)
    segments[0][-1] = segments[0][-1][:-9]
    report = verified(segments)
    assert problem_of(report) is Problem.TRUNCATED
    assert report.head is not None
    assert report.head.seq == 3


@pytest.mark.parametrize("segments", [[], [[]]])
def test_a_chain_without_a_line_proves_nothing(segments: list[list[bytes]]) -> None:
    assert not verified(segments).intact


@pytest.mark.parametrize("depth", [300, 1_000, 5_000])
def test_a_line_that_is_nested_deep_is_none_that_was_written(depth: int) -> None:
    deep = b'{"chain":"a","seq":1,"prev":"","event":"x","at":1,"d":' + b"[" * depth + b"]" * depth
    with pytest.raises(ValueError, match="is n"):
        parse_line(deep + b"}\n")
    (lines,) = a_chain(1)
    assert problem_of(verified([[*lines, deep + b"}\n"]])) is Problem.CHANGED


@given(st.binary(max_size=200))
def test_no_bytes_make_the_verifier_fail(junk: bytes) -> None:
    segments = a_chain(1)
    segments[0][1:1] = junk.splitlines(keepends=True)
    assert verified(segments).intact == (junk == b"")
