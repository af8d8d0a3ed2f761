"""The text of timestamps, which is put together from a part per second and the microseconds."""

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.domain.timestamps import rfc3339


@given(st.floats(0, 4e9))
@example(1_800_000_000.9999999)
@example(1_800_000_000.0000005)
@example(0.0)
def test_rfc3339_equals_the_standard_library(seconds: float) -> None:
    expected = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    assert rfc3339(seconds) == expected.removesuffix("+00:00") + "Z"
