"""The bounds of rejected logins, whatever happens in whatever order."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.upstream.login_ledger import (
    LoginLedger,
    LoginRejection,
    LoginSubject,
    decode_ledger,
)

WRONG = LoginRejection("wrong", is_counted=True)
UNKNOWN = LoginRejection("unknown project", is_counted=False)
LOCKED = LoginRejection("locked", is_counted=True, is_for_all=True)
ONE, TWO = LoginSubject("c", "one"), LoginSubject("c", "two")


def test_pauses_grow_and_end_with_a_login() -> None:
    ledger, now = LoginLedger(), 1_000.0
    for pause_s in (300.0, 600.0, 1_800.0, 1_800.0):
        ledger = ledger.rejected(ONE, WRONG, now)
        pause = ledger.pause(ONE, now)
        assert pause is not None
        assert (pause.until, pause.is_own) == (now + pause_s, True)
        now += pause_s
        assert ledger.pause(ONE, now) is None
    ledger = ledger.succeeded(ONE).rejected(ONE, WRONG, now)
    pause = ledger.pause(ONE, now)
    assert pause is not None
    assert pause.until == now + 300.0


def test_a_rejection_pauses_what_it_concerns() -> None:
    ledger = LoginLedger().rejected(ONE, WRONG, 0.0)
    assert ledger.pause(TWO, 0.0) is None
    assert ledger.pause(LoginSubject("changed", "one"), 0.0) is None
    ledger = LoginLedger().rejected(ONE, LOCKED, 0.0)
    assert ledger.pause(TWO, 0.0) is not None
    assert ledger.pause(LoginSubject("changed", "one"), 0.0) is None


def test_counted_rejections_are_bounded_over_projects() -> None:
    ledger = LoginLedger()
    for i in range(3):
        subject = LoginSubject("c", f"p{i}")
        assert ledger.pause(subject, float(i)) is None
        ledger = ledger.rejected(subject, WRONG, float(i))
    pause = ledger.pause(ONE, 3.0)
    assert pause is not None
    assert (pause.until, pause.is_own) == (900.0, False)
    assert "3 logins were rejected within 15 minutes" in pause.reason


def test_uncounted_rejections_are_not_bounded() -> None:
    ledger = LoginLedger()
    for i in range(20):
        ledger = ledger.rejected(LoginSubject("c", f"p{i}"), UNKNOWN, 0.0)
    assert ledger.pause(ONE, 0.0) is None


_STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 400.0),
        st.sampled_from(["c", "d", "e"]),
        st.sampled_from(["one", "two", "three"]),
        st.sampled_from([WRONG, LOCKED, UNKNOWN, None]),
    ),
    max_size=60,
)


@given(steps=_STEPS)
def test_no_order_of_logins_locks_the_user(
    steps: list[tuple[float, str, str, LoginRejection | None]],
) -> None:
    ledger, now, failed_at = LoginLedger(), 0.0, list[float]()
    for wait_s, credential, project, rejection in steps:
        now += wait_s
        subject = LoginSubject(credential, project)
        if ledger.pause(subject, now) is not None:
            continue
        if rejection is None:
            ledger = ledger.succeeded(subject)
            continue
        ledger = ledger.rejected(subject, rejection, now)
        failed_at += [now] * rejection.is_counted
        # Another replica reads the same from it.
        other = decode_ledger(ledger.encode(5.0), now=now, epoch=5.0)
        assert (other.pause(ONE, now) is None) == (ledger.pause(ONE, now) is None)
    for at in failed_at:
        assert sum(at <= other < at + 900.0 for other in failed_at) <= 4


def test_a_clock_set_back_extends_no_pause_for_long() -> None:
    text = LoginLedger().rejected(ONE, WRONG, 0.0).encode(86_400.0)
    pause = decode_ledger(text, now=0.0, epoch=0.0).pause(ONE, 0.0)
    assert pause is not None
    assert pause.until == 1_800.0


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"[[1],[]]", b'[[["c","p",1,"x","y"]],[]]'])
def test_an_unreadable_ledger_is_empty(text: bytes) -> None:
    assert decode_ledger(text, now=0.0, epoch=0.0).is_empty


def test_the_shared_form_is_json_without_the_credential() -> None:
    text = LoginLedger().rejected(ONE, WRONG, 1.0).encode(0.0)
    assert json.loads(text) == [[["c", "one", 1, 301.0, "wrong"]], [[1.0, "c", "wrong"]]]
