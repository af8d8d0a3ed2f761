"""The metrics of live consoles (port `ConsoleTelemetry`)."""

from collections.abc import Sequence
from itertools import product

from gateway.domain.consoles.ends import SESSION_ENDS
from gateway.domain.consoles.model import SessionMode
from gateway.drivers.telemetry.metrics import Metrics

_REJECTIONS = (
    *("garbage", "gone", "origin", "form", "request", "address"),
    *("right", "person", "in_use", "limit", "audit"),
)
_REQUESTS = ("origin", "cookie", "first_message", "limit")
_OUTCOMES = ("ok", "stale", "gone", "unknown", "unavailable")


class ConsoleMetrics:
    def __init__(self, metrics: Metrics, accounts: Sequence[str]) -> None:
        """Export every series with the value 0: `accounts` are those with live consoles."""
        self._count = metrics.count
        modes, ends = [one.value for one in SessionMode], [one.name for one in SESSION_ENDS]
        for name, *values in (
            ("gateway_console_tickets_rejected_total", _REJECTIONS),
            ("gateway_console_requests_rejected_total", _REQUESTS),
            ("gateway_console_resumes_total", _OUTCOMES),
            ("gateway_console_sessions_started_total", accounts, modes),
            ("gateway_console_sessions_ended_total", accounts, ends),
        ):
            metrics.begin_counter(name, product(*values))

    def ticket_rejected(self, reason: str) -> None:
        self._count("gateway_console_tickets_rejected_total", reason)

    def request_rejected(self, reason: str) -> None:
        self._count("gateway_console_requests_rejected_total", reason)

    def session_started(self, account: str, mode: str) -> None:
        self._count("gateway_console_sessions_started_total", account, mode)

    def session_ended(self, account: str, end: str) -> None:
        self._count("gateway_console_sessions_ended_total", account, end)

    def session_resumed(self, outcome: str) -> None:
        self._count("gateway_console_resumes_total", outcome)
