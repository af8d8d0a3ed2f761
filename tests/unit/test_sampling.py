"""A share is taken evenly and exactly."""

import pytest

from gateway.domain.sampling import EvenSampler


@pytest.mark.parametrize(
    ("share", "taken"), [(0.0, 0), (0.01, 10), (0.1, 100), (0.3, 300), (0.5, 500), (1.0, 1000)]
)
def test_share_of_thousand_events_is_sampled(share: float, taken: int) -> None:
    some = EvenSampler(share)
    assert sum(some.samples() for _ in range(1000)) == taken


def test_tenth_samples_every_tenth_event() -> None:
    some = EvenSampler(0.1)
    assert [i for i in range(1, 31) if some.samples()] == [10, 20, 30]
