"""A WebSocket of aiohttp as a channel of the relay (port `FrameChannel`), of either side."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import ClientWebSocketResponse, ClientWSTimeout, WebSocketError, WSMsgType, web
from aiohttp.http_websocket import WSCloseCode

from gateway.drivers.network.drop_connection import drop_connection
from gateway.flow.consoles.frame_channel import (
    BROWSER_FRAME_MAX,
    CLOUD_FRAME_MAX,
    HEARTBEAT_S,
    ChannelClosed,
)

_LOST: Final = WSCloseCode.ABNORMAL_CLOSURE
_UNSENT_MAX: Final = 2 * 1024 * 1024
"""Bytes that the kernel may hold back for a peer before it counts as not ready for more.

Without this bound the kernel takes up to 4 MiB for a browser that does not read, and a ping would
wait behind them. A smaller one costs throughput: 512 KiB a fourth of it with frames of 16 KiB.
"""
_CLOSE_S: Final = 1.0
"""How long a close frame may wait for the browser's answer."""
_CLOUD_CLOSE_S: Final = 0.25
"""As above for the cloud, whose answer changes nothing for the session."""


def browser_websocket(*protocols: str) -> web.WebSocketResponse:
    """Return a WebSocket for a browser, not yet prepared."""
    return web.WebSocketResponse(
        protocols=protocols, heartbeat=HEARTBEAT_S, compress=False, max_msg_size=BROWSER_FRAME_MAX
    )


async def accept_browser(
    request: web.BaseRequest, protocol: str, headers: Mapping[str, str]
) -> tuple[web.WebSocketResponse, "WebSocketChannel"]:
    """Upgrade a browser's request; return the open WebSocket and its channel.

    Raises web.HTTPException for a malformed upgrade.
    """
    websocket = browser_websocket(protocol)
    websocket.headers.update(headers)
    await websocket.prepare(request)
    return websocket, WebSocketChannel(websocket)


def cloud_websocket_options() -> dict[str, Any]:
    """Return the options of `ClientSession.ws_connect` for a console of the cloud."""
    return {
        "heartbeat": HEARTBEAT_S,
        "compress": 0,
        "max_msg_size": CLOUD_FRAME_MAX,
        "timeout": ClientWSTimeout(ws_close=_CLOUD_CLOSE_S),
    }


class WebSocketChannel:
    """An open WebSocket; implements the port `FrameChannel`."""

    def __init__(
        self, websocket: web.WebSocketResponse | ClientWebSocketResponse, *, first: bytes = b""
    ) -> None:
        """`first`: a message that was received before; b"" for none."""
        self._first = first
        self._websocket = websocket
        self._close_s = _CLOSE_S if isinstance(websocket, web.WebSocketResponse) else _CLOUD_CLOSE_S
        self._closed: ChannelClosed | None = None
        _bound_unsent(websocket.get_extra_info("socket"))

    async def receive(self) -> bytes | str | ChannelClosed:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._closed is not None:
            return self._closed
        message = await self._websocket.receive()
        if message.type is WSMsgType.BINARY or message.type is WSMsgType.TEXT:
            data: bytes | str = message.data
            return data
        self._closed = self._closed_by(message.type, message.data, message.extra)
        return self._closed

    async def send(self, data: bytes) -> None:
        try:  # contextlib.suppress costs more than a frame's filter
            await self._websocket.send_bytes(data)
        except ConnectionError:
            return

    async def send_text(self, text: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self._websocket.send_str(text)

    async def close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(self._close_s):
                await self._websocket.close(code=code, message=reason.encode())
        except (TimeoutError, ConnectionError):
            if (transport := self._transport) is not None:
                transport.abort()
        except asyncio.CancelledError:
            if (transport := self._transport) is not None:
                drop_connection(transport)
            raise

    def _closed_by(self, kind: WSMsgType, data: object, extra: object) -> ChannelClosed:
        if kind is WSMsgType.ERROR and isinstance(data, WebSocketError):
            if data.code == WSCloseCode.MESSAGE_TOO_BIG:
                return ChannelClosed(data.code, violation="a WebSocket message is too long")
            return ChannelClosed(data.code, violation="the WebSocket protocol was violated")
        reason = extra if kind is WSMsgType.CLOSE and isinstance(extra, str) else ""
        return ChannelClosed(self._websocket.close_code or _LOST, reason)

    @property
    def _transport(self) -> asyncio.WriteTransport | None:
        """Return the connection, to abort it; aiohttp only closes gracefully."""
        writer = self._websocket._writer  # noqa: SLF001 - has the transport of both kinds
        return None if writer is None else writer.transport


def _bound_unsent(peer: Any) -> None:
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if peer is not None and option is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
        peer.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_MAX)
