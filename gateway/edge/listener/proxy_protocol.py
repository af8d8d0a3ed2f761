"""The PROXY protocol, version 2: a proxy sends the client's address before any other byte.

https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt. The header precedes TLS, so it is
read from the accepted socket before a transport exists. Exactly the bytes of the header are read.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final

from gateway.domain.queue.pacing import Pace, spend, wait_for
from gateway.edge.listener.client_address import UNIX_PEER, TrustedProxies, canonical_address
from gateway.edge.listener.server import ListenerConnection, ListenerServer
from gateway.flow.clock import Clock

log = logging.getLogger("gateway.worker")

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PREFIX_BYTES: Final = 16
_VERSION_AND_LOCAL: Final = 0x20
_VERSION_AND_PROXY: Final = 0x21
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}
"""TCP over IPv4 and over IPv6: the length of an address. There are two, and two ports."""
_WITHOUT_ADDRESS: Final = frozenset({0x00, 0x31})
"""Unspecified, and a Unix stream socket."""
_HEADER_TIMEOUT_S: Final = 5.0
_ACCEPT_RETRY_S: Final = 0.5
_LOG_PACE: Final = Pace(requests=1, per_s=10, burst=3)


class ProxyHeaderError(Exception):
    """Its text is the reason, a label of the metric."""


def header_length(prefix: bytes) -> int:
    """Return the length of the rest of a header; raise ProxyHeaderError."""
    if not prefix.startswith(_SIGNATURE) or prefix[12] not in (
        _VERSION_AND_LOCAL,
        _VERSION_AND_PROXY,
    ):
        raise ProxyHeaderError("malformed")
    return int.from_bytes(prefix[14:16])


def source_address(prefix: bytes, rest: bytes) -> str:
    """Return the canonical address of the client; "" if the proxy speaks for itself.

    Extensions (TLV) after the addresses are ignored. Raises ProxyHeaderError.
    """
    family = prefix[13]
    if prefix[12] == _VERSION_AND_LOCAL or family in _WITHOUT_ADDRESS:
        return ""
    size = _ADDRESS_BYTES.get(family, 0)
    if not size or len(rest) < 2 * size + 4:
        raise ProxyHeaderError("malformed")
    return canonical_address(str(ip_address(rest[:size])))


class ProxyProtocolListener:
    """Accepts connections that begin with a PROXY header, and hands them to the server."""

    def __init__(
        self,
        listening: socket.socket,
        server: ListenerServer,
        trusted: TrustedProxies,
        clock: Clock,
        *,
        count_rejected: Callable[[str], object],
        tls: dict[str, Any],
    ) -> None:
        """`tls`: the options of `connect_accepted_socket` for TLS; empty for plain text."""
        self._listening = listening
        self._server = server
        self._trusted = trusted
        self._clock = clock
        self._count_rejected = count_rejected
        self._tls = tls
        self._accepting: asyncio.Task[None] | None = None
        self._began = asyncio.Event()
        self._is_closed = False
        self._log_tat = 0.0

    async def run(self) -> None:
        """Accept from `begin` until `close`; then wait forever, as a background task must."""
        await self._began.wait()
        async with asyncio.TaskGroup() as group:
            if not self._is_closed:
                self._accepting = group.create_task(self._accept(group), name="accept")
        await asyncio.Event().wait()

    def begin(self) -> None:
        self._began.set()

    def close(self) -> None:
        """Accept no more connections. Those that were accepted are served."""
        self._is_closed = True
        if self._accepting is not None:
            self._accepting.cancel()

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        try:
            while True:
                await self._accept_one(group)
        finally:
            if self._is_closed:
                self._listening.close()

    async def _accept_one(self, group: asyncio.TaskGroup) -> None:
        try:
            accepted, peer = await asyncio.get_running_loop().sock_accept(self._listening)
        except OSError:  # no file descriptor is left, or the client has gone
            await self._clock.sleep(_ACCEPT_RETRY_S)
            return
        address = canonical_address(peer[0]) if isinstance(peer, tuple) else UNIX_PEER
        # Made before the header is read, so that a drain waits for it as for a TLS handshake.
        connection = self._server.make_connection()
        group.create_task(self._begin(accepted, address, connection), name="proxy header")

    async def _begin(
        self, accepted: socket.socket, peer: str, connection: ListenerConnection
    ) -> None:
        try:
            connection.peer = await self._client_address(accepted, peer)
        except ProxyHeaderError as error:
            self._reject(accepted, peer, str(error))
            return
        except OSError:
            accepted.close()
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, **self._tls)
        except OSError:  # the TLS handshake failed
            accepted.close()

    async def _client_address(self, accepted: socket.socket, peer: str) -> str:
        if peer not in self._trusted:
            raise ProxyHeaderError("untrusted")
        try:
            async with asyncio.timeout(_HEADER_TIMEOUT_S):
                prefix = await _receive(accepted, _PREFIX_BYTES)
                rest = await _receive(accepted, header_length(prefix))
        except TimeoutError:
            raise ProxyHeaderError("timeout") from None
        return source_address(prefix, rest) or peer

    def _reject(self, accepted: socket.socket, peer: str, reason: str) -> None:
        accepted.close()
        self._count_rejected(reason)
        now = self._clock.monotonic()
        if wait_for(self._log_tat, now, _LOG_PACE) <= 0:
            self._log_tat = spend(self._log_tat, now, _LOG_PACE)
            log.warning("proxy_header_rejected", extra={"client": peer, "reason": reason})


async def _receive(accepted: socket.socket, size: int) -> bytes:
    """Receive exactly so many bytes; raise ConnectionResetError at the end of the stream."""
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < size:
        chunk = await loop.sock_recv(accepted, size - len(received))
        if not chunk:
            raise ConnectionResetError
        received += chunk
    return received
