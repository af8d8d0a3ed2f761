"""Verification of a hash chain: an unmodified chain is intact, every modification is detected."""

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
from gateway.domain.audit.record import AuditRecord, PreparedRecord, encode_record
from gateway.domain.audit.report import Problem, Report, Segment
from gateway.domain.audit.verify import SignatureCheck, verify
from tests.support.audit import SigningKey

KEY = SigningKey()
CHAIN = "c0ffee"


def a_chain(
    *sizes: int, signer: Signer | None = KEY.signer, head: Head | None = None
) -> list[list[bytes]]:
    """Return segments with these numbers of records, each ended by a checkpoint."""
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


def test_verify_unmodified_chain_is_intact() -> None:
    segments = a_chain(3, 0, 2)
    report = verified(segments)
    assert report.intact
    assert report.head == parse_line(segments[-1][-1]).head
    assert (report.records, report.segments, report.unsigned_lines) == (5, 3, 0)
    assert report.signed is not None
    assert (report.signed.seq, report.signed.at) == (11, 9.0)
    assert report.as_json()["intact"] is True


def test_verify_counts_lines_after_last_signed_checkpoint() -> None:
    segments = a_chain(2)
    more, _ = link_lines(
        parse_line(segments[0][-1]).head, [encode_body({"event": "refused", "at": 2.0})]
    )
    report = verified([segments[0] + more])
    assert report.intact
    assert report.unsigned_lines == 1


@settings(max_examples=400)
@given(st.data())
def test_verify_detects_any_changed_byte(data: st.DataObject) -> None:
    segments = a_chain(3, 2)
    which = data.draw(st.integers(0, 1))
    text = bytearray(b"".join(segments[which]))
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda value: value != text[at]))
    text[at] = new
    segments[which] = bytes(text).splitlines(keepends=True)
    assert not verified(segments).intact


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_verify_detects_changed_bytes_of_last_checkpoint(flip: int) -> None:
    segments = a_chain(1)
    last = segments[0][-1]
    for i in range(len(last)):
        changed = last[:i] + bytes([last[i] ^ flip]) + last[i + 1 :]
        assert not verified([[*segments[0][:-1], changed]]).intact, i


@given(st.data())
def test_verify_detects_removed_swapped_inserted_repeated_lines(
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
def test_finding_has_problem_and_line(damage, line: int, problem: Problem) -> None:
    segments = a_chain(5, 1)
    damage(segments[0])
    finding = verified(segments).finding
    assert finding is not None
    assert (finding.file, finding.line, finding.problem) == ("segment-1", line, problem)
    assert str(finding).startswith(f"segment-1:{line}: {problem.value}: ")


def test_report_head_precedes_the_problem() -> None:
    segments = a_chain(5)
    del segments[0][4]
    report = verified(segments)
    assert report.head is not None
    assert report.head.seq == 4


def test_verify_detects_missing_segment() -> None:
    first, _, third = a_chain(1, 1, 1)
    named = [Segment(1, "one", first), Segment(3, "three", third)]
    report = verify("chain-1", named, KEY.verifiers)
    assert problem_of(report) is Problem.REMOVED
    assert "segment 2" in str(report.finding)


def test_verify_detects_truncated_middle_segment() -> None:
    segments = a_chain(3, 1)
    del segments[0][2:]
    assert problem_of(verified(segments)) is Problem.REMOVED


def test_missing_segment_requires_recorded_removal() -> None:
    first, second, third = a_chain(2, 2, 2)
    assert problem_of(verified([second, third], first=2)) is Problem.REMOVED
    removal = segment_removed_body(
        5.0, segment=1, head=parse_line(first[-1]).head, expired_before=5.0, reason="old"
    )
    recorded, head = link_lines(parse_line(third[-1]).head, [removal])
    signed, _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer)])
    report = verified([second, third + recorded + signed], first=2)
    assert report.intact
    assert (report.removed_through, report.first_seq) == (1, 5)
    assert problem_of(verified([third + recorded + signed], first=3)) is Problem.REMOVED


def test_removal_with_wrong_head_is_ignored() -> None:
    _, second = a_chain(2, 2)
    removal = segment_removed_body(
        5.0, segment=1, head=Head(CHAIN, 4, "f" * 64), expired_before=5.0, reason="old"
    )
    recorded, head = link_lines(parse_line(second[-1]).head, [removal])
    signed, _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer)])
    assert problem_of(verified([second + recorded + signed], first=2)) is Problem.REMOVED


def removal_of(lines: Sequence[bytes], segment: int) -> bytes:
    return segment_removed_body(
        5.0, segment=segment, head=parse_line(lines[-1]).head, expired_before=5.0, reason="old"
    )


def with_more(segment: list[bytes], *bodies: bytes) -> list[bytes]:
    lines, _ = link_lines(parse_line(segment[-1]).head, bodies)
    return segment + lines


def signed(segment: list[bytes]) -> list[bytes]:
    return with_more(segment, checkpoint_body(parse_line(segment[-1]).head, 9.0, KEY.signer))


