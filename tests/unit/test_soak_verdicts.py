"""What a soak calls good, on figures made up for it."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.soak.verdicts import Heard, Sample, Verdict, verdicts, windows

MIB = 1024 * 1024
SAMPLE = Sample(0.0, is_calm=True, resident=0, private=100 * MIB, descriptors=50, tasks=30)


def bad(found: list[Verdict]) -> str:
    return " ".join(verdict.sentence for verdict in found if not verdict.is_good)


def judged(heard: dict[Heard, int] | None = None, **after: int) -> str:
    return bad(verdicts([SAMPLE] * 3, [replace(SAMPLE, **after)] * 3, Counter(heard or {})))


def test_what_stays_as_it_was_is_good() -> None:
    assert judged() == ""
    assert judged(private=101 * MIB, descriptors=40, tasks=34) == ""


@pytest.mark.parametrize(
    ("grown", "told"),
    [
        ({"private": 103 * MIB}, "Memory grew by +3.0%"),
        ({"descriptors": 60}, "+10 descriptors"),
        ({"tasks": 40}, "+10 tasks"),
    ],
)
def test_growth_is_bad_and_says_by_how_much(grown: dict[str, int], told: str) -> None:
    assert told in judged(**grown)


def test_failures_count_while_nothing_failed_and_refusals_never() -> None:
    assert (
        judged({Heard("link", 503, was_calm=False): 9, Heard("link", 429, was_calm=True): 9}) == ""
    )
    failed = Heard("link", 503, was_calm=True, error_code="CONSOLE.1")
    told = judged({failed: 2, Heard("list", 0, was_calm=True): 1})
    assert "link 503 CONSOLE.1: 2" in told
    assert "list nothing: 1" in told


def test_one_odd_sample_decides_nothing() -> None:
    odd = replace(SAMPLE, private=900 * MIB)
    assert bad(verdicts([SAMPLE] * 3, [SAMPLE, odd, SAMPLE], {})) == ""


def test_what_callers_and_pools_have_open_at_a_moment_is_no_leak() -> None:
    before = [replace(SAMPLE, descriptors=50 + i % 4) for i in range(20)]
    crowded = [replace(SAMPLE, descriptors=50 + i % 30) for i in range(60)]
    leaking = [replace(one, descriptors=one.descriptors + 9) for one in before]
    odd = [replace(SAMPLE, descriptors=20), *leaking]
    assert bad(verdicts(before, crowded, {})) == ""
    assert "+9 descriptors" in bad(verdicts(before, leaking, {}))
    assert "+9 descriptors" in bad(verdicts(before, odd, {}))


def test_calm_samples_after_the_warm_up_are_compared_with_those_of_the_end() -> None:
    samples = [replace(SAMPLE, at_s=float(at), is_calm=at % 2 == 0) for at in range(100)]
    before, after = windows(samples, warm_s=25, ends_s=100)
    assert [one.at_s for one in before] == [*range(26, 50, 2)]
    assert [one.at_s for one in after] == [*range(76, 100, 2)]
    assert "soak longer" in bad(verdicts([], after, {}))
