"""The gateway's own client, for people and for scripts: `gateway console` and `gateway servers`.

It knows the gateway as any client does, by HTTP alone.
"""

import argparse
import base64
import http.client
import json
import os
import re
import shlex
import ssl
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from gateway.domain.model import Secret

_TOKEN_COMMAND_TIMEOUT_S: Final = 30.0
_PROGRESS_INTERVAL_S: Final = 1.0
_IDS_PER_REQUEST: Final = 100
_PORTS: Final = {"http": 80, "https": 443}
OK, REFUSED, _USAGE, LATER, _UNREACHABLE = 0, 1, 2, 5, 6
_RETRIED: Final = (429, 503)
_EXIT: Final = {401: 4, 403: 3, 429: LATER, 503: LATER, 504: LATER}
_HOST: Final = re.compile(r"[^\x00-\x20\x7f]+")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_Kind = TypeVar("_Kind")


class CommandFailed(Exception):
    """What ends a command, with all that is to be told of it."""

    def __init__(self, code: int, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.fields = {"error_code": "", "error_msg": message, **fields}


@dataclass(frozen=True, slots=True)
class GatewayResponse:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    data: dict[str, Any]
    """Empty, as no gateway's is: what came is no JSON object, but perhaps a proxy's page."""


def console(options: argparse.Namespace) -> int:
    return run_command(options, _console)


def servers(options: argparse.Namespace) -> int:
    return run_command(options, _servers)


def run_command(
    options: argparse.Namespace, command: Callable[[argparse.Namespace, "Client"], int]
) -> int:
    """Return the command's exit code, or that of what stopped it, which is told."""
    try:
        return command(options, Client(options))
    except CommandFailed as stopped:
        if options.json:
            print(json.dumps(stopped.fields))
        else:
            ids = [
                f"{name} {value}"
                for name, value in stopped.fields.items()
                if _is_printed_id(name, value)
            ]
            named = f" ({', '.join(ids)})" if ids else ""
            print(f"{printable(str(stopped))}{named}", file=sys.stderr)
        return stopped.code


def _is_printed_id(name: str, value: object) -> bool:
    return name in ("error_code", "request_id") and bool(value)


def _console(options: argparse.Namespace, gateway: "Client") -> int:
    project, _, server = options.server.partition("/")
    if not project or not server:
        raise CommandFailed(_USAGE, "Name the server as PROJECT/SERVER.")
    if not _is_uuid(server):
        server = _find_by_name(gateway, project, server)
    headers = {"Cache-Control": "no-cache"} if options.fresh else {}
    path = f"/v1/{quote(project, safe='')}/physicalservers/{server}/remote-console-address"
    answer = gateway.request(path, headers)
    url, told_s = (
        require_member(answer.data, "url", str),
        answer.headers.get("x-console-expires-in", ""),
    )
    left_s = int(told_s) if _WHOLE.fullmatch(told_s) else 0
    if options.json:
        print(json.dumps({"url": url, "expires_in_s": left_s, "server_id": server}))
    elif options.open or (sys.stdout.isatty() and not options.print):
        # Whoever answers in the gateway's place must not choose a program of this machine's.
        if not url.startswith(("http://", "https://")) or not webbrowser.open(url):
            raise CommandFailed(REFUSED, "The link cannot be opened in a browser; use --print.")
        print(f"Opened; the link is good for {left_s} s.", file=sys.stderr)
    else:
        print(url)
    return OK


def _find_by_name(gateway: "Client", project: str, name: str) -> str:
    ids = [one["id"] for one in gateway.servers(project) if one.get("name") == name]
    if len(ids) == 1:
        return str(ids[0])
    found = f"{len(ids)} servers that you may see are" if ids else "No server that you may see is"
    listed = f": {', '.join(ids)}. Name one by its id." if ids else "."
    raise CommandFailed(_USAGE, f"{found} called {name}{listed}")


def _servers(options: argparse.Namespace, gateway: "Client") -> int:
    projects = options.projects or [
        require_member(one, "id", str)
        for one in require_member(gateway.request("/v3/projects").data, "projects", list)
    ]
    found = [
        {
            "project_id": project,
            **{name: one.get(name) for name in ("id", "name", "power_state", "health_state")},
            "permissions": permissions,
        }
        for project in projects
        for one, permissions in gateway.with_permissions(project)
    ]
    if options.json:
        print(json.dumps({"servers": found}))
    elif not found:
        print("There is no server that you may see.", file=sys.stderr)
    else:
        print_table(
            ("PROJECT", "SERVER", "NAME", "POWER", "HEALTH", "YOU MAY"),
            [(*list(one.values())[:-1], " ".join(one["permissions"])) for one in found],
        )
    return OK


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    shown = [
        ["-" if value in (None, "") else printable(str(value)) for value in row] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    for row in (head, *shown):
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


class Client:
    """The gateway at its address, asked as one person."""

    def __init__(self, options: argparse.Namespace) -> None:
        address = options.gateway or os.environ.get(options.url_variable, "")
        if not address:
            raise usage_error(f"Name the gateway by --gateway or {options.url_variable}.")
        try:
            parts = urlsplit(address)
            self._host, port = parts.hostname or "", parts.port
            self._host.encode("idna")  # as each connection will
        except ValueError:
            message = "The gateway's address is no URL such as https://gateway.example:8443."
            raise usage_error(message) from None
        if parts.scheme not in ("http", "https") or not _HOST.fullmatch(self._host):
            raise usage_error("The gateway's address is no http or https URL with a host.")
        if parts.scheme == "http" and not _is_loopback(self._host):
            raise usage_error("Use https: a token does not travel in clear text.")
        # Always told: http.client looks for one behind the last colon of an IPv6 address.
        self._port = port if port is not None else _PORTS[parts.scheme]
        self._tls = _tls(options) if parts.scheme == "https" else None
        if self._tls is None and (options.ca_file or options.cert or options.key):
            raise usage_error("--ca-file, --cert and --key are for an https URL only.")
        self._token, self._token_from = _token(options)
        self._deadline: float = time.monotonic() + options.wait  # noqa: TID251

    def servers(self, project: str) -> Iterator[dict[str, Any]]:
        marker = ""
        while True:
            path = f"/v1/{quote(project, safe='')}/physicalservers?limit=1000{marker}"
            page = self.request(path).data
            for one in require_member(page, "servers", list):
                require_member(one, "id", str)
                yield one
            info = page.get("page_info")
            following = info.get("next_marker") if isinstance(info, dict) else None
            if not following:
                return
            marker = f"&marker={quote(str(following), safe='')}"

    def with_permissions(self, project: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Yield each server that may be seen, with what may be done there."""
        servers = list(self.servers(project))
        for start in range(0, len(servers), _IDS_PER_REQUEST):
            some = servers[start : start + _IDS_PER_REQUEST]
            ids = ",".join(one["id"] for one in some)
            answer = self.request(f"/v1/{quote(project, safe='')}/permissions?server_id={ids}")
            allowed = {
                require_member(one, "id", str): list(
                    map(str, require_member(one, "permissions", list))
                )
                for one in require_member(answer.data, "servers", list)
            }
            yield from ((one, allowed.get(one["id"], [])) for one in some)

    def request(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
    ) -> GatewayResponse:
        """Return a good answer, asking again as long as there is time and the gateway says so.

        With a body it is a POST.
        """
        while True:
            left_s = self._remaining_s()
            wait = {"Prefer": f"wait={max(1, int(left_s))}"}
            with _progress():
                answer = self._send(path, {**(headers or {}), **wait}, body, left_s)
            if answer.status < 300 and answer.data:
                return answer
            retry_after_s = _retry_after_s(answer.headers)
            if answer.status not in _RETRIED or not 0 < retry_after_s < self._remaining_s():
                raise self._rejected(answer)
            with _progress("told to come again"):
                time.sleep(retry_after_s)

    def _send(
        self,
        path: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None,
        left_s: float,
    ) -> GatewayResponse:
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=left_s + 5)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=left_s + 5, context=self._tls
            )
        try:
            sent = {**headers}
            if self._token is not None:
                sent["Authorization"] = f"Bearer {self._token.reveal()}"
            if body is None:
                connection.request("GET", path, headers=sent)
            else:
                sent["Content-Type"] = "application/json"
                connection.request("POST", path, json.dumps(body), sent)
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return GatewayResponse(answer.status, named, _object(answer.read()))
        except TimeoutError:
            raise CommandFailed(LATER, "The gateway did not answer in time.") from None
        except (OSError, http.client.HTTPException) as error:
            host = f"[{self._host}]" if ":" in self._host else self._host
            reason = _describe_connection_error(error)
            message = f"The gateway at {host}:{self._port} cannot be reached: {reason}"
            raise CommandFailed(_UNREACHABLE, message) from None
        finally:
            connection.close()

    def _rejected(self, answer: GatewayResponse) -> CommandFailed:
        fields = answer.data
        if "error_msg" not in fields:
            return _unexpected_response(answer.status)
        message = str(fields["error_msg"])
        if answer.status == 401:
            ended = "" if self._token is None else _expiry(self._token)
            message += f" The token came from {self._token_from}{ended}."
        return CommandFailed(
            _EXIT.get(answer.status, REFUSED),
            message,
            error_code=str(fields.get("error_code", "")),
            request_id=answer.headers.get("x-request-id", ""),
            status=answer.status,
        )

    def _remaining_s(self) -> float:
        left_s = self._deadline - time.monotonic()  # noqa: TID251
        if left_s <= 0:
            raise CommandFailed(LATER, "The time of --wait is up.")
        return left_s


def _unexpected_response(status: int = 200) -> CommandFailed:
    """Say that somebody else answered, perhaps a proxy, by which it is judged what to do."""
    code = _EXIT.get(status, REFUSED)
    what_to_do = "try again later." if code == LATER else "is the URL right?"
    message = f"That is no answer of a gateway (HTTP {status}); {what_to_do}"
    return CommandFailed(code, message, status=status)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe_connection_error(error: OSError | http.client.HTTPException) -> str:
    """Say why nobody answers as a gateway does, and what to look at."""
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is not trusted, {error.verify_message.rstrip('.')}. "
                "Is the URL's host right, and does --ca-file name who signed it?"
            )
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return "what answers there does not speak TLS. Is it an http URL, or another port?"
        case ssl.SSLError():
            return f"TLS fails, {(error.reason or 'without a word').lower().replace('_', ' ')}."
        case http.client.RemoteDisconnected():
            return (
                "it closed the connection without an answer. "
                "Is it an https URL, and does --cert name a certificate that it takes?"
            )
        case http.client.HTTPException():
            return "what answers there does not speak HTTP. Is it an https URL, or another port?"
        case _:
            reason = error.strerror or type(error).__name__
            return f"{reason}. Is the URL right, and does the gateway run?"


def require_member(data: Any, name: str, kind: type[_Kind]) -> _Kind:
    """Return what an answer holds under `name`; whoever answers without it is no gateway."""
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, kind):
        raise _unexpected_response()
    return found


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Read Retry-After (RFC 9110, 10.2.3): seconds, or a date as a proxy may say it; 0: never."""
    value = headers.get("retry-after", "").strip()
    if _WHOLE.fullmatch(value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        # By the clock of who says it, where it is told.
        since = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return (until - since).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def usage_error(message: str) -> CommandFailed:
    return CommandFailed(_USAGE, message)


def _tls(options: argparse.Namespace) -> ssl.SSLContext:
    if options.key is not None and options.cert is None:
        raise usage_error("--key goes with --cert.")
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except OSError as error:  # ssl's own errors are such
        reason = error.strerror or type(error).__name__
        message = f"--ca-file, --cert or --key cannot be used: {reason}"
        raise usage_error(message) from None
    return context


def _token(options: argparse.Namespace) -> tuple[Secret | None, str]:
    """Return the JWT, if a certificate is not to do, and where it came from, in words."""
    if options.token_file is not None:
        try:
            text, source = options.token_file.read_text(), f"the file {options.token_file}"
        except (OSError, UnicodeDecodeError):
            raise usage_error(f"{options.token_file} cannot be read.") from None
    elif options.token_command is not None:
        text, source = _output_of(options.token_command), "--token-command"
    else:
        text, source = os.environ.get(options.token_env, ""), f"${options.token_env}"
        if not text and options.cert is not None:
            return None, "nowhere, there is only the certificate"
    token = text.strip()
    if not token or any(char.isspace() or not char.isascii() for char in token):
        raise usage_error(f"There is no token in {source}.")
    return Secret(token), source


def _output_of(command: str) -> str:
    try:
        ran = subprocess.run(  # noqa: S603 - the person's own command, without a shell
            shlex.split(command),
            stdout=subprocess.PIPE,
            timeout=_TOKEN_COMMAND_TIMEOUT_S,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        raise usage_error("The --token-command failed.") from None
    return ran.stdout.decode(errors="replace")


def _expiry(token: Secret) -> str:
    """Say when the token ended, if it did, without proving anything."""
    try:
        payload = token.reveal().split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ended = datetime.fromtimestamp(claims["exp"], UTC)
    except (ValueError, LookupError, TypeError, OSError, OverflowError):
        return ""
    return f" and ended {ended:%Y-%m-%d %H:%M:%S} UTC" if ended < datetime.now(UTC) else ""


@contextmanager
def _progress(what: str = "waiting for the gateway") -> Iterator[None]:
    """Show a line that tells how long it takes, after a second, to whoever can see it."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    shower = threading.Thread(target=_show, args=(what, done), daemon=True)
    shower.start()
    try:
        yield
    finally:
        done.set()
        shower.join()


def _show(what: str, done: threading.Event) -> None:
    seconds = 0
    while not done.wait(_PROGRESS_INTERVAL_S):
        seconds += 1
        place = " and a place in the cloud's budget" if seconds > 1 else ""
        print(f"\r{what}{place} … {seconds} s\x1b[K", end="", file=sys.stderr, flush=True)
    if seconds:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Make text of others fit for a terminal, which obeys control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _is_uuid(text: str) -> bool:
    parts: Sequence[str] = text.lower().split("-")
    lengths = [len(part) for part in parts]
    return lengths == [8, 4, 4, 4, 12] and all(
        char in "0123456789abcdef" for part in parts for char in part
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
