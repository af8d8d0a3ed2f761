"""Rejected requests that have the cookie of a live console: counted, and recorded if genuine."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

from gateway.domain.consoles.ticket_text import secret_hash
from gateway.domain.errors import StoreUnavailable
from gateway.flow.consoles.console_audit import ConsoleAudit
from gateway.flow.consoles.console_store import ConsoleStore
from gateway.flow.consoles.console_telemetry import ConsoleTelemetry
from gateway.flow.consoles.recorded_once import RecordedByOne

_COOKIES_MAX: Final = 4
"""Cookies of one request that are looked up in the store."""


class CookieRejection(Enum):
    """Why a request was rejected. The value is the metric label."""

    ORIGIN = "origin"
    """A page of another site or port sent it, or no page at all."""
    COOKIE = "cookie"
    """It does not have the cookie of the session that it names."""
    FIRST_MESSAGE = "first_message"
    """The WebSocket did not begin with the page's first message."""


class RejectedCookies:
    def __init__(
        self, store: ConsoleStore, audit: ConsoleAudit, telemetry: ConsoleTelemetry
    ) -> None:
        self._store = store
        self._audit = audit
        self._telemetry = telemetry
        self._recorded = RecordedByOne(store)

    def count(self, reason: CookieRejection) -> None:
        self._telemetry.request_rejected(reason.value)

    async def record(
        self,
        cookies: Sequence[tuple[str, str]],
        reason: CookieRejection,
        *,
        client_address: str,
        detail: str,
    ) -> None:
        """Record a rejected request once for each session whose genuine cookie it has.

        `cookies` are pairs of session ID and value. While the store is unavailable no cookie is
        known to be genuine.
        """
        for session_id, cookie in cookies[:_COOKIES_MAX]:
            try:
                found = await self._store.find(session_id)
            except StoreUnavailable:
                return
            if found is None or found.session.cookie_hash != secret_hash(cookie):
                continue
            if await self._recorded.claim(f"cookie {session_id} {reason.value}"):
                await self._audit.request_rejected(found.session, client_address, detail)
