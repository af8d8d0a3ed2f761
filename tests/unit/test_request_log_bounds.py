"""Requests whose log lines are bounded, because anyone may send any number of them."""

import pytest

from gateway.domain.errors import CallerLimited, GatewayError, TicketRejected
from gateway.edge.error_response import render_error
from gateway.edge.public.outcome import RequestOutcome
from gateway.edge.public.request_log import RequestLog
from tests.support.clock import FakeClock


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (CallerLimited("limit", retry_after_s=1.0), 10),
        (TicketRejected("not a ticket", is_genuine=False), 10),
        (TicketRejected("spent or expired", is_genuine=True), 100),
    ],
)
def test_lines_of_floods_are_bounded(error: GatewayError, lines: int, clock: FakeClock) -> None:
    written: list[object] = []
    unlogged: list[None] = []

    def write_line(_: float, fields: object) -> bool:
        written.append(fields)
        return True

    log = RequestLog(
        clock,
        count_request=lambda *_: None,
        write_line=write_line,
        hit_log_share=None,
        count_unlogged=lambda: unlogged.append(None),
    )
    for number in range(100):
        outcome = RequestOutcome(f"req-{number}", "192.0.2.1", clock.monotonic())
        outcome.reject(render_error(error), error)
        log.finish(outcome)
    assert lines - 1 <= len(written) <= lines  # a rounding error may cost one
    assert len(written) + len(unlogged) == 100
