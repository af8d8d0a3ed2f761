"""Invalid requests get a clear error and do not affect other callers."""

from typing import Any

import pytest

from tests.support.stack import Stack, console_path, fetch, send_raw


@pytest.fixture(autouse=True)
def other_callers_are_served(stack: Stack) -> Any:
    yield
    response = stack.gateway.console(stack.cloud.token())
    assert response.status == 200, response.body


def test_valid_request_returns_link(stack: Stack) -> None:
    response = stack.gateway.console(stack.cloud.token(), X_Request_Id="my-request-1")
    assert response.status == 200
    assert response.json["url"].startswith("https://cn-east-3-console.huaweicloud.com")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-request-id"] == "my-request-1"
    assert 30 <= int(response.headers["x-console-expires-in"]) <= 300


def test_token_is_accepted_in_x_auth_token(stack: Stack) -> None:
    assert stack.gateway.console(None, X_Auth_Token=stack.cloud.token()).status == 200


def test_missing_token_returns_challenge_only(stack: Stack) -> None:
    response = stack.gateway.console(None)
    assert (response.status, response.error_code) == (401, "CGW.4010")
    assert response.headers["www-authenticate"] == 'Bearer realm="console-gateway"'
    assert "/docs" in fetch(stack.gateway.url, "GET", "/").json["error_msg"]


def test_unknown_path_refers_to_documentation(stack: Stack) -> None:
    sent = {"Authorization": f"Bearer {stack.cloud.token()}"}
    for path in ("/", "/v1/p/nothing", "/v3/nothing"):
        response = fetch(stack.gateway.url, "GET", path, sent)
        assert (response.status, response.error_code) == (404, "CGW.4040")
        assert "/docs" in response.json["error_msg"]
    assert fetch(stack.gateway.url, "GET", "/docs").status == 200


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", b"Unknown HTTP method. /docs lists the methods"),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"duplicate headers, or use an HTTP client"),
    ],
)
def test_invalid_http_explains_what_to_send(stack: Stack, raw: bytes, expected: bytes) -> None:
    assert expected in send_raw(stack.gateway.url, raw)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"life_s": -120}, "expired; get a new one"),
        ({"claims": {"iss": "https://elsewhere.example"}}, "the token was rejected"),
        ({"claims": {"aud": "other"}}, "audience; get one"),
        ({"claims": {"nbf": 4_000_000_000}}, "not valid yet; send it after"),
        ({"headers": {"kid": "unknown"}}, "the token was rejected"),
        ({"headers": {"typ": "logout+jwt"}}, "not an access token; send the access token"),
        ({"subject": None}, "lacks a required claim; report"),
        ({"claims": {"sub": ""}}, "lacks a required claim"),
        ({"claims": {"iat": 1}}, "too long ago; get a new one"),
    ],
)
def test_rejected_token_is_explained(stack: Stack, changes: dict[str, Any], expected: str) -> None:
    subject = changes.pop("subject", "olga")
    response = stack.gateway.console(stack.cloud.token(subject, **changes))
    assert (response.status, response.error_code) == (401, "CGW.4010")
    challenge = response.headers["www-authenticate"]
    assert 'error="invalid_token"' in challenge
    assert expected in challenge


@pytest.mark.parametrize("garbage", ["x", "a.b.c", "....", "e30.e30.", "é", "a" * 20_000])
def test_garbage_token_is_rejected(stack: Stack, garbage: str) -> None:
    response = stack.gateway.console(garbage.encode().decode("latin-1"))
    assert (response.status, response.error_code) == (401, "CGW.4010")


def test_differing_tokens_are_rejected(stack: Stack) -> None:
    one, two = stack.cloud.token(), stack.cloud.token("otto")
    assert stack.gateway.console(one, X_Auth_Token=two).status == 401
    assert stack.gateway.console(one, X_Auth_Token=one).status == 200