def test_removal_requires_directly_following_checkpoint() -> None:
    first, second = a_chain(2, 2)
    recorded = with_more(second, removal_of(first, 1))
    assert problem_of(verified([recorded], first=2)) is Problem.REMOVED
    opened = signed(with_more(recorded, encode_body({"event": "audit_chain_opened", "at": 6.0})))
    assert problem_of(verified([opened], first=2)) is Problem.REMOVED
    assert verified([signed(recorded)], first=2).intact


def test_consecutive_removals_share_one_checkpoint() -> None:
    first, second, third, last = a_chain(2, 2, 2, 2)
    removal = [removal_of(lines, i) for i, lines in enumerate((first, second, third), 1)]
    recorded = signed(with_more(last, *removal))
    for left in ([first, second, third], [second, third], [third], []):
        report = verified([*left, recorded], first=4 - len(left))
        assert report.intact, report.finding
        assert report.removed_through == 3 - len(left)


def test_recorded_removal_of_middle_segment_is_accepted() -> None:
    first, second, third = a_chain(2, 2, 2)
    recorded = signed(with_more(third, removal_of(second, 2)))
    for end, problem in ((third, Problem.REMOVED), (recorded, None)):
        named = [Segment(1, "one", first), Segment(3, "three", end)]
        report = verify("chain-1", named, KEY.verifiers)
        assert problem_of(report) is problem
        assert report.removed == ([] if problem else [(2, 2)])
    other = a_chain(2, 2, 2, head=empty_head("abc"))[2]
    assert problem_of(verify("chain-1", [named[0], Segment(3, "three", other)])) is Problem.INSERTED


def test_signatures_are_verified_with_given_keys_only() -> None:
    other = SigningKey()
    segments = a_chain(2)
    assert problem_of(verified(segments, keys=other.verifiers)) is Problem.UNKNOWN_KEY
    assert verified(segments, keys=KEY.verifiers | other.verifiers).intact
    assert verified(segments, keys=None).intact
    forged = a_chain(2, signer=Signer(KEY.signer.key_id, other.signer.sign))
    assert problem_of(verified(forged)) is Problem.INVALID_SIGNATURE
    assert problem_of(verified(a_chain(2, signer=None))) is Problem.NOT_SIGNED
    assert verified(a_chain(2, signer=None), keys=None).intact


def test_closed_segments_must_end_with_signed_checkpoint() -> None:
    first, _ = a_chain(2, 1)
    without = first[:-1]
    opening = [segment_opened_body(2, 2.0), encode_body({"event": "refused", "at": 2.5})]
    second, head = link_lines(parse_line(without[-1]).head, opening)
    signed, _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer)])
    assert problem_of(verified([without, second + signed])) is Problem.NOT_SIGNED
    assert verified([without, second + signed], keys=None).intact


def test_checkpoint_after_opening_covers_previous_segment() -> None:
    first, _ = a_chain(2, 1)
    without = first[:-1]
    (opening,), head = link_lines(parse_line(without[-1]).head, [segment_opened_body(2, 2.0)])
    assert problem_of(verified([without, [opening]])) is Problem.NOT_SIGNED
    signed, _ = link_lines(head, [checkpoint_body(head, 2.0, KEY.signer)])
    assert verified([without, [opening, *signed]]).intact


def verify_promise(*later: str, at: float, signed_again: bool = False) -> Report:
    """Verify a chain with a checkpoint at 9.0 that promises another in 3 s, then these events."""
    lines, head = link_lines(empty_head(CHAIN), [segment_opened_body(1, 1.0)])
    promise, head = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer, next_within_s=3.0)])
    more, head = link_lines(head, [encode_body({"event": event, "at": at}) for event in later])
    last, _ = link_lines(head, [checkpoint_body(head, at, KEY.signer)])
    return verified([[*lines, *promise, *more, *(last if signed_again else [])]])


def test_promised_checkpoint_must_follow_in_time() -> None:
    assert verify_promise("refused", at=12.0).intact
    report = verify_promise("refused", "refused", at=12.5)
    assert problem_of(report) is Problem.NOT_SIGNED
    assert report.finding is not None
    assert report.finding.line == 3
    assert verify_promise("refused", at=12.5, signed_again=True).intact
    assert verify_promise("audit_chain_opened", at=90.0).intact
    assert (
        problem_of(verify_promise("audit_chain_opened", "refused", at=90.0)) is Problem.NOT_SIGNED
    )


def test_checkpoint_promise_is_signed() -> None:
    (lines,) = a_chain(1)
    head = parse_line(lines[-1]).head
    (promise,), _ = link_lines(head, [checkpoint_body(head, 9.0, KEY.signer, next_within_s=3.0)])
    for other in (b'"next_within_s":9e9', b'"next_within_s":"x"', b'"next_within_s":3.5'):
        changed = promise.replace(b'"next_within_s":3.0', other)
        assert changed != promise
        assert not verified([[*lines, changed]]).intact


