"""Drops a connection at once, with all that its peer has not received."""

import asyncio
import socket
import struct
from typing import Any, Final

_NO_LINGER: Final = struct.pack("ii", 1, 0)


def drop_connection(transport: asyncio.WriteTransport) -> None:
    """Reset the connection: the kernel, too, forgets the bytes that wait for a peer.

    After a close it would go on to deliver up to some MiB to a peer that reads them later.
    """
    peer: Any = transport.get_extra_info("socket")
    if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
