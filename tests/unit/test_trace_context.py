"""W3C Trace Context: what is read, what is ignored, and what a child looks like."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.trace_context import trace_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def state_of(*states: str) -> str:
    parsed = trace_context([PARENT], states)
    assert parsed is not None
    return parsed.state


def test_valid_traceparent_is_parsed() -> None:
    parsed = trace_context([PARENT], ["rojo=00f067,congo@t=t61"])
    assert parsed is not None
    assert (parsed.trace_id, parsed.span_id, parsed.is_sampled) == (TRACE, SPAN, True)
    assert parsed.state == "rojo=00f067,congo@t=t61"


def test_child_keeps_the_trace_with_new_span() -> None:
    parsed = trace_context([PARENT], ["a=1"])
    assert parsed is not None
    assert parsed.child("b" * 16).headers == (
        ("traceparent", f"00-{TRACE}-{'b' * 16}-01"),
        ("tracestate", "a=1"),
    )


@pytest.mark.parametrize(
    "value",
    [
        "", PARENT.upper(), PARENT[:-1], PARENT + "0", PARENT + "-x", PARENT + "-", " " + PARENT,
        PARENT + " ", "ff" + PARENT[2:], "ff" + PARENT[2:] + "-x", "0" + PARENT, PARENT[1:],
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", PARENT + "\n",
        f"00-{TRACE}-{SPAN}-.1", f"00-{TRACE[:-1]}.-{SPAN}-01", f"00-{TRACE}-{SPAN[:-1]}.-01",
        f"00_{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}", f".0-{TRACE}-{SPAN}-01", f"{TRACE}-{SPAN}-1",
        f"cc-{TRACE}-{SPAN}-01.", f"cc-{TRACE}-{SPAN}-01what", f"{PARENT},{PARENT}",
        f"00-{TRACE[:-1]}٤-{SPAN}-01",
    ],
)  # fmt: skip
def test_invalid_traceparent_drops_tracestate(value: str) -> None:
    assert trace_context([value], ["a=1"]) is None


def test_two_traceparents_or_none_begin_a_trace() -> None:
    assert trace_context([PARENT, PARENT], []) is None
    assert trace_context([], ["a=1"]) is None


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-will-be-like"])
def test_later_version_is_propagated_as_version_00(rest: str) -> None:
    parsed = trace_context([f"cc-{TRACE}-{SPAN}-01{rest}"], [])
    assert parsed is not None
    assert parsed.headers == (("traceparent", PARENT),)


@pytest.mark.parametrize(
    ("flags", "sampled", "sent"),
    [("00", False, "00"), ("01", True, "01"), ("02", False, "02"), ("ff", True, "03")],
)
def test_unknown_flags_are_cleared(flags: str, sent: str, *, sampled: bool) -> None:
    parsed = trace_context([f"00-{TRACE}-{SPAN}-{flags}"], [])
    assert parsed is not None
    assert parsed.is_sampled is sampled
    assert parsed.headers == (("traceparent", f"00-{TRACE}-{SPAN}-{sent}"),)


@pytest.mark.parametrize(
    "state",
    [
        "a", "a=", "A=1", "a=1,a=2", "a=b=c", "a=é", "a=1\tb", "a=1,b", "=1", "a =1",
        "a@=1", "@t=1", "a@T=1", "a@" + "t" * 15 + "=1", "a" * 257 + "=1", "1a=1", "a=" + "x" * 257,
        "a" * 242 + "@t=1", "a.b=1", "a=\x00", "a=1;b=2=3",
    ],
)  # fmt: skip
def test_invalid_tracestate_keeps_traceparent(state: str) -> None:
    assert state_of(state) == ""


@pytest.mark.parametrize(
    ("states", "read"),
    [
        ([""], ""),
        ([" ,\t,"], ""),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1 ,\tb=2,,"], "a=1,b=2"),
        (["a-_*/0=!~ :"], "a-_*/0=!~ :"),
        (["0a@t-_*/0=1"], "0a@t-_*/0=1"),
        (["a" * 256 + "=1"], "a" * 256 + "=1"),
    ],
)
def test_valid_tracestate_keeps_its_order(states: list[str], read: str) -> None:
    assert state_of(*states) == read


def test_long_tracestate_loses_large_members_first() -> None:
    large = "large=" + "x" * 200
    small = [f"k{i:02}={'y' * 24}" for i in range(20)]
    stored = state_of(",".join([large, *small]))
    assert stored == ",".join(small[: len(stored.split(","))])
    assert 480 < len(stored) <= 512


def test_tracestate_has_at_most_32_members() -> None:
    members = [f"k{i}=1" for i in range(33)]
    assert state_of(",".join(members[:32])) == ",".join(members[:32])
    assert state_of(",".join(members)) == ""


@given(st.lists(st.text(), max_size=2), st.lists(st.text(), max_size=3))
def test_propagated_headers_are_well_formed(parents: list[str], states: list[str]) -> None:
    parsed = trace_context([*parents, PARENT][:1], states)
    for name, value in () if parsed is None else parsed.headers:
        assert name in ("traceparent", "tracestate")
        assert re.fullmatch(r"[ -~]{1,512}", value)
