"""The verdicts of a soak: whether anything grew, and whether anybody heard what nobody should."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

MEMORY_GROWTH_MAX = 0.02
DESCRIPTORS_MORE_MAX = 5
TASKS_MORE_MAX = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """All workers at one moment, in sum."""

    at_s: float
    is_calm: bool
    """No fault is on, nor was one a moment ago."""
    resident: int
    """Bytes; so with `private`."""
    private: int
    """What no other process shares: else it would matter who happens to use the same libraries."""
    descriptors: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What one kind of request was answered with, and how often."""

    kind: str
    status: int
    was_calm: bool
    error_code: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    is_good: bool
    sentence: str


def length_s(*, warm_s: float, ends_s: float) -> float:
    """Return how long a window is: every fault is in each once, so that like meets like."""
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
    before: Sequence[Sample], after: Sequence[Sample], heard: Mapping[Heard, int]
) -> list[Verdict]:
    """Compare the first and the last calm samples; look at the answers.

    Memory by its median. Descriptors and tasks by the least there were (but for a tenth, which may
    be odd): how many more there are at a moment is up to the callers, who keep connections, and to
    pools, which fill as they are needed. What leaks is in the least, too.
    """
    if not before or not after:
        return [Verdict(is_good=False, sentence="There was no calm to compare: soak longer.")]
    return [
        _memory(before, after),
        _more("descriptors", [s.descriptors for s in before], [s.descriptors for s in after],
              DESCRIPTORS_MORE_MAX),
        _more("tasks", [s.tasks for s in before], [s.tasks for s in after], TASKS_MORE_MAX),
        _answers(heard),
    ]  # fmt: skip


def is_failure(status: int) -> bool:
    """Tell whether an answer says that something failed; 0: none came."""
    return status >= 500 or status == 0


def _memory(before: Sequence[Sample], after: Sequence[Sample]) -> Verdict:
    growth = median(s.private for s in after) / median(s.private for s in before) - 1
    return Verdict(
        growth <= MEMORY_GROWTH_MAX,
        f"Memory grew by {growth:+.1%} after the warm-up; {MEMORY_GROWTH_MAX:.0%} may be.",
    )


def _more(what: str, before: Sequence[int], after: Sequence[int], allowed: int) -> Verdict:
    more = _least(after) - _least(before)
    return Verdict(more <= allowed, f"There are {more:+g} {what}; {allowed} may be.")


def _least(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 10]


def _answers(heard: Mapping[Heard, int]) -> Verdict:
    odd = {
        (one.kind, one.status, one.error_code): count
        for one, count in heard.items()
        if one.was_calm and is_failure(one.status)
    }
    if not odd:
        return Verdict(is_good=True, sentence="Nobody heard of a failure while nothing failed.")
    told = ", ".join(
        f"{' '.join(filter(None, (kind, str(status or 'nothing'), code)))}: {n}"
        for (kind, status, code), n in odd.items()
    )
    return Verdict(is_good=False, sentence=f"Failures were told while nothing failed: {told}.")
