"""The fields RateLimit, RateLimit-Policy and Prefer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.catalogue.preferences import preferred_wait_s
from gateway.domain.queue.pacing import Pace
from gateway.edge.public.prepared_response import ResponseEncoder
from gateway.edge.rate_limit_fields import rate_limit_field, rate_limit_policy_field
from gateway.flow.caller_limits import Remaining


@pytest.mark.parametrize(
    ("pace", "value"),
    [
        (Pace(120, 60.0, 40), '"caller";q=120;w=60'),
        (Pace(2.9, 0.5, 1), '"caller";q=2;w=1'),
        (Pace(0.5, 60.1, 1), '"caller";q=0;w=61'),
        (Pace(float("inf"), 1, 1), '"caller";q=999999999999999;w=1'),
    ],
)
def test_policy_field_rounds_to_the_safe_side(pace: Pace, value: str) -> None:
    assert rate_limit_policy_field(pace) == value


def test_remaining_field_names_its_policy() -> None:
    assert rate_limit_field(Remaining(3, 17)) == '"caller";r=3;t=17'


def head_of(data: bytes) -> list[str]:
    return data.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def test_prepared_response_has_both_fields() -> None:
    data = ResponseEncoder('"caller";q=2;w=1', varies_by_origin=False).encode_link(
        b"{}", b"id", 9.0, 1.0, (1, 1)
    )
    assert 'RateLimit-Policy: "caller";q=2;w=1' in head_of(data)
    assert 'RateLimit: "caller";r=1;t=1' in head_of(data)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait=007"], 7),
        (["WAIT=5"], 5),
        (['wait="5"'], 5),
        (["wait = 5"], 5),
        (["\twait\t=\t5 "], 5),
        (["wait=5; foo=bar"], 5),
        (["wait=5;foo"], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async;a;b=c,wait=5,foo"], 5),
        ([",, wait=5,"], 5),
        (["return=minimal", "wait=5"], 5),
        (["wait=5", "wait=9"], 5),
        (["wait=5, wait=9"], 5),
        (['foo="a, wait=9", wait=5'], 5),
        (['foo="\\", wait=9", wait=5'], 5),
        (['foo="a;wait=9";bar="x,wait=8", wait=5'], 5),
        (["wait=999999999"], 999_999_999),
    ],
)
def test_preferred_wait_is_found_in_any_position(values: list[str], seconds: int) -> None:
    assert preferred_wait_s(values) == seconds


@pytest.mark.parametrize(
    "values",
    [
        [], [""], [","], ["wait"], ["wait="], ['wait=""'], ["wait=x"], ["wait=-1"], ["wait=+1"],
        ["wait=1.5"], ["wait=5s"], ["wait=1 2"], ["wait=1_0"], ["wait=\u0665"], ["wait==5"],
        ["wait=1000000000"], ['wait="5'], ["wait='5'"], ['wait=5"'], ["waits=5"], ["await=5"],
        ["foo;wait=5"], ["foo=wait=5"], ['foo="a, wait=5'], ['foo="a\\", wait=5'],
        ["wait=x, wait=5"],
    ],
)  # fmt: skip
def test_invalid_preferred_wait_is_ignored(values: list[str]) -> None:
    assert preferred_wait_s(values) is None


@given(st.lists(st.text(alphabet=' \t,;="\\wait059é')))
def test_any_prefer_header_is_parsed(values: list[str]) -> None:
    seconds = preferred_wait_s(values)
    assert seconds is None or 0 <= seconds < 10**9


@pytest.mark.parametrize("part", ['"', '\\"', '"\\', '"a', ' "', ",", "wait=", "\\", ';"', '=\t"'])
def test_prefer_header_is_parsed_in_linear_time(part: str) -> None:
    assert preferred_wait_s(['"' + part * 100_000]) is None
