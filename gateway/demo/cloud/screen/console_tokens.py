"""Tokens of console links: what the simulated cloud issues and its console host accepts."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

from gateway.demo.cloud.clock import monotonic, now

_TOKENS_MAX: Final = 20_000


@dataclass(slots=True)
class IssuedConsoleToken:
    project: str
    server: str
    issued_at: float
    """Seconds since the epoch."""
    ends_at: float
    """On the monotonic clock."""
    uses: int = 0
    """Number of WebSockets that it opened."""


class ConsoleTokens:
    """The cloud documents neither lifetime nor reuse: both are settings (upstream-api.md#1.3)."""

    def __init__(self) -> None:
        self.life_s = 300.0
        self.single_use = False
        """Whether a token opens one WebSocket only."""
        self._issued: dict[str, IssuedConsoleToken] = {}

    def issue(self, project: str, server: str) -> str:
        while len(self._issued) >= _TOKENS_MAX:
            del self._issued[next(iter(self._issued))]
        token = str(uuid.uuid4())
        ends_at = monotonic() + self.life_s
        self._issued[token] = IssuedConsoleToken(project, server, now(), ends_at)
        return token

    def find(self, token: str) -> IssuedConsoleToken | None:
        """Return a token that opens a console now, without using it."""
        issued = self._issued.get(token)
        if issued is None or monotonic() >= issued.ends_at:
            return None
        return None if self.single_use and issued.uses else issued

    def expire(self) -> None:
        """End all tokens; open consoles stay, as in the real cloud."""
        for issued in self._issued.values():
            issued.ends_at = 0.0

    def describe(self) -> list[dict[str, Any]]:
        return [
            {
                "token": token,
                "project": issued.project,
                "server": issued.server,
                "issued_at": issued.issued_at,
                "uses": issued.uses,
            }
            for token, issued in self._issued.items()
        ]
