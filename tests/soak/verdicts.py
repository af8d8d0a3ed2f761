"""The verdicts of a soak: growth of resources, and failures outside of fault periods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

MEMORY_GROWTH_MAX = 0.02
DESCRIPTORS_MORE_MAX = 5
TASKS_MORE_MAX = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """The sum over all workers at one moment."""

    at_s: float
    is_calm: bool
    """True when no fault is active and the last one has worn off."""
    resident: int
    """Bytes."""
    private: int
    """Bytes that no other process shares. Shared libraries would distort a comparison."""
    descriptors: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Response:
    """A kind of response; the soak counts them."""

    kind: str
    status: int
    was_calm: bool
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    is_good: bool
    sentence: str


def length_s(*, warm_s: float, ends_s: float) -> float:
    """Return the length of a comparison window; each window contains every fault once."""
    return (ends_s - warm_s) / 3


def windows(
    samples: Sequence[Sample], *, warm_s: float, ends_s: float
) -> tuple[list[Sample], list[Sample]]:
    """Return the calm samples of the start, right after the warm-up, and those of the end."""
    window_s = length_s(warm_s=warm_s, ends_s=ends_s)
    calm = [one for one in samples if one.is_calm]
    before = [one for one in calm if warm_s <= one.at_s < warm_s + window_s]
    after = [one for one in calm if one.at_s >= ends_s - window_s]
    return before, after


def verdicts(
    before: Sequence[Sample], after: Sequence[Sample], responses: Mapping[Response, int]
) -> list[Verdict]:
    """Compare the first and the last calm samples, and judge the responses.

    Memory is compared by its median, descriptors and tasks by their 10th percentile: kept
    connections and pools raise single samples, a leak raises every sample.
    """
    if not before or not after:
        return [Verdict(is_good=False, sentence="No calm samples to compare: soak longer.")]
    return [
        _memory(before, after),
        _more("descriptors", [s.descriptors for s in before], [s.descriptors for s in after],
              DESCRIPTORS_MORE_MAX),
        _more("tasks", [s.tasks for s in before], [s.tasks for s in after], TASKS_MORE_MAX),
        _failures(responses),
    ]  # fmt: skip


def is_failure(status: int) -> bool:
    """Return whether a status is a failure; 0 means no response."""
    return status >= 500 or status == 0


def _memory(before: Sequence[Sample], after: Sequence[Sample]) -> Verdict:
    growth = median(s.private for s in after) / median(s.private for s in before) - 1
    return Verdict(
        growth <= MEMORY_GROWTH_MAX,
        f"Memory grew by {growth:+.1%} after the warm-up (limit {MEMORY_GROWTH_MAX:.0%}).",
    )


def _more(what: str, before: Sequence[int], after: Sequence[int], allowed: int) -> Verdict:
    more = _least(after) - _least(before)
    return Verdict(more <= allowed, f"Change of {what}: {more:+g} (limit {allowed}).")


def _least(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 10]


def _failures(responses: Mapping[Response, int]) -> Verdict:
    failed = {
        (one.kind, one.status, one.error_code): count
        for one, count in responses.items()
        if one.was_calm and is_failure(one.status)
    }
    if not failed:
        return Verdict(is_good=True, sentence="No failure outside of fault periods.")
    listed = ", ".join(
        f"{' '.join(filter(None, (kind, str(status or 'no response'), code)))}: {n}"
        for (kind, status, code), n in failed.items()
    )
    return Verdict(is_good=False, sentence=f"Failures outside of fault periods: {listed}.")