def test_duplicate_header_is_rejected(stack: Stack) -> None:
    token = stack.cloud.token()
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    line = f"Authorization: Bearer {token}\r\n"
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{line}{line}\r\n"
    assert send_raw(stack.gateway.url, raw.encode()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("server", "status"),
    [
        ("not-a-uuid", 400),
        ("%2e%2e%2f%2e%2e", 400),
        ("..", 400),
        ("a%00b", 400),
        ("a" * 6_000, 400),
        ("11111111-2222-4333-8444-555555555555/..", 404),
        ("11111111-2222-4333-8444-555555555555%2f..", 400),
    ],
)
def test_invalid_server_id_is_rejected(stack: Stack, server: str, status: int) -> None:
    response = stack.gateway.console(stack.cloud.token(), server)
    assert response.status == status
    assert response.error_code in ("CGW.4000", "CGW.4040")


def test_long_path_is_rejected_in_error_schema(stack: Stack) -> None:
    response = stack.gateway.console(stack.cloud.token(), "a" * 10_000)
    assert (response.status, response.error_code) == (413, "CGW.4130")


def test_literal_project_id_is_explained(stack: Stack) -> None:
    path = console_path("{project_id}", stack.cloud.servers[0])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    response = fetch(stack.gateway.url, "GET", path, headers)
    assert (response.status, response.error_code) == (400, "CGW.4000")
    assert "{project_id}" in response.json["error_msg"]


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/v1/x", "/favicon.ico"])
def test_public_listener_exposes_no_admin_paths(stack: Stack, path: str) -> None:
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    response = fetch(stack.gateway.url, "GET", path, headers)
    assert (response.status, response.error_code) == (404, "CGW.4040")
    assert fetch(stack.gateway.url, "GET", path).status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_method_names_allowed_methods(stack: Stack, method: str) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    response = fetch(stack.gateway.url, method, path, headers)
    assert (response.status, response.error_code) == (405, "CGW.4050")
    assert response.headers["allow"] == "GET"


def test_head_is_rejected_and_opens_no_console(stack: Stack) -> None:
    before = stack.cloud.consoles()
    path = console_path(stack.cloud.project, stack.cloud.servers[3])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    assert fetch(stack.gateway.url, "HEAD", path, headers).status == 405
    assert stack.cloud.consoles() == before


def test_get_with_body_is_rejected(stack: Stack) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    response = fetch(stack.gateway.url, "GET", path, headers, body="{}")
    assert (response.status, response.error_code) == (400, "CGW.4000")


def test_headers_are_limited_to_64_kib(stack: Stack) -> None:
    token = stack.cloud.token()
    assert stack.gateway.console(token, X_Filler="x" * 60_000).status == 200
    response = stack.gateway.console(token, X_Filler="x" * 70_000)
    assert (response.status, response.error_code) == (413, "CGW.4130")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    ],
)
def test_garbage_bytes_get_error_schema_without_traceback(stack: Stack, raw: bytes) -> None:
    reply = send_raw(stack.gateway.url, raw)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.")
    assert b" 400 " in head.split(b"\r\n")[0] + b" "
    assert b'"error_code":"CGW.4000"' in body
    assert b"Traceback" not in body


@pytest.mark.parametrize("who", ["viewer", "outsider", "unknown project", "unknown server"])
def test_forbidden_and_unknown_servers_look_the_same(stack: Stack, who: str) -> None:
    cloud = stack.cloud
    project, server, token = cloud.project, cloud.servers[0], cloud.token()
    match who:
        case "viewer":
            token = cloud.token("victor", groups=["viewers"])
        case "outsider":
            token = cloud.token("otto", groups=[])
        case "unknown project":
            project = "ffffffffffffffffffffffffffffffff"
        case _:
            server = "00000000-0000-4000-8000-000000000000"
    headers = {"Authorization": f"Bearer {token}"}
    response = fetch(stack.gateway.url, "GET", console_path(project, server), headers)
    denied = stack.gateway.console(cloud.token(), cloud.servers[-1])
    assert (response.status, response.body) == (denied.status, denied.body)
    assert response.status == 403
    assert {*response.headers} == {*denied.headers}


def test_rewriting_headers_are_ignored(stack: Stack) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[-1])
    headers = {
        "Authorization": f"Bearer {stack.cloud.token()}",
        "X-Forwarded-Uri": console_path(stack.cloud.project, stack.cloud.servers[0]),
        "X-Original-Url": console_path(stack.cloud.project, stack.cloud.servers[0]),
        "X-Forwarded-User": "root",
        "X-Remote-User": "root",
        "X-HTTP-Method-Override": "GET",
    }
    assert fetch(stack.gateway.url, "GET", path, headers).status == 403
