"""Adaptive rate: learn the cloud's limit from its 429s. Pure; seconds, and calls per second.

A 429 cuts the rate, at most once per epoch. The rate grows back quickly to just below the value
at the 429, stays flat there, and then grows faster with time (cubic growth). Two 429s in a row
give a measurement: the cloud's bucket was empty at both, so the calls in between over the time
in between are the rate that the cloud accepts.

`drivers/valkey/lua/fair_queue.lua` implements the same in Redis; a test holds the two equal.
"""

from dataclasses import dataclass, replace

_CUT = 0.9
"""Factor of the cut. botocore's 0.7 wastes a third of the rate beside another client."""
_REGROW_S = 10.0
"""Time from the cut back to the goal; also how long the rate stays at a limit named by a 429."""
_GROWTH = 0.000_1
"""Cubic growth after that, as a fraction of the ceiling per s^3: 10 % in 10 s, 80 % in 20 s."""
_MEASURE_WITHIN_S = 60.0
_MEASURE_CALLS_MIN = 3
_NAMED_FRACTION = 0.97
_FLOOR = 0.01
"""Lower bound, as a fraction of the ceiling: a rate of 0 could never recover."""


@dataclass(frozen=True, slots=True)
class LearnedRate:
    """The learned rate of one budget. Times are on the clock that all replicas share."""

    goal: float
    """The rate at the last 429; growth is flattest there."""
    low: float
    """The rate right after the last cut."""
    cut_at: float
    epoch_until: float
    """Until then further 429s belong to the same event and do not cut again."""
    calls: int = 0
    """Calls granted since the last cut."""

    def scaled(self, factor: float) -> "LearnedRate":
        """Return the same for a share of the budget, or for several shares together."""
        return replace(self, goal=self.goal * factor, low=self.low * factor)


def rate(learned: LearnedRate | None, ceiling: float, now: float) -> float:
    """Return the rate at `now`. Without a 429 so far it is the ceiling."""
    if learned is None:
        return ceiling
    since = now - learned.cut_at
    if since < _REGROW_S:
        missing = (_REGROW_S - since) / _REGROW_S
        grown = learned.goal - (learned.goal - learned.low) * missing * missing * missing
    else:
        past = since - _REGROW_S
        grown = learned.goal + _GROWTH * ceiling * past * past * past
    return min(ceiling, max(_FLOOR * ceiling, grown))


def after_429(
    learned: LearnedRate | None,
    ceiling: float,
    now: float,
    *,
    pause_s: float,
    named_rate: float | None,
) -> LearnedRate:
    """Return the learned rate after a 429; `named_rate` is the limit named in its text."""
    if learned is not None and now < learned.epoch_until:
        return learned
    current = rate(learned, ceiling, now)
    until = now + pause_s
    if named_rate is not None and named_rate * _NAMED_FRACTION < current:
        known = named_rate * _NAMED_FRACTION
        return LearnedRate(known, known, now, until)
    goal = current
    if learned is not None and learned.calls >= _MEASURE_CALLS_MIN:
        since = now - learned.cut_at
        if since <= _MEASURE_WITHIN_S:
            goal = min(current, learned.calls / since)
    return LearnedRate(goal, goal * _CUT, now, until)


def after_calls(learned: LearnedRate | None, calls: int) -> LearnedRate | None:
    return learned if learned is None else replace(learned, calls=learned.calls + calls)
