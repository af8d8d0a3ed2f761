"""A small HTTP server on 127.0.0.1 for the person's own browser."""

import os
import socket
import struct
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from gateway.commands.exit_codes import REJECTED, CommandFailed

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_POLL_S: Final = 0.05


class LoopbackServer:
    """Listens from the start on; closes with `close` or at the end of a `with` block."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], ports: Sequence[int] = ()) -> None:
        """Listen on the first free one of `ports`, by default on any; raise CommandFailed."""
        # Threads: a browser may open a connection in advance and leave it idle.
        self._server = _listen(handler, ports)
        self.port: int = self._server.server_port
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(_POLL_S,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def is_own_connection(client: tuple[Any, ...], server: tuple[Any, ...]) -> bool:
    """Return whether a process of this user, or of root, opened a connection from 127.0.0.1.

    Another user of the machine can read the address in the arguments of the browser. Only Linux
    shows the users of connections; elsewhere the answer is True.
    """
    rows = [row for table in _TABLES for row in _rows(table)]
    if not rows:
        return True
    ends = (_hexadecimal(client), _hexadecimal(server))
    # The address of an IPv6 socket ends with the IPv4 address.
    found = [row for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]
    # A socket that its process has closed has no inode, and root as its user.
    users = {int(row[7]) if row[9] != "0" else None for row in found}
    return bool(users) and users <= {os.geteuid(), 0}


def _rows(table: str) -> list[list[str]]:
    try:
        lines = Path(table).read_text().splitlines()[1:]
    except OSError:
        return []
    return [fields for line in lines if len(fields := line.split()) > 9]


def _hexadecimal(address: tuple[Any, ...]) -> str:
    """Return an IPv4 address and port as the kernel prints them."""
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: the browser closed its connection."""


def _listen(handler: type[BaseHTTPRequestHandler], ports: Sequence[int]) -> _Server:
    for port in ports or (0,):
        try:
            return _Server(("127.0.0.1", port), handler)
        except OSError:
            continue
    named = ", ".join(map(str, ports)) or "any port"
    message = f"Cannot listen on 127.0.0.1 ({named}). Does another login run?"
    raise CommandFailed(REJECTED, message)
