"""The bound on log lines that anyone may cause in any number, and what a line must not contain."""

from typing import Any, cast

import pytest

from gateway.domain.errors import (
    CallerLimited,
    CrossSiteRequest,
    GatewayError,
    SessionCookieMissing,
    TicketRejected,
)
from gateway.edge.error_response import INTERNAL_ERROR_RESPONSE, render_error
from gateway.edge.public.outcome import RequestOutcome
from gateway.edge.public.request_log import RequestLog
from tests.support.clock import FakeClock
from tests.support.request_lines import RecordedLines


def a_log(clock: FakeClock, written: list[object], unlogged: list[None]) -> RequestLog:
    lines = RecordedLines()
    lines.found = cast("Any", written)
    return RequestLog(
        clock,
        count_request=lambda *_: None,
        lines=lines,
        hit_log_share=None,
        count_unlogged=lambda: unlogged.append(None),
    )


def test_text_of_an_unexpected_exception_is_not_logged(clock: FakeClock) -> None:
    """It may quote a secret; only the errors of the gateway are written without one."""
    written: list[object] = []
    outcome = RequestOutcome("req-1", "192.0.2.1", clock.monotonic())
    outcome.reject(INTERNAL_ERROR_RESPONSE, ValueError("token=canary"))
    a_log(clock, written, []).finish(outcome)
    assert "ValueError" in str(written)
    assert "canary" not in str(written)


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (CallerLimited("limit", retry_after_s=1.0), 10),
        (TicketRejected("not a ticket", is_genuine=False), 10),
        (CrossSiteRequest("the Origin is not `listen.public_url`"), 10),
        (SessionCookieMissing(), 10),
        (TicketRejected("spent or expired", is_genuine=True), 100),
    ],
)
def test_lines_of_floods_are_bounded(error: GatewayError, lines: int, clock: FakeClock) -> None:
    written: list[object] = []
    unlogged: list[None] = []
    log = a_log(clock, written, unlogged)
    for number in range(100):
        outcome = RequestOutcome(f"req-{number}", "192.0.2.1", clock.monotonic())
        outcome.reject(render_error(error), error)
        log.finish(outcome)
    assert lines - 1 <= len(written) <= lines  # a rounding error may cost one
    assert len(written) + len(unlogged) == 100
