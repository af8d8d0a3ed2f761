"""The IAM paths over plain HTTP: responses and errors."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.commands.parser import main
from tests.support.stack import Response, Stack, eventually, fetch, send_raw

TOKENS = "/v3.0/OS-AUTH/id-token/tokens"
KEYS = "/v3.0/OS-CREDENTIAL/securitytokens"
JSON = {"Content-Type": "application/json;charset=UTF-8"}


def post(stack: Stack, path: str, body: Any, **headers: str) -> Response:
    sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    text = body if isinstance(body, str) else json.dumps(body)
    return fetch(stack.gateway.url, "POST", path, sent, text)


def log_in(stack: Stack, token: str) -> Response:
    return post(stack, TOKENS, {"auth": {"id_token": {"id": token}}}, X_Idp_Id="any")


def subject_token(stack: Stack, **fields: Any) -> str:
    return log_in(stack, stack.cloud.token(**fields)).headers["x-subject-token"]


def key_request(token: str | None, **more: Any) -> dict[str, Any]:
    inner = {**({} if token is None else {"id": token}), **more}
    return {"auth": {"identity": {"methods": ["token"], "token": inner}}}


def instant(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()


def now() -> float:
    return datetime.now(UTC).timestamp()


def test_jwt_is_exchanged_for_a_subject_token(stack: Stack) -> None:
    response = log_in(stack, stack.cloud.token("olga", life_s=1_000))
    assert response.status == 201
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-subject-token"]
    token = response.json["token"]
    assert token["methods"] == ["mapped"]
    assert (token["user"]["id"], token["user"]["domain"]["name"]) == ("olga", "corp")
    assert 900 < instant(token["expires_at"]) - now() <= 1_001
    assert abs(instant(token["issued_at"]) - now()) < 60
    assert "ratelimit" in response.headers


def test_scope_is_ignored(stack: Stack) -> None:
    scope = {"project": {"id": stack.cloud.project}}
    body = {"auth": {"id_token": {"id": stack.cloud.token()}, "scope": scope}}
    assert post(stack, TOKENS, body).status == 201


@pytest.mark.parametrize(
    ("duration_s", "life_s", "reported_s"),
    [(900, 7_200, 900), (3_600, 7_200, 3_600), (86_400, 3_600, 3_600), (None, 7_200, 900)],
)
def test_key_pair_expires_with_its_jwt(
    stack: Stack, duration_s: int | None, life_s: int, reported_s: int
) -> None:
    more = {} if duration_s is None else {"duration_seconds": duration_s}
    response = post(stack, KEYS, key_request(subject_token(stack, life_s=life_s), **more))
    assert response.status == 201
    assert response.headers["cache-control"] == "no-store"
    credential = response.json["credential"]
    assert set(credential) == {"access", "secret", "securitytoken", "expires_at"}
    assert reported_s - 60 < instant(credential["expires_at"]) - now() <= reported_s + 1


def test_subject_token_is_accepted_in_the_header(stack: Stack) -> None:
    token = subject_token(stack)
    assert post(stack, KEYS, key_request(None), X_Auth_Token=token).status == 201
    assert post(stack, KEYS, key_request(token), X_Auth_Token=token).status == 201
    other = subject_token(stack)
    response = post(stack, KEYS, key_request(token), X_Auth_Token=other)
    assert (response.status, response.error_code) == (401, "CGW.4010")


@pytest.mark.parametrize("kind", ["jwt", "security token", "garbage", "cut", "none"])
def test_invalid_subject_token_gets_no_keys(stack: Stack, kind: str) -> None:
    good = subject_token(stack)
    presented = {
        "jwt": stack.cloud.token(),
        "security token": post(stack, KEYS, key_request(good)).json["credential"]["securitytoken"],
        "garbage": "x",
        "cut": good[:-4],
        "none": None,
    }[kind]
    response = post(stack, KEYS, key_request(presented))
    assert (response.status, response.error_code) == (401, "CGW.4010")
    assert response.headers["www-authenticate"].startswith("Bearer ")


def test_subject_token_opens_no_console(stack: Stack) -> None:
    token = subject_token(stack)
    assert stack.gateway.console(None, X_Auth_Token=token).status == 401
    assert stack.gateway.console(token).status == 401


def test_unsigned_security_token_opens_no_console(stack: Stack) -> None:
    credential = post(stack, KEYS, key_request(subject_token(stack))).json["credential"]
    token = credential["securitytoken"]
    for response in (
        stack.gateway.console(token),
        stack.gateway.console(None, X_Auth_Token=token),
        stack.gateway.console(None, X_Security_Token=token),
    ):
        assert (response.status, response.error_code) == (401, "CGW.4010")


@pytest.mark.parametrize("path", [TOKENS, KEYS])
@pytest.mark.parametrize(
    "body",
    ["", "x", "[]", "null", '"x"', "{}", '{"auth": []}', '{"auth": {"identity": 1}}', "\x00"],
)
def test_invalid_body_names_the_valid_form(stack: Stack, path: str, body: str) -> None:
    response = post(stack, path, body)
    assert (response.status, response.error_code) == (400, "CGW.4000")


@pytest.mark.parametrize("token", [1, None, [], {"id": 1}])
def test_jwt_must_be_a_string(stack: Stack, token: Any) -> None:
    response = post(stack, TOKENS, {"auth": {"id_token": {"id": token}}})
    assert (response.status, response.error_code) == (400, "CGW.4000")


@pytest.mark.parametrize("duration", [899, 86_401, -1, True, "900", 900.5, None, 10**30])
def test_duration_out_of_bounds_names_the_bounds(stack: Stack, duration: Any) -> None:
    body = json.dumps(key_request(subject_token(stack), duration_seconds=duration))
    response = post(stack, KEYS, body)
    assert (response.status, response.error_code) == (400, "CGW.4000")


@pytest.mark.parametrize("path", [TOKENS, KEYS])
def test_body_over_64_kib_is_too_large(stack: Stack, path: str) -> None:
    response = post(stack, path, "x" * 65_537)
    assert (response.status, response.error_code) == (413, "CGW.4130")
    chunk = b"10001\r\n" + b"x" * 65_537 + b"\r\n0\r\n\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked"
    assert send_raw(stack.gateway.url, head.encode() + b"\r\n\r\n" + chunk).startswith(
        b"HTTP/1.1 413 "
    )


@pytest.mark.parametrize("fields", [{"life_s": -120}, {"claims": {"aud": "other"}}])
def test_invalid_jwt_gets_no_subject_token(stack: Stack, fields: dict[str, Any]) -> None:
    response = log_in(stack, stack.cloud.token(**fields))
    assert (response.status, response.error_code) == (401, "CGW.4010")
    assert "x-subject-token" not in response.headers


@pytest.mark.parametrize(
    "path",
    ["/v3", "/v3/", "/v3/auth/tokens", "/v3.0/OS-AUTH/id-token/tokens/", "/v3/projects/x", "/v3x"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_iam_paths_are_unknown(stack: Stack, method: str, path: str) -> None:
    response = fetch(stack.gateway.url, method, path)
    assert (response.status, response.error_code) == (404, "CGW.4040")


@pytest.mark.parametrize(("path", "allowed"), [(TOKENS, "POST"), ("/v3/projects", "GET")])
def test_wrong_method_names_the_valid_one(stack: Stack, path: str, allowed: str) -> None:
    response = fetch(stack.gateway.url, "PUT", path)
    assert (response.status, response.headers["allow"]) == (405, allowed)


def projects(stack: Stack, query: str = "", **fields: Any) -> Any:
    headers = {"X-Auth-Token": stack.cloud.token(**fields)}
    response = fetch(stack.gateway.url, "GET", f"/v3/projects{query}", headers)
    assert response.status == 200, response.body
    return [project["id"] for project in response.json["projects"]]


def test_projects_are_listed_for_callers_with_permissions(stack: Stack) -> None:
    project = stack.cloud.project
    assert projects(stack) == [project]
    assert projects(stack, f"?name={project}") == [project], (
        "a project without a name has its ID as name"
    )
    assert projects(stack, "?name=elsewhere") == []
    assert projects(stack, groups=["viewers"]) == [project]
    assert projects(stack, groups=[]) == []


def test_outsider_sees_no_projects(stack: Stack) -> None:
    response = fetch(stack.gateway.url, "GET", "/v3/projects")
    assert (response.status, response.error_code) == (401, "CGW.4010")


@pytest.mark.parametrize("query", ["?name=a&name=b", "?" + "&".join("a=b" for _ in range(50))])
def test_invalid_query_is_rejected(stack: Stack, query: str) -> None:
    headers = {"X-Auth-Token": stack.cloud.token()}
    response = fetch(stack.gateway.url, "GET", f"/v3/projects{query}", headers)
    assert (response.status, response.error_code) == (400, "CGW.4000")


def test_federation_requests_count_in_the_caller_limit(stack: Stack) -> None:
    limits = {"requests": 3, "per_s": 600, "burst": 3}
    tight = stack.replica(change={"caller_limits": limits})
    body = {"auth": {"id_token": {"id": stack.cloud.token("limited")}}}
    responses = [fetch(tight.url, "POST", TOKENS, JSON, json.dumps(body)) for _ in range(4)]
    assert [response.status for response in responses] == [201, 201, 201, 429]
    assert responses[-1].error_code == "CGW.4290"
    assert int(responses[-1].headers["retry-after"]) > 0
    tight.close()


def test_federation_request_has_one_log_line(stack: Stack) -> None:
    series = 'gateway_requests_total{error_code="",operation="CreateTokenWithIdToken",status="201"}'
    before = stack.gateway.metric(series)
    response = log_in(stack, stack.cloud.token("otto"))
    request_id = response.headers["x-request-id"]
    eventually(lambda: request_id in stack.gateway.log_text())
    (line,) = [one for one in stack.gateway.log_lines("request") if one["request_id"] == request_id]
    assert (line["operation"], line["subject"], line["status"]) == (
        "CreateTokenWithIdToken",
        "otto",
        201,
    )
    assert stack.gateway.metric(series) == before + 1


def records_of(stack: Stack, response: Response) -> list[dict[str, Any]]:
    audit_directory = sorted((stack.gateway.directory / "audit").glob("chain-*/segment-*.jsonl"))
    lines = [json.loads(line) for file in audit_directory for line in file.read_text().splitlines()]
    return [one for one in lines if one.get("request_id") == response.headers["x-request-id"]]


def test_issued_credentials_are_recorded(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    jwt = stack.cloud.token("kim", groups=["operators"], life_s=7_200)
    logged_in = log_in(stack, jwt)
    token = logged_in.headers["x-subject-token"]
    issued = post(stack, KEYS, key_request(token, duration_seconds=1_800))
    credential = issued.json["credential"]
    for response, operation, access, until in (
        (logged_in, "CreateTokenWithIdToken", None, instant(logged_in.json["token"]["expires_at"])),
        (issued, "CreateTemporaryAccessKey", credential["access"], now() + 1_800),
    ):
        (record,) = records_of(stack, response)
        assert (record["event"], record["decision"]) == ("credential_issued", "allowed")
        assert (record["issuer"], record["subject"]) == ("corp", "kim")
        assert (record["groups"], record["operation"]) == (["operators"], operation)
        assert record["client_address"] == "127.0.0.1"
        assert record.get("access_key") == access
        assert abs(record["expires_at"] - until) < 60
    audit_directory = stack.gateway.directory / "audit"
    text = "".join(file.read_text() for file in audit_directory.glob("chain-*/segment-*"))
    for secret in (jwt, token, credential["secret"], credential["securitytoken"]):
        assert secret not in text
        assert secret.rpartition(".")[2] not in text
    assert main(["audit", "search", str(audit_directory), "--subject", "kim"]) == 0
    assert f"  key {credential['access']}  until 20" in capsys.readouterr().out
    assert main(["audit", "verify", str(audit_directory)]) == 0


def test_unauthenticated_requests_are_not_recorded(stack: Stack) -> None:
    for response in (
        log_in(stack, "a.b.c"),
        log_in(stack, stack.cloud.token(life_s=-120)),
        post(stack, KEYS, key_request("cgwsub_madeup")),
        post(stack, KEYS, key_request(None)),
        fetch(stack.gateway.url, "GET", "/v3/projects"),
    ):
        assert response.status == 401
        assert records_of(stack, response) == []
