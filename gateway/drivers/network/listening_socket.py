"""Binding of listening sockets: TCP ports and Unix sockets."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

Address = tuple[str, int]
"""Host and port; or the path of a Unix socket, which begins with a slash, and 0."""

_BACKLOG: Final = 1024


def is_unix(address: Address) -> bool:
    return address[0].startswith("/")


def bind(address: Address, *, unix_mode: int) -> socket.socket:
    """Return a listening socket; port 0 or less means any free port. Raises OSError."""
    bound = _bind_unix(address[0], unix_mode) if is_unix(address) else _bind_tcp(*address)
    bound.listen(_BACKLOG)
    bound.setblocking(False)
    return bound


def file_number(path: str) -> int:
    """Return the inode of a socket file; 0 if there is none."""
    try:
        return Path(path).lstat().st_ino
    except OSError:
        return 0


def remove_file(path: str, number: int) -> None:
    """Remove a socket file, so that no client connects; not one that another process made."""
    if number and file_number(path) == number:
        Path(path).unlink(missing_ok=True)


def _bind_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, max(port, 0)))
    return bound


def _bind_unix(path: str, mode: int) -> socket.socket:
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)  # other users must not connect before the mode is set
    try:
        bound.bind(path)
    finally:
        os.umask(previous)
    Path(path).chmod(mode)
    return bound


def _remove_stale(path: str) -> None:
    """Remove a socket file on which no process listens; raise OSError for any other file."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "is another file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:  # its queue is full
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE).lower())
