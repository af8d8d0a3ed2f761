"""HTTP client of the gateway for the commands that people and scripts run."""

import http.client
import json
import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote

from gateway.commands.client_proxy import proxy_of
from gateway.commands.client_token import ClientToken
from gateway.commands.exit_codes import (
    LATER,
    NOT_AUTHENTICATED,
    NOT_PERMITTED,
    REJECTED,
    UNREACHABLE,
    CommandFailed,
)
from gateway.commands.gateway_address import GatewayAddress
from gateway.commands.terminal import show_progress

_IDS_PER_REQUEST: Final = 100
_READ_GRACE_S: Final = 5
_PART_BYTES: Final = 65_536
_GZIP_FORMAT: Final = 31
"""`wbits` of zlib: the largest window, with the header and trailer of gzip."""
_RETRIED: Final = (429, 503)
_EXIT_CODES: Final = {
    401: NOT_AUTHENTICATED,
    403: NOT_PERMITTED,
    429: LATER,
    503: LATER,
    504: LATER,
}
_INTEGER: Final = re.compile(r"[0-9]{1,9}")
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class GatewayResponse:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    data: dict[str, Any]
    """Empty when the body is not a JSON object, such as the page of a proxy."""


class GatewayClient:
    """Sends requests to one gateway with one token, until a deadline."""

    def __init__(
        self,
        address: GatewayAddress,
        token: ClientToken,
        *,
        tls: ssl.SSLContext | None,
        wait_s: float,
    ) -> None:
        """`tls` is None for an http address; the time `wait_s` begins now."""
        self.address = address
        self._host, self._port, self._prefix = address.host, address.port, address.prefix
        self._tls = tls
        self.token = token
        self._deadline: float = time.monotonic() + wait_s  # noqa: TID251

    def within(self, wait_s: float) -> "GatewayClient":
        """Return a client of the same person with another time limit."""
        return GatewayClient(self.address, self.token, tls=self._tls, wait_s=wait_s)

    def servers(self, project: str) -> Iterator[dict[str, Any]]:
        """Yield each visible server of a project."""
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

    def servers_with_permissions(self, project: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Yield each visible server of a project with the caller's permissions on it."""
        servers = list(self.servers(project))
        for start in range(0, len(servers), _IDS_PER_REQUEST):
            some = servers[start : start + _IDS_PER_REQUEST]
            ids = ",".join(one["id"] for one in some)
            path = f"/v1/{quote(project, safe='')}/permissions?server_id={ids}"
            permissions = {
                require_member(one, "id", str): [
                    str(name) for name in require_member(one, "permissions", list)
                ]
                for one in require_member(self.request(path).data, "servers", list)
            }
            yield from ((one, permissions.get(one["id"], [])) for one in some)

    def request(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        method: str = "GET",
    ) -> GatewayResponse:
        """Send GET or `method`, or POST with a body, and return the successful response.

        Retries as the gateway's Retry-After says, until the deadline; raises CommandFailed.
        """
        while True:
            left_s = self._remaining_s()
            wait = {"Prefer": f"wait={max(1, int(left_s))}"}
            with show_progress("waiting for the gateway"):
                response = self._send(method, path, {**(headers or {}), **wait}, body, left_s)
            is_whole = response.data or response.status == HTTPStatus.NO_CONTENT
            if response.status < 300 and is_whole:
                return response
            delay_s = _retry_after_s(response.headers)
            if response.status not in _RETRIED or not 0 < delay_s < self._remaining_s():
                raise self._rejected(response)
            with show_progress("waiting to retry"):
                time.sleep(delay_s)

    def download(self, path: str, body: Mapping[str, Any], sink: Callable[[bytes], object]) -> None:
        """Send a POST, and pass the response's body to `sink` as it arrives.

        Raises CommandFailed, also for a body that ends too early.
        """
        connection = self._connection(self._remaining_s() + _READ_GRACE_S)
        sent = {**self.token.headers, "Content-Type": "application/json"}
        try:
            connection.request("POST", f"{self._prefix}{path}", json.dumps(body), sent)
            response = connection.getresponse()
            if response.status != 200:
                named = {name.lower(): value for name, value in response.getheaders()}
                data = _json_object(response.read())
                raise self._rejected(GatewayResponse(response.status, named, data))
            while part := response.read(_PART_BYTES):
                sink(part)
        except http.client.IncompleteRead:
            message = "The gateway ended the download: the right to it may have ended."
            raise CommandFailed(REJECTED, message) from None
        except (OSError, http.client.HTTPException) as error:
            message = f"The download failed: {_describe_connection_error(error)}"
            raise CommandFailed(UNREACHABLE, message) from None
        finally:
            connection.close()

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None,
        left_s: float,
    ) -> GatewayResponse:
        connection = self._connection(left_s + _READ_GRACE_S)
        sent = {"Accept-Encoding": "gzip", **headers, **self.token.headers}
        path = f"{self._prefix}{path}"
        try:
            if body is None:
                connection.request(method, path, headers=sent)
            else:
                sent["Content-Type"] = "application/json"
                connection.request("POST", path, json.dumps(body), sent)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            text = _decoded(response.read(), named.get("content-encoding", ""))
            return GatewayResponse(response.status, named, _json_object(text))
        except TimeoutError:
            raise CommandFailed(LATER, "The gateway did not respond in time.") from None
        except (OSError, http.client.HTTPException) as error:
            host = f"[{self._host}]" if ":" in self._host else self._host
            reason = _describe_connection_error(error)
            message = f"The gateway at {host}:{self._port} is unreachable: {reason}"
            raise CommandFailed(UNREACHABLE, message) from None
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is None:  # a loopback address
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        proxy = proxy_of(self._host)
        if proxy is None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout_s, context=self._tls
            )
        connection = http.client.HTTPSConnection(
            proxy.host, proxy.port, timeout=timeout_s, context=self._tls
        )
        connection.set_tunnel(self._host, self._port, headers=proxy.headers)
        return connection

    def _rejected(self, response: GatewayResponse) -> CommandFailed:
        if "error_msg" not in response.data:
            return unexpected_response(response.status)
        message = str(response.data["error_msg"])
        if response.status == 401:
            message += f" {self.token.description}"
        return CommandFailed(
            _EXIT_CODES.get(response.status, REJECTED),
            message,
            error_code=str(response.data.get("error_code", "")),
            request_id=response.headers.get("x-request-id", ""),
            status=response.status,
        )

    def _remaining_s(self) -> float:
        left_s = self._deadline - time.monotonic()  # noqa: TID251
        if left_s <= 0:
            raise CommandFailed(LATER, "The time of --wait has passed.")
        return left_s