def test_unsigned_checkpoint_fails_when_keys_are_given() -> None:
    (lines,) = a_chain(1)
    head = parse_line(lines[-1]).head
    unsigned, _ = link_lines(head, [checkpoint_body(head, 9.0, None)])
    assert problem_of(verified([lines + unsigned])) is Problem.NOT_SIGNED
    assert verified([lines + unsigned], keys=None).intact


def test_signature_of_another_checkpoint_is_invalid() -> None:
    segments = a_chain(2)
    stolen = parse_line(segments[0][-1]).fields["signature"]
    before = parse_line(segments[0][-2]).head
    other = {"event": "checkpoint", "at": 9.5, "key": KEY.signer.key_id, "signature": stolen}
    (line,), _ = link_lines(before, [encode_body(other)])
    assert problem_of(verified([[*segments[0][:-1], line]])) is Problem.INVALID_SIGNATURE


def test_saved_head_reveals_truncation() -> None:
    segments = a_chain(2, 2)
    saved = parse_line(segments[1][-1]).head
    assert verified(segments, heads=[saved]).intact
    del segments[1][2:]
    assert verified(segments, keys=None).intact
    assert problem_of(verified(segments, keys=None, heads=[saved])) is Problem.TRUNCATED


def test_saved_head_reveals_rewritten_chain() -> None:
    saved = parse_line(a_chain(2)[0][-1]).head
    rewritten = a_chain(3)
    assert verified(rewritten).intact
    assert problem_of(verified(rewritten, heads=[saved])) is Problem.HEAD_DIFFERS


def test_saved_head_in_removed_segment_is_not_compared() -> None:
    first, second = a_chain(2, 2)
    recorded = signed(with_more(second, removal_of(first, 1)))
    last, earlier = parse_line(first[-1]).head, parse_line(first[1]).head
    report = verified([recorded], first=2, heads=[last, earlier, parse_line(second[0]).head])
    assert report.intact
    assert report.not_compared == [earlier]
    wrong = Head(CHAIN, last.seq, "f" * 64)
    assert problem_of(verified([recorded], first=2, heads=[wrong])) is Problem.HEAD_DIFFERS


def test_conflicting_saved_heads_fail() -> None:
    (lines,) = a_chain(2)
    saved = parse_line(lines[1]).head
    heads = [saved, Head(CHAIN, saved.seq, "f" * 64)]
    assert problem_of(verified([lines], heads=heads)) is Problem.HEAD_DIFFERS
    assert problem_of(verified([lines], heads=heads[::-1])) is Problem.HEAD_DIFFERS


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [([1, 1, 2], None), ([1, 2, 2], Problem.FORKED), ([1, 1], Problem.FORKED)],
)
def test_copy_of_last_segment_is_a_fork(numbers: list[int], problem: Problem | None) -> None:
    chain = a_chain(2, 1)
    named = [Segment(n, f"{n} of {i}", chain[n - 1]) for i, n in enumerate(numbers)]
    report = verify("chain-1", named, KEY.verifiers)
    assert problem_of(report) is problem
    assert report.segments == len(set(numbers))
    assert report.records == (3 if 2 in numbers else 2)


def test_differing_copies_of_a_segment_are_forks() -> None:
    first, second = a_chain(2, 1)
    for other in (first[:-1], signed(first)):
        named = [Segment(1, "one", first), Segment(1, "other", other), Segment(2, "two", second)]
        finding = verify("chain-1", named).finding
        assert finding is not None
        assert (finding.problem, finding.file) == (Problem.FORKED, "other")
        assert "the file differs from one" in finding.text


def test_verify_detects_partial_last_line() -> None:
    segments = a_chain(2)
    segments[0][-1] = segments[0][-1][:-9]
    report = verified(segments)
    assert problem_of(report) is Problem.TRUNCATED
    assert report.head is not None
    assert report.head.seq == 3


@pytest.mark.parametrize("segments", [[], [[]]])
def test_empty_chain_is_not_intact(segments: list[list[bytes]]) -> None:
    assert not verified(segments).intact


@pytest.mark.parametrize("depth", [300, 1_000, 5_000])
def test_deeply_nested_line_is_rejected(depth: int) -> None:
    deep = b'{"chain":"a","seq":1,"prev":"","event":"x","at":1,"d":' + b"[" * depth + b"]" * depth
    with pytest.raises(ValueError, match="is n"):
        parse_line(deep + b"}\n")
    (lines,) = a_chain(1)
    assert problem_of(verified([[*lines, deep + b"}\n"]])) is Problem.CHANGED


@given(st.binary(max_size=200))
def test_verify_survives_arbitrary_bytes(junk: bytes) -> None:
    segments = a_chain(1)
    segments[0][1:1] = junk.splitlines(keepends=True)
    assert verified(segments).intact == (junk == b"")


def test_prepared_record_equals_the_encoded_one() -> None:
    varying = 'ann "at":0.0,"request_id":"'
    record = AuditRecord("console_link_issued", 0.0, subject=varying, groups=frozenset({varying}))
    prepared = PreparedRecord(record)
    record.at, record.request_id = 1_796_000_000.25, "ab-1f"
    assert prepared.body(record.at, b"ab-1f") == encode_record(record)
