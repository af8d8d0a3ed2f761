"""Closing a listening socket without resetting connections that are in its accept queue.

The kernel completes handshakes before the process accepts them. When the last copy of the socket
is closed, the kernel resets every connection in the queue. The process therefore drops new
handshakes first, then accepts what is in the queue, then closes the socket. A client whose SYN was
dropped sends it again after a second and is refused before it has sent a request.
"""

import ctypes
import socket
import struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26
"""Linux, asm-generic/socket.h; requires no privilege."""
_FLAGS_OFFSET: Final = 13
"""In the TCP header (RFC 9293, 3.1), where the filter of a TCP socket starts."""
_SYN: Final = 0x02
_PROGRAM: Final = (
    (0x30, 0, 0, _FLAGS_OFFSET),  # load the flags
    (0x45, 0, 1, _SYN),  # if SYN is set
    (0x06, 0, 0, 0),  # drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else pass it
)


def drop_new_handshakes(listening: socket.socket) -> bool:
    """Drop SYNs to this socket in all processes. Return False if the system cannot."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in _PROGRAM))
    program = struct.pack("@HP", len(_PROGRAM), ctypes.addressof(code))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True
