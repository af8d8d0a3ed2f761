"""The loopback address to which the provider sends the browser back (RFC 8252, 7.3)."""

import hmac
import queue
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from gateway.commands.loopback_server import LoopbackServer, is_own_connection

PATH: Final = "/callback"
_TARGET_CHARS_MAX: Final = 16_384
_DONE: Final = "You can close this window. The terminal says whether the login is complete."
_FAILED: Final = "The login failed. The terminal says why."
_FOREIGN: Final = "This address belongs to no login that is in progress."


class LoopbackRedirect:
    """Listens on 127.0.0.1 until one answer with the right state has come."""

    def __init__(self, state: str, *, host: str, ports: Sequence[int]) -> None:
        """Listen at once: the browser is opened after that. No `ports`: any free one."""
        answers: queue.Queue[Mapping[str, str]] = queue.Queue()
        first = threading.Semaphore(1)
        self._answers = answers

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                answer = _answer(self.path, state)
                ours = is_own_connection(self.client_address, self.connection.getsockname())
                # Anyone may send answers without the state, so those end nothing. Another user of
                # the machine sees the state in the arguments of the browser.
                if answer is None or not ours or not first.acquire(blocking=False):
                    self._show(400, _FOREIGN)
                    return
                try:
                    self._show(200, _DONE if "code" in answer else _FAILED)
                finally:
                    answers.put(answer)  # the command may end right after it

            def _show(self, status: int, text: str) -> None:
                body = _PAGE.format(text=text).encode()
                self.send_response(status)
                for name, value in _HEADERS.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Stay silent: the address contains the code."""

        self._server = LoopbackServer(Handler, ports)
        self.port = self._server.port
        self.uri = f"http://{host}:{self.port}{PATH}"

    def wait(self, timeout_s: float) -> Mapping[str, str] | None:
        """Return the parameters of the answer; None when the time has passed."""
        try:
            return self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._server.close()


def _answer(target: str, state: str) -> Mapping[str, str] | None:
    """Return the parameters of an answer with the right state."""
    parts = urlsplit(target[:_TARGET_CHARS_MAX])
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    values = dict(pairs)
    sent = values.get("state", "").encode()
    is_whole = parts.path == PATH and len(values) == len(pairs)
    return values if is_whole and hmac.compare_digest(sent, state.encode()) else None


_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Connection": "close",
}
_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Console Gateway</title>'
    "<main><h1>Console Gateway</h1><p>{text}</p></main></html>"
)
