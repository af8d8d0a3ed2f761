"""HTTP itself through real processes, on both listeners: framing, targets, versions, errors."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

import pytest

from tests.support.stack import TIMEOUT_S, Stack, console_path, eventually, fetch, send_raw

HIT_PATH = "gateway_hit_path_requests_total"
DOCS = "GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["public", "admin"])
def listener(request: pytest.FixtureRequest, stack: Stack) -> str:
    return stack.gateway.url if request.param == "public" else stack.gateway.admin


@pytest.fixture
def bearer(stack: Stack) -> str:
    return f"Authorization: Bearer {stack.cloud.token()}\r\n"


def show_path(stack: Stack) -> str:
    return f"/v1/{stack.cloud.project}/physicalservers/{stack.cloud.servers[0]}"


def parse(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers by lower-case name, and what follows the head."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in fields}, rest


INVALID_HEADS = [
    (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", 400, "CGW.4000"),
    (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 400, "CGW.4000"),
    (b"GET / HTTP/1.1\r\nHost: x@evil.invalid\r\n\r\n", 400, "CGW.4000"),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "CGW.4000"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "CGW.4000"),
    (b"GET http://evil.invalid/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "CGW.4000"),
    (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "CGW.4000"),
    (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 400, "CGW.4000"),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "CGW.5050"),
    (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 505, "CGW.5050"),
    (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, "CGW.5050"),
    (b"GET /\r\n\r\n", 505, "CGW.5050"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "CGW.4000"),
    (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 413, "CGW.4130"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 66_000 + b"\r\n\r\n", 413, "CGW.4130"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 128 + b"\r\n", 431, "CGW.4310"),
]


@pytest.mark.parametrize(("raw", "status", "code"), INVALID_HEADS)
def test_invalid_head_is_answered_in_the_error_schema(
    listener: str, raw: bytes, status: int, code: str
) -> None:
    received = send_raw(listener, raw)
    assert not received.startswith((b"HTTP/2", b"HTTP/0"))
    found, headers, body = parse(received)
    assert (found, json.loads(body)["error_code"]) == (status, code)
    assert set(json.loads(body)) == {"error_code", "error_msg"}
    assert headers["server"] == "console-gateway"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["x-request-id"]


def until_served_from_its_bytes(stack: Stack, connection: "Connection", hit: str) -> None:
    """Repeat a request; aiohttp may serve the first ones, while it is not at rest."""

    def is_served() -> bool:
        before = stack.gateway.metric(HIT_PATH)
        connection.send(hit)
        assert connection.response().status == 200
        return stack.gateway.metric(HIT_PATH) > before

    eventually(is_served)


def test_invalid_head_after_cache_hits_is_answered_alike(stack: Stack, bearer: str) -> None:
    """On a connection whose last requests were not parsed, because their bytes were known."""
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    hit = f"GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n"
    for raw, status, code in INVALID_HEADS:
        with Connection(stack.gateway.url) as connection:
            until_served_from_its_bytes(stack, connection, hit)
            connection.send(raw.decode())
            response = http.client.HTTPResponse(connection.socket)
            response.begin()
            assert (response.status, json.loads(response.read())["error_code"]) == (status, code)
            assert connection.is_closed


def test_cache_hits_in_pieces_or_together_are_answered_in_order(stack: Stack, bearer: str) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    hit = f"GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n"
    forbidden = hit.replace(stack.cloud.servers[0], stack.cloud.servers[-1])
    with Connection(stack.gateway.url) as connection:
        for _ in range(4):
            connection.send(hit)
            assert connection.response().status == 200
        for cut in (1, 30, len(hit) - 2):
            connection.send(hit[:cut])
            time.sleep(0.02)
            connection.send(hit[cut:])
            assert connection.response().status == 200
        connection.send(hit + forbidden + hit)
        received = b""
        while received.count(b"HTTP/1.1 ") < 3 or not received.endswith(b"}"):
            received += connection.socket.recv(65_536)
        statuses = [int(one[:3]) for one in received.split(b"HTTP/1.1 ")[1:]]
        assert statuses == [200, 403, 200]
    assert not stack.gateway.log_lines("request_failed")


def test_rejected_head_is_logged_with_the_client_and_without_its_text(stack: Stack) -> None:
    for base in (stack.gateway.url, stack.gateway.admin):
        send_raw(base, b"GET / HTTP/1.1\r\nAuthorization: Bearer canary-7\r\nHost x\r\n\r\n")
        received = send_raw(base, b"GET / HTTP/1.1\r\nHost: canary-7@x\r\n\r\n")
        request_id = parse(received)[1]["x-request-id"]
        assert b"canary-7" not in received
        log = stack.gateway.log_text()
        assert "canary-7" not in log
        lines = stack.gateway.log_lines("request") + stack.gateway.log_lines("admin_request")
        (line,) = [line for line in lines if line["request_id"] == request_id]
        assert line.get("client", line.get("client_address")) == "127.0.0.1"
        assert (line["status"], line["error_code"]) == (400, "CGW.4000")


def test_limits_are_the_same_on_both_listeners(listener: str, stack: Stack) -> None:
    path = "/docs" if listener == stack.gateway.url else "/healthz"
    long = {"Authorization": f"Bearer {'s' * 60_000}"}
    assert fetch(listener, "GET", path, long).status == 200
    many = {f"X-{i}": "1" for i in range(120)}
    assert fetch(listener, "GET", path, many).status == 200


def test_unknown_expectation_is_ignored(listener: str, stack: Stack) -> None:
    path = "/docs" if listener == stack.gateway.url else "/healthz"
    assert fetch(listener, "GET", path, {"Expect": "something"}).status == 200


def test_absolute_target_is_served_like_its_path(stack: Stack, bearer: str) -> None:
    def status(method: str, path: str, fields: str = "") -> int:
        head = f"{method} http://gateway.example{path} HTTP/1.1\r\nHost: gateway.example\r\n"
        return parse(
            send_raw(stack.gateway.url, f"{head}{fields}Connection: close\r\n\r\n".encode())
        )[0]

    console = console_path(stack.cloud.project, stack.cloud.servers[0])
    assert status("GET", "/docs") == 200
    assert status("GET", console, bearer) == 200
    assert status("OPTIONS", console, bearer) == 405
    assert status("GET", show_path(stack) + "?", bearer) == 200


def test_empty_body_is_no_body(stack: Stack, bearer: str) -> None:
    """Proxies that speak HTTP/2 to their clients send a read's absent body as an empty one."""
    for method in ("HEAD", "GET"):
        head = f"{method} {show_path(stack)} HTTP/1.1\r\nHost: x\r\n{bearer}Connection: close\r\n"
        empty = f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert parse(send_raw(stack.gateway.url, empty.encode()))[0] == 200
        full = f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        assert parse(send_raw(stack.gateway.url, full.encode()))[0] == 400
        broken = f"{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"
        assert parse(send_raw(stack.gateway.url, broken.encode()))[0] == 400
    console = console_path(stack.cloud.project, stack.cloud.servers[0])
    raw = f"GET {console} HTTP/1.1\r\nHost: x\r\n{bearer}Connection: close\r\n"
    assert b'"url"' in send_raw(
        stack.gateway.url, f"{raw}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
    )
    assert not stack.gateway.log_lines("request_failed")


