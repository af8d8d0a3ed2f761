"""Port of the connection to the cloud's console."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.domain.model import Secret
from gateway.flow.consoles.frame_channel import FrameChannel

FetchUrl = Callable[[], Awaitable[Secret]]
"""Obtains a fresh console URL of the server. Each call costs one call of the account's budget.

It raises what `Exchange.call` raises; a connector lets these errors pass.
"""


class ConsoleConnector(Protocol):
    async def connect(self, fetch_url: FetchUrl, account: str, *, timeout_s: float) -> FrameChannel:
        """Return a connection to the cloud's console, before any byte of RFB was read from it.

        `fetch_url` is called once, and again for each further shape that is tried, because a URL
        may be good for one use. `timeout_s` bounds each attempt, from the URL to the first message.
        Raises ConsoleUnavailable, whose text contains neither the URL nor its token.
        """
