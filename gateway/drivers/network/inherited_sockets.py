"""Listening sockets that systemd keeps open over our restarts (sd_listen_fds(3)).

Who connects while no process is there waits in the socket's queue for the next one.
"""

import os
import socket
from collections.abc import Iterable

Address = tuple[str, int]


def inherited_sockets(descriptors: Iterable[int]) -> dict[Address, socket.socket]:
    """Take them over, by address; our own children are not to have them."""
    passed = {}
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
        one = socket.socket(fileno=descriptor)
        one.setblocking(False)
        host, port = one.getsockname()[:2]
        passed[str(host), int(port)] = one
    return passed