def _decoded(body: bytes, coding: str) -> bytes:
    """Return the body without compression: a list of servers is 20 times as long."""
    if coding != "gzip":
        return body
    try:
        return zlib.decompress(body, _GZIP_FORMAT)
    except zlib.error:
        raise unexpected_response() from None


def require_member(data: Any, name: str, kind: type[_Kind]) -> _Kind:
    """Return a member of a JSON object; raise CommandFailed if it is missing."""
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, kind):
        raise unexpected_response()
    return found


def remaining_lifetime_s(response: GatewayResponse) -> int:
    """Return the remaining lifetime of a link; 0 when the response does not say."""
    text = response.headers.get("x-console-expires-in", "")
    return int(text) if _INTEGER.fullmatch(text) else 0


def unexpected_response(status: int = 200) -> CommandFailed:
    code = _EXIT_CODES.get(status, REJECTED)
    action = "Try again later." if code == LATER else "Check --gateway."
    message = f"Unexpected response (HTTP {status}): not a Console Gateway? {action}"
    return CommandFailed(code, message, status=status)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Return Retry-After (RFC 9110, 10.2.3) in seconds; 0 when it is missing or invalid.

    A proxy may send a date, which is relative to the proxy's own `Date`.
    """
    value = headers.get("retry-after", "").strip()
    if _INTEGER.fullmatch(value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        since = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return (until - since).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def _describe_connection_error(error: OSError | http.client.HTTPException) -> str:
    """Return the reason and what to check."""
    match error:
        case ssl.SSLCertVerificationError():
            reason = error.verify_message.rstrip(".")
            return f"its certificate is not trusted: {reason}. Check the host and --ca-file."
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return "the server does not speak TLS. Check the scheme (http?) and the port."
        case ssl.SSLError():
            reason = (error.reason or "no reason given").lower().replace("_", " ")
            return f"TLS failed: {reason}."
        case http.client.RemoteDisconnected():
            return (
                "the server closed the connection without a response. "
                "Check the scheme (https?) and --cert."
            )
        case http.client.HTTPException():
            return "the server does not speak HTTP. Check the scheme (https?) and the port."
        case _:
            reason = error.strerror or type(error).__name__
            return f"{reason}. Check the URL, and that the gateway runs."
