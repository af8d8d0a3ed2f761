"""An HAProxy (Debian's package) on loopback, in front of the gateway of a test."""

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.stack import TIMEOUT_S, eventually
from tests.support.valkey import free_port

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
NOT_HERE = "Debian's package haproxy is not installed"

_CONFIG = """
defaults
    mode {mode}
    timeout connect 20s
    timeout client 75s
    timeout server 75s

frontend console
    bind 127.0.0.1:{port}
    default_backend gateway

backend gateway
    {options}
    server gateway {server}
"""


class HAProxy:
    def __init__(self, server: str, *, mode: str = "tcp", options: str = "", port: int = 0) -> None:
        """`server` is the address of the gateway with the options of HAProxy's `server` line.

        Listen on `port`, or on a free one for 0.
        """
        assert HAPROXY is not None
        self.port = port or free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="haproxy-test-"))
        config = self._directory / "haproxy.cfg"
        config.write_text(_CONFIG.format(mode=mode, port=self.port, options=options, server=server))
        self._log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(config)], stdout=self._log, stderr=self._log
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_text(self) -> str:
        return (self._directory / "log").read_text()

    def __enter__(self) -> Self:
        eventually(lambda: _is_open(self.port), self.log_text)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
