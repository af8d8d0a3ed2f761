"""A channel in memory, driven by a test (port `FrameChannel`)."""

import asyncio

from gateway.flow.consoles.frame_channel import ChannelClosed

LOST = ChannelClosed(1006)


class MemoryChannel:
    """Receives what the test puts in; takes at most `capacity` messages that no one has read."""

    def __init__(self, *, capacity: int = 1_000_000) -> None:
        self.sent: list[bytes | str] = []
        self.closed: tuple[int, str] | None = None
        self.reads = asyncio.Event()
        """Cleared: the peer does not read, and `send` waits once `capacity` is reached."""
        self.reads.set()
        self._capacity = capacity
        self._incoming: asyncio.Queue[bytes | str | ChannelClosed] = asyncio.Queue()
        self._end: ChannelClosed | None = None

    def put(self, *messages: bytes | str | ChannelClosed) -> None:
        for message in messages:
            self._incoming.put_nowait(message)

    @property
    def waiting(self) -> int:
        return self._incoming.qsize()

    async def receive(self) -> bytes | str | ChannelClosed:
        if self._end is not None:
            return self._end
        message = await self._incoming.get()
        if isinstance(message, ChannelClosed):
            self._end = message
        return message

    async def send(self, data: bytes) -> None:
        if len(self.sent) >= self._capacity:
            await self.reads.wait()
        self.sent.append(data)

    async def send_text(self, text: str) -> None:
        self.sent.append(text)

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