@pytest.mark.parametrize("query", ["?", "?&", "?manage_state=in-use&", "?&&limit=10&&marker=&"])
def test_empty_parts_of_a_query_are_ignored(stack: Stack, query: str) -> None:
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    path = f"/v1/{stack.cloud.project}/physicalservers{query}"
    assert fetch(stack.gateway.url, "GET", path, headers).status == 200


class Connection:
    """One connection to a listener, for several requests."""

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def response(self) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        response.read()
        return response

    @property
    def is_closed(self) -> bool:
        return self.socket.recv(1) == b""


@pytest.fixture
def connection(stack: Stack) -> Iterator[Connection]:
    with Connection(stack.gateway.url) as connection:
        yield connection


def power_head(stack: Stack, fields: str, version: str = "1.1") -> str:
    path = f"/v1/{stack.cloud.project}/physicalservers/power-state"
    return f"PUT {path} HTTP/{version}\r\nHost: x\r\n{fields}\r\n"


def test_final_response_to_an_open_expectation_closes(stack: Stack, connection: Connection) -> None:
    """The next bytes are the body, or a request: the gateway cannot know, so it reads neither."""
    fields = f"Authorization: Bearer x\r\nExpect: 100-continue\r\nContent-Length: {len(DOCS)}\r\n"
    connection.send(power_head(stack, fields))
    response = connection.response()
    assert (response.status, response.getheader("Connection")) == (401, "close")
    connection.send(DOCS)
    assert connection.is_closed


