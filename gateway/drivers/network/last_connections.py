"""How a listening socket comes to its end without a reset of who is just connecting.

The kernel completes handshakes before anybody accepts. Whoever is in that queue when the last
copy of the socket is closed has connected, may have sent a request, and is reset. So for a moment
no handshake may begin while the queue is emptied. A client whose SYN is dropped meanwhile sends
it again a second later, and is then refused before it has sent anything.
"""

import ctypes
import socket
import struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26
"""Linux, asm-generic/socket.h; it needs no privilege."""
_FLAGS_AT: Final = 13
"""In the TCP header (RFC 9293, 3.1), which is what the filter of a TCP socket is given."""
_SYN: Final = 0x02
_PROGRAM: Final = (
    (0x30, 0, 0, _FLAGS_AT),  # load that byte
    (0x45, 0, 1, _SYN),  # a handshake begins
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)


def drop_new_handshakes(listening: socket.socket) -> bool:
    """Drop connection attempts to this socket in all processes; False where it cannot be done."""
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in _PROGRAM))
    program = struct.pack("@HP", len(_PROGRAM), ctypes.addressof(code))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True
