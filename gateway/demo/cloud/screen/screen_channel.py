"""A byte stream over a WebSocket's binary frames, as RFB needs it."""

import asyncio
import socket
import struct

import aiohttp
from aiohttp import web


class ViewerGone(Exception):
    """The viewer closed its connection, or sent what is not RFB."""


class ScreenChannel:
    def __init__(
        self, socket_: web.WebSocketResponse, request: web.Request, frame_bytes: int
    ) -> None:
        """Send at most `frame_bytes` in one frame."""
        self._socket = socket_
        self._request = request
        self._frame_bytes = frame_bytes
        self._buffer = bytearray()
        self._flows = asyncio.Event()
        self._flows.set()

    async def read(self, count: int) -> bytes:
        """Return exactly `count` bytes. Raise ViewerGone if the connection ends before."""
        while len(self._buffer) < count:
            await self._flows.wait()
            message = await self._socket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise ViewerGone(message.type.name)
            self._buffer += message.data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def skip(self, count: int) -> None:
        while count:
            step = min(count, 65_536)
            await self.read(step)
            count -= step

    async def send(self, data: bytes) -> None:
        """Raise ViewerGone if the connection has ended."""
        try:
            for start in range(0, len(data), self._frame_bytes):
                await self._flows.wait()
                await self._socket.send_bytes(data[start : start + self._frame_bytes])
        except (ConnectionError, RuntimeError) as error:
            raise ViewerGone from error

    async def send_whole(self, data: bytes) -> None:
        """Send one frame, however large."""
        await self._socket.send_bytes(data)

    async def send_text(self, text: str) -> None:
        await self._socket.send_str(text)

    def stall(self) -> None:
        """Neither send nor read any more; the connection stays open."""
        self._flows.clear()

    async def close(self) -> None:
        await self._socket.close()

    def abort(self) -> None:
        """Reset the TCP connection."""
        transport = self._request.transport
        if transport is None:
            return
        tcp = transport.get_extra_info("socket")
        if tcp is not None:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def wait_closed(self) -> None:
        """Read and drop what the viewer sends, until it leaves."""
        while not self._socket.closed:
            message = await self._socket.receive()
            if message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}:
                return
            await asyncio.sleep(0)
