"""Opens secret addresses in the browser, without a secret in the argument list of a process.

`ps` shows the arguments of the browser to every user of the machine. So the browser gets a loopback
address of this process, which redirects it once.
"""

import hmac
import os
import queue
import secrets
import sys
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler
from typing import Final

from gateway.commands.exit_codes import REJECTED, CommandFailed
from gateway.commands.loopback_server import LoopbackServer, is_own_connection

_WAIT_MAX_S: Final = 60.0
"""A browser that has to start first needs many seconds."""


def has_browser() -> bool:
    """Return whether a browser on this machine can show a page to the person."""
    if os.environ.get("BROWSER"):
        return True  # also over SSH: some editors open it at the person's end
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(map(os.environ.get, screens)):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def open_secretly(url: str, *, expires_in_s: float) -> None:
    """Open `url`, which must be printable ASCII; raise CommandFailed if no browser fetches it.

    Waits at most until `url` expires (0: unknown), and at most a minute. The loopback address ends
    when this returns.
    """
    path = f"/{secrets.token_urlsafe(32)}"
    first = threading.Semaphore(1)
    fetched: queue.Queue[None] = queue.Queue()

    class OneRedirect(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            if (
                not hmac.compare_digest(self.path.encode(), path.encode())
                or not is_own_connection(self.client_address, self.connection.getsockname())
                or not first.acquire(blocking=False)
            ):
                self._answer(404, {})
                return
            try:
                self._answer(302, {"Location": url})
            finally:
                fetched.put(None)  # the command may end right after it

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**_HEADERS, **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay silent: the address is secret."""

    with LoopbackServer(OneRedirect) as server:
        opened = webbrowser.open(f"http://127.0.0.1:{server.port}{path}")
        limit_s = min(expires_in_s or _WAIT_MAX_S, _WAIT_MAX_S) if opened else 0.0
        try:
            fetched.get(timeout=limit_s)
        except queue.Empty:
            message = "No browser has opened the link. Use --print."
            raise CommandFailed(REJECTED, message) from None


_HEADERS: Final = {
    "Content-Length": "0",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Connection": "close",
}