def test_met_expectation_keeps_the_connection(
    stack: Stack, connection: Connection, bearer: str
) -> None:
    fields = f"{bearer}Expect: 100-continue\r\nContent-Length: 2\r\n"
    connection.send(power_head(stack, fields) + "{}")
    response = connection.response()  # http.client skips the 100
    assert (response.status, response.getheader("Connection")) == (403, None)
    connection.send(DOCS)
    assert connection.response().status == 200


def test_body_that_never_ends_is_answered_by_the_deadline(
    stack: Stack, connection: Connection, bearer: str
) -> None:
    connection.send(power_head(stack, f"{bearer}Prefer: wait=1\r\nContent-Length: 10\r\n") + "{")
    assert connection.response().status == 504


def test_http_1_0_gets_no_100_continue(stack: Stack, bearer: str) -> None:
    fields = f"{bearer}Expect: 100-continue\r\nContent-Length: 2\r\n"
    raw = power_head(stack, fields, "1.0") + "{}"
    assert send_raw(stack.gateway.url, raw.encode()).startswith(b"HTTP/1.0 403 ")


def test_http_1_0_with_transfer_encoding_closes(connection: Connection) -> None:
    """What follows such a message on the connection is not read as a request."""
    head = "GET /docs HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n"
    connection.send(f"{head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + DOCS)
    response = connection.response()
    assert response.status == 200
    assert response.getheader("Connection") in (None, "close")
    assert connection.is_closed


def test_idle_connection_outlives_the_idle_time_of_a_proxy(stack: Stack) -> None:
    """The default is above an hour; here it is three seconds, to see that the key counts."""
    gateway = stack.replica(start=False)
    gateway.config["listen"]["idle_timeout_s"] = 3.0
    gateway.write_config()
    gateway.start()
    request = "GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"
    with Connection(gateway.url) as short, Connection(stack.gateway.url) as long:
        for one in (short, long):
            one.send(request)
            assert one.response().status == 200
        assert short.is_closed
        long.send(request)
        assert long.response().status == 200


@pytest.mark.parametrize("proxies", ["127.0.0.0/8", "::ffff:127.0.0.0/104"])
def test_address_has_one_spelling_on_a_listener_for_ipv6_and_ipv4(
    stack: Stack, proxies: str
) -> None:
    """Linux reports an IPv4 client of such a listener as an IPv4-mapped IPv6 address."""
    gateway = stack.replica(
        start=False, admin_api={"audience": "admin", "groups": ["admins"], "allow_plaintext": True}
    )
    gateway.config["listen"] |= {"host": "::", "trusted_proxies": [proxies]}
    gateway.config["admin"]["host"] = "::"
    gateway.write_config()
    gateway.start()
    token = stack.cloud.token()
    forwarded = gateway.console(token, X_Forwarded_For="::ffff:198.51.100.7")
    direct = gateway.console(token)
    unauthenticated = fetch(gateway.admin, "GET", "/admin/overrides")
    assert (forwarded.status, direct.status, unauthenticated.status) == (200, 200, 401)

    clients = {line["request_id"]: line["client"] for line in gateway.log_lines("request")}
    records = {
        one["request_id"]: one["client_address"] for one in gateway.audit("console_link_issued")
    }
    for found in (clients, records):
        assert found[forwarded.headers["x-request-id"]] == "198.51.100.7"
        assert found[direct.headers["x-request-id"]] == "127.0.0.1"
    (line,) = gateway.log_lines("admin_request")
    assert line["client_address"] == "127.0.0.1"


@pytest.mark.parametrize("form", ["{jwt}", "Basic b2xnYTpzZWNyZXQ=", "JWT {jwt}", "Token {jwt}"])
def test_other_form_of_credential_names_expected_form(stack: Stack, form: str) -> None:
    """Not `invalid_token`: the token may be good (RFC 6750, 3.1)."""
    headers = {"Authorization": form.format(jwt=stack.cloud.token())}
    response = fetch(stack.gateway.url, "GET", show_path(stack), headers)
    assert (response.status, response.error_code) == (401, "CGW.4010")
    assert response.headers["www-authenticate"] == 'Bearer realm="console-gateway"'
    assert "`Bearer JWT`" in response.json["error_msg"]
    assert "identity provider" not in response.json["error_msg"]
