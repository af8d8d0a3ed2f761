"""A share is taken evenly and exactly."""

import pytest

from gateway.domain.sampling import EvenSampler


@pytest.mark.parametrize(
    ("share", "taken"), [(0.0, 0), (0.01, 10), (0.1, 100), (0.3, 300), (0.5, 500), (1.0, 1000)]
)
def test_of_a_thousand_the_share_is_taken(share: float, taken: int) -> None:
    some = EvenSampler(share)
    assert sum(some.samples() for _ in range(1000)) == taken


def test_a_tenth_is_each_tenth() -> None:
    some = EvenSampler(0.1)
    assert [i for i in range(1, 31) if some.samples()] == [10, 20, 30]
