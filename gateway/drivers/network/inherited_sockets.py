"""Listening sockets that systemd keeps open over a restart of the gateway (sd_listen_fds(3)).

A connection that arrives while no process runs waits in the socket's queue for the next process.
"""

import os
import socket
from collections.abc import Iterable

from gateway.drivers.network.listening_socket import Address


def inherited_sockets(descriptors: Iterable[int]) -> dict[Address, socket.socket]:
    """Return the sockets by address, closed on exec: child programs must not inherit them."""
    inherited = {}
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        listening = socket.socket(fileno=descriptor)
        listening.setblocking(False)
        inherited[_address(listening)] = listening
    return inherited


def _address(listening: socket.socket) -> Address:
    if listening.family == socket.AF_UNIX:
        return str(listening.getsockname()), 0
    host, port = listening.getsockname()[:2]
    return str(host), int(port)
