"""Every way to ask wrongly gets a clear answer, and harms nobody else."""

from typing import Any

import pytest

from tests.support.stack import Stack, console_path, fetch, send_raw


@pytest.fixture(autouse=True)
def others_are_unharmed(stack: Stack) -> Any:
    yield
    answer = stack.gateway.console(stack.cloud.token())
    assert answer.status == 200, answer.body


def test_a_good_request_gets_the_link(stack: Stack) -> None:
    answer = stack.gateway.console(stack.cloud.token(), X_Request_Id="my-request-1")
    assert answer.status == 200
    assert answer.json["url"].startswith("https://cn-east-3-console.huaweicloud.com")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"] == "my-request-1"
    assert 30 <= int(answer.headers["x-console-expires-in"]) <= 300


def test_the_token_may_come_as_an_unchanged_cloud_client_sends_it(stack: Stack) -> None:
    assert stack.gateway.console(None, X_Auth_Token=stack.cloud.token()).status == 200


def test_no_token_is_told_the_scheme_and_no_more(stack: Stack) -> None:
    answer = stack.gateway.console(None)
    assert (answer.status, answer.error_code) == (401, "CGW.4010")
    assert answer.headers["www-authenticate"] == 'Bearer realm="console-gateway"'
    assert "/docs" in fetch(stack.gateway.url, "GET", "/").json["error_msg"]


def test_who_asks_for_what_there_is_not_is_shown_the_documentation(stack: Stack) -> None:
    sent = {"Authorization": f"Bearer {stack.cloud.token()}"}
    for path in ("/", "/v1/p/nothing", "/v3/nothing"):
        answer = fetch(stack.gateway.url, "GET", path, sent)
        assert (answer.status, answer.error_code) == (404, "CGW.4040")
        assert "/docs" in answer.json["error_msg"]
    assert fetch(stack.gateway.url, "GET", "/docs").status == 200


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", b"Unknown HTTP method. /docs lists the methods"),
        (b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"duplicate headers, or use an HTTP client"),
    ],
)
def test_what_is_no_request_is_told_what_to_send(stack: Stack, raw: bytes, told: bytes) -> None:
    assert told in send_raw(stack.gateway.url, raw)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"life_s": -120}, "expired; get a new one"),
        ({"claims": {"iss": "https://elsewhere.example"}}, "the token was rejected"),
        ({"claims": {"aud": "other"}}, "audience; get one"),
        ({"claims": {"nbf": 4_000_000_000}}, "not valid yet; send it after"),
        ({"headers": {"kid": "unknown"}}, "the token was rejected"),
        ({"headers": {"typ": "logout+jwt"}}, "not an access token; send the access token"),
        ({"subject": None}, "lacks a required claim; the operators"),
        ({"claims": {"sub": ""}}, "lacks a required claim"),
        ({"claims": {"iat": 1}}, "too long ago; get a new one"),
    ],
)
def test_a_wrong_token_is_told_what_is_wrong(
    stack: Stack, asked: dict[str, Any], told: str
) -> None:
    subject = asked.pop("subject", "olga")
    answer = stack.gateway.console(stack.cloud.token(subject, **asked))
    assert (answer.status, answer.error_code) == (401, "CGW.4010")
    challenge = answer.headers["www-authenticate"]
    assert 'error="invalid_token"' in challenge
    assert told in challenge


@pytest.mark.parametrize("garbage", ["x", "a.b.c", "....", "e30.e30.", "é", "a" * 20_000])
def test_garbage_is_no_token(stack: Stack, garbage: str) -> None:
    answer = stack.gateway.console(garbage.encode().decode("latin-1"))
    assert (answer.status, answer.error_code) == (401, "CGW.4010")


def test_two_tokens_that_disagree_are_refused(stack: Stack) -> None:
    one, two = stack.cloud.token(), stack.cloud.token("otto")
    assert stack.gateway.console(one, X_Auth_Token=two).status == 401
    assert stack.gateway.console(one, X_Auth_Token=one).status == 200


def test_a_header_that_stands_twice_is_refused(stack: Stack) -> None:
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
def test_a_server_id_that_is_none_is_told(stack: Stack, server: str, status: int) -> None:
    answer = stack.gateway.console(stack.cloud.token(), server)
    assert answer.status == status
    assert answer.error_code in ("CGW.4000", "CGW.4040")


def test_a_path_of_ten_kilobytes_is_refused_in_our_schema(stack: Stack) -> None:
    answer = stack.gateway.console(stack.cloud.token(), "a" * 10_000)
    assert (answer.status, answer.error_code) == (413, "CGW.4130")


def test_the_literal_project_id_is_explained(stack: Stack) -> None:
    path = console_path("{project_id}", stack.cloud.servers[0])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    answer = fetch(stack.gateway.url, "GET", path, headers)
    assert (answer.status, answer.error_code) == (400, "CGW.4000")
    assert "{project_id}" in answer.json["error_msg"]


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/v1/x", "/favicon.ico"])
def test_nothing_else_is_on_the_public_listener(stack: Stack, path: str) -> None:
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    answer = fetch(stack.gateway.url, "GET", path, headers)
    assert (answer.status, answer.error_code) == (404, "CGW.4040")
    assert fetch(stack.gateway.url, "GET", path).status == 401


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_told_the_right_one(stack: Stack, method: str) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    answer = fetch(stack.gateway.url, method, path, headers)
    assert (answer.status, answer.error_code) == (405, "CGW.4050")
    assert answer.headers["allow"] == "GET"


def test_head_is_refused_and_opens_no_console(stack: Stack) -> None:
    before = stack.cloud.consoles()
    path = console_path(stack.cloud.project, stack.cloud.servers[3])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    assert fetch(stack.gateway.url, "HEAD", path, headers).status == 405
    assert stack.cloud.consoles() == before


def test_a_body_on_a_get_is_refused(stack: Stack) -> None:
    path = console_path(stack.cloud.project, stack.cloud.servers[0])
    headers = {"Authorization": f"Bearer {stack.cloud.token()}"}
    answer = fetch(stack.gateway.url, "GET", path, headers, body="{}")
    assert (answer.status, answer.error_code) == (400, "CGW.4000")


def test_headers_up_to_64_kib_pass_and_larger_ones_are_told(stack: Stack) -> None:
    token = stack.cloud.token()
    assert stack.gateway.console(token, X_Filler="x" * 60_000).status == 200
    answer = stack.gateway.console(token, X_Filler="x" * 70_000)
    assert (answer.status, answer.error_code) == (413, "CGW.4130")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    ],
)
def test_what_is_no_http_gets_an_error_in_our_schema_and_no_trace(stack: Stack, raw: bytes) -> None:
    heard = send_raw(stack.gateway.url, raw)
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.")
    assert b" 400 " in head.split(b"\r\n")[0] + b" "
    assert b'"error_code":"CGW.4000"' in body
    assert b"Traceback" not in body


@pytest.mark.parametrize("who", ["viewer", "outsider", "unknown project", "unknown server"])
def test_forbidden_and_unknown_look_the_same(stack: Stack, who: str) -> None:
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
    answer = fetch(stack.gateway.url, "GET", console_path(project, server), headers)
    denied = stack.gateway.console(cloud.token(), cloud.servers[-1])
    assert (answer.status, answer.body) == (denied.status, denied.body)
    assert answer.status == 403
    assert {*answer.headers} == {*denied.headers}


def test_headers_that_a_proxy_would_trust_change_nothing(stack: Stack) -> None:
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
