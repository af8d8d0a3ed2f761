"""The metrics and the log of browser logins (port `LoginTelemetry`)."""

import logging
from collections.abc import Sequence
from itertools import product

from gateway.domain.login.model import LOGIN_PROBLEMS
from gateway.drivers.telemetry.metrics import Metrics

log = logging.getLogger("gateway.login")


class LoginMetrics:
    def __init__(self, metrics: Metrics, issuers: Sequence[str]) -> None:
        """Export every series with the value 0: `issuers` are those with a login."""
        self._count = metrics.count
        outcomes = ["ok", *(one.name for one in LOGIN_PROBLEMS)]
        metrics.begin_counter("gateway_browser_logins_total", product(issuers, outcomes))

    def logged_in(self, issuer: str) -> None:
        self._count("gateway_browser_logins_total", issuer, "ok")

    def login_failed(self, issuer: str, problem: str, error: str) -> None:
        self._count("gateway_browser_logins_total", issuer, problem)
        log.warning("login_failed", extra={"issuer": issuer, "error": error})

    def refresh_failed(self, issuer: str, error: str) -> None:
        log.warning("login_refresh_failed", extra={"issuer": issuer, "error": error})

    def provider_logout_failed(self, issuer: str, error: str) -> None:
        log.warning("provider_logout_failed", extra={"issuer": issuer, "error": error})

    def logout_token_rejected(self, issuer: str, error: str) -> None:
        log.warning("logout_token_rejected", extra={"issuer": issuer, "error": error})

    def logout_token_lost(self, error: str) -> None:
        log.warning("logout_token_lost", extra={"error": error})

    def session_ended(self, by: str) -> None:
        self._count("gateway_browser_sessions_ended_total", by)
