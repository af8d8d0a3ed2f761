"""Verdicts of a soak on synthetic samples."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.soak.verdicts import Response, Sample, Verdict, verdicts, windows

MIB = 1024 * 1024
SAMPLE = Sample(0.0, is_calm=True, resident=0, private=100 * MIB, descriptors=50, tasks=30)


def bad(found: list[Verdict]) -> str:
    return " ".join(verdict.sentence for verdict in found if not verdict.is_good)


def judged(responses: dict[Response, int] | None = None, **after: int) -> str:
    return bad(verdicts([SAMPLE] * 3, [replace(SAMPLE, **after)] * 3, Counter(responses or {})))


def test_stable_samples_pass() -> None:
    assert judged() == ""
    assert judged(private=101 * MIB, descriptors=40, tasks=34) == ""


@pytest.mark.parametrize(
    ("grown", "reported"),
    [
        ({"private": 103 * MIB}, "Memory grew by +3.0%"),
        ({"descriptors": 60}, "descriptors: +10"),
        ({"tasks": 40}, "tasks: +10"),
    ],
)
def test_growth_fails_with_its_amount(grown: dict[str, int], reported: str) -> None:
    assert reported in judged(**grown)


def test_failures_count_in_calm_periods_only() -> None:
    assert (
        judged({Response("link", 503, was_calm=False): 9, Response("link", 429, was_calm=True): 9})
        == ""
    )
    failed = Response("link", 503, was_calm=True, error_code="CONSOLE.1")
    reported = judged({failed: 2, Response("list", 0, was_calm=True): 1})
    assert "link 503 CONSOLE.1: 2" in reported
    assert "list no response: 1" in reported


def test_single_outlier_is_ignored() -> None:
    odd = replace(SAMPLE, private=900 * MIB)
    assert bad(verdicts([SAMPLE] * 3, [SAMPLE, odd, SAMPLE], {})) == ""


def test_open_connections_are_no_leak() -> None:
    before = [replace(SAMPLE, descriptors=50 + i % 4) for i in range(20)]
    crowded = [replace(SAMPLE, descriptors=50 + i % 30) for i in range(60)]
    leaking = [replace(one, descriptors=one.descriptors + 9) for one in before]
    odd = [replace(SAMPLE, descriptors=20), *leaking]
    assert bad(verdicts(before, crowded, {})) == ""
    assert "descriptors: +9" in bad(verdicts(before, leaking, {}))
    assert "descriptors: +9" in bad(verdicts(before, odd, {}))


def test_windows_hold_calm_samples() -> None:
    samples = [replace(SAMPLE, at_s=float(at), is_calm=at % 2 == 0) for at in range(100)]
    before, after = windows(samples, warm_s=25, ends_s=100)
    assert [one.at_s for one in before] == [*range(26, 50, 2)]
    assert [one.at_s for one in after] == [*range(76, 100, 2)]
    assert "soak longer" in bad(verdicts([], after, {}))
