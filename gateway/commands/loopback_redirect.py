"""The loopback address to which the provider sends the browser back (RFC 8252, 7.3)."""

import hmac
import queue
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from gateway.commands.exit_codes import REJECTED, CommandFailed

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
                # Anyone may send answers without the state, so those end nothing.
                if answer is None or not first.acquire(blocking=False):
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
                """Print nothing: the address contains the code."""

        # Threads: a browser may open a connection in advance and send nothing on it.
        self._server = _listen(Handler, ports)
        self.uri = f"http://{host}:{self._server.server_port}{PATH}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def wait(self, timeout_s: float) -> Mapping[str, str] | None:
        """Return the parameters of the answer; None when the time has passed."""
        try:
            return self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: the browser closed its connection."""


def _listen(handler: type[BaseHTTPRequestHandler], ports: Sequence[int]) -> _Server:
    for port in ports or (0,):
        try:
            return _Server(("127.0.0.1", port), handler)
        except OSError:
            continue
    named = ", ".join(map(str, ports)) or "any port"
    message = f"Cannot listen on 127.0.0.1 ({named}). Does another login run?"
    raise CommandFailed(REJECTED, message)


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
