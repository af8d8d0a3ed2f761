"""Port of the metrics of live consoles."""

from typing import Protocol


class ConsoleTelemetry(Protocol):
    """Label values come from the config, an Enum or the table of ends."""

    def ticket_rejected(self, reason: str) -> None:
        """Count a ticket that opened no session.

        `reason`: garbage, gone, origin, form, request, address, right, person, in_use, limit or
        audit.
        """

    def request_rejected(self, reason: str) -> None:
        """Count a request by a session's cookie. `reason`: origin, cookie, first_message, limit."""

    def session_started(self, account: str, mode: str) -> None: ...
    def session_ended(self, account: str, end: str) -> None: ...
    def session_resumed(self, outcome: str) -> None:
        """`outcome`: ok, stale, gone, unavailable."""
