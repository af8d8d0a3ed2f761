"""The page of one connection: its text frames and its last words."""

import asyncio
from contextlib import suppress
from typing import Final

from gateway.domain.consoles import page_messages
from gateway.domain.consoles.ends import SessionEnd
from gateway.domain.consoles.model import PersonRef
from gateway.domain.consoles.page_messages import ErrorText
from gateway.flow.consoles.frame_channel import FrameChannel

_LAST_FRAME_S: Final = 1.0
"""How long a page that does not read may delay the close."""


class SessionPage:
    def __init__(self, channel: FrameChannel) -> None:
        self.channel = channel

    async def send(self, message: str) -> None:
        await self.channel.send_text(message)

    async def end(
        self,
        end: SessionEnd,
        *,
        by: PersonRef | None = None,
        error: ErrorText | None = None,
        request_id: str = "",
    ) -> None:
        """Say why the connection ends, then close it."""
        assert end.code is not None
        message = page_messages.ended(end, by=by, error=error, request_id=request_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_FRAME_S):
                await self.channel.send_text(message)
        await self.channel.close(end.code, end.name)
