"""The query of `GET /console/recordings`."""

from urllib.parse import urlencode

import pytest

from gateway.domain.errors import BadRequest
from gateway.edge.consoles.recordings_handler import _query


def test_times_are_read_with_their_zone() -> None:
    found, limit = _query(
        urlencode({"since": "2027-01-15T09:00:00+01:00", "until": "2027-01-15T08:00:01Z"})
    )
    assert (found.since, found.until, limit) == (1_800_000_000.0, 1_800_000_001.0, 100)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=2027-01-15T09:00:00", "`since` needs a time zone"),
        ("until=2027-01-15", "`until` needs a time zone"),
        ("since=2027-01-15T09:00:00+01:00", "Write `\\+` as %2B"),
        ("since=yesterday", "`since` must be an ISO 8601 time"),
        ("until=9999-12-31T23:59:59-14:00", "1970 to 9999"),
        ("since=0001-01-01T00:00:00Z", "1970 to 9999"),
        ("limit=0", "`limit`"),
        ("limit=1_0", "`limit`"),
        ("limit=99999999999999999999", "`limit`"),
        ("since=2027-01-15T08:00:00Z&since=2027-01-15T08:00:00Z", "each of these once"),
    ],
)
def test_unclear_query_is_rejected(query: str, message: str) -> None:
    """A time without a zone would mean another moment on another machine."""
    with pytest.raises(BadRequest, match=message):
        _query(query)
