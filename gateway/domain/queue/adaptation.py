"""How fast the cloud lets us go, learned from its 429s. Pure; times in seconds, rates per second.

The rate falls at a 429, at most once per epoch, and grows back: quickly to just below where it
hurt, hardly while there, then ever faster while nothing hurts. A second 429 soon after the first
tells more than that it hurts: the cloud's bucket was empty at both, so what it let through in
between, over the time in between, is the rate that is really left for us.

`drivers/valkey/lua/fair_queue.lua` is the same in Redis; a test holds the two equal.
"""

from dataclasses import dataclass, replace

_CUT = 0.9
"""What a 429 leaves of the rate; botocore's 0.7 wastes a third beside another client."""
_REGROW_S = 10.0
"""How long the rate takes from the cut back to where it hurt, or stays at what it was told."""
_GROWTH = 0.000_1
"""Cubic growth after that, in parts of the ceiling per s^3: 10 % in 10 s, 80 % in 20 s."""
_MEASURE_WITHIN_S = 60.0
_MEASURE_CALLS_MIN = 3
_TOLD_PART = 0.97
_FLOOR = 0.01
"""Never below this part of the ceiling: a rate of nothing would never learn better."""


@dataclass(frozen=True, slots=True)
class LearnedRate:
    """What is known of one budget's rate; times are on the clock that all replicas share."""

    goal: float
    """Where it last hurt; growth is flattest there."""
    low: float
    """The rate right after the last cut."""
    cut_at: float
    epoch_until: float
    """Until then further 429s belong to the same event and cut nothing."""
    calls: int = 0
    """Calls let go since the last cut."""

    def scaled(self, factor: float) -> "LearnedRate":
        """Say the same of a part of the budget, or of so many parts together."""
        return replace(self, goal=self.goal * factor, low=self.low * factor)


def rate(learned: LearnedRate | None, ceiling: float, now: float) -> float:
    """Return the rate at `now`; None: nothing has hurt yet, so the ceiling."""
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
    """Return what is known after a 429; `named_rate` is the limit that its text named, if any."""
    if learned is not None and now < learned.epoch_until:
        return learned
    current = rate(learned, ceiling, now)
    until = now + pause_s
    if named_rate is not None and named_rate * _TOLD_PART < current:
        known = named_rate * _TOLD_PART
        return LearnedRate(known, known, now, until)
    goal = current
    if learned is not None and learned.calls >= _MEASURE_CALLS_MIN:
        since = now - learned.cut_at
        if since <= _MEASURE_WITHIN_S:
            goal = min(current, learned.calls / since)
    return LearnedRate(goal, goal * _CUT, now, until)


def after_calls(learned: LearnedRate | None, calls: int) -> LearnedRate | None:
    return learned if learned is None else replace(learned, calls=learned.calls + calls)
