"""The OpenAPI document matches the gateway's behaviour (checked by schemathesis)."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from tests.support.stack import CloudProcess, Stack, eventually, fetch

_CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    cloud = CloudProcess("--rate", "100000", "--burst", "100000")
    cloud.settings(latency_s=[0.0, 0.001])
    running = Stack(
        cloud,
        change={
            "caller_limits": {"requests": 1e6, "per_s": 1, "burst": 100_000},
            "operations": {"disable": ["UpdateIDcs"]},
        },
        account={"budget": {"console": {"requests": 10_000, "per_s": 1, "burst": 100}}},
    )
    grant = {"role": "all", "to": {"users": ["alice"]}, "on": "everything"}
    running.gateway.write_policy({"roles": {"all": "all"}, "grants": [grant]})
    target = f"/v1/{cloud.project}/physicalservers/status"
    headers = {"Authorization": f"Bearer {cloud.token('alice')}"}
    eventually(lambda: fetch(running.gateway.url, "GET", target, headers).status == 200)
    yield running
    running.close()


def schemathesis(stack: Stack, directory: Path, *headers: str, phases: str) -> str:
    config = directory / "schemathesis.toml"
    config.write_text(
        f'[parameters]\n"path.project_id" = "{stack.cloud.project}"\n'
        f'"path.server_id" = "{stack.cloud.servers[0]}"\n'
        # Longer than the gateway's own deadline: another one could end requests early.
        '"header.Prefer" = "wait=3600"\n'
    )
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"),
        stack.gateway.url + "/openapi.json",
        *("--checks", ",".join(_CHECKS), "--phases", phases, "--no-color"),
        *("--max-examples", "8", "--seed", "1", "--generation-database", "none"),
        *(part for header in headers for part in ("--header", header)),
    ]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=540, check=False, cwd=directory
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    return ran.stdout


def test_behaviour_conforms_to_the_document(stack: Stack, tmp_path: Path) -> None:
    token = stack.cloud.token("alice", life_s=7_200)
    header = f"Authorization: Bearer {token}"
    output = schemathesis(stack, tmp_path, header, phases="coverage,fuzzing")
    found = re.search(r"Test cases:\s+(\d+) generated, (\d+) passed", output)
    assert found is not None, output
    assert int(found[1]) == int(found[2]) > 1_000
    operations = re.search(r"Tested: (\d+)", output)
    assert operations is not None
    assert int(operations[1]) >= 50
    statuses = {line["status"] for line in stack.gateway.log_lines("request")}
    assert {200, 400, 404, 405} <= statuses, "requests must pass authentication"


def test_requests_without_token_conform_and_stay_local(stack: Stack, tmp_path: Path) -> None:
    fetch(stack.cloud.upstream, "DELETE", "/_box/calls")
    # A random request for each operation: none is read before the token is missed.
    output = schemathesis(stack, tmp_path, phases="fuzzing")
    operations = re.search(r"Tested: (\d+)", output)
    assert operations is not None
    assert int(operations[1]) >= 50
    assert stack.cloud.calls(stack.cloud.upstream) == []


def test_document_is_valid_and_follows_the_config(stack: Stack) -> None:
    response = fetch(stack.gateway.url, "GET", "/openapi.json")
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    validate(response.json)
    named = {
        one["operationId"]
        for item in response.json["paths"].values()
        for method, one in item.items()
        if method not in ("parameters", "head")
    }
    assert {"ShowRemoteConsole", "ListServers", "CreateTokenWithIdToken"} <= named
    assert "UpdateIDcs" not in named
    again = fetch(
        stack.gateway.url, "GET", "/openapi.json", {"If-None-Match": response.headers["etag"]}
    )
    assert (again.status, again.body) == (304, b"")
    assert fetch(stack.gateway.url, "HEAD", "/openapi.json").body == b""
    assert fetch(stack.gateway.url, "POST", "/docs").error_code == "CGW.4050"


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "style")]


def test_docs_page_is_self_contained(stack: Stack) -> None:
    response = fetch(stack.gateway.url, "GET", "/docs")
    text = response.body.decode()
    page = _References()
    page.feed(text)
    assert all(one.startswith("#") or one == "openapi.json" for one in page.found), page.found
    assert "script" not in page.tags
    assert "url(" not in text
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    for item in fetch(stack.gateway.url, "GET", "/openapi.json").json["paths"].values():
        for method, one in item.items():
            assert method in ("parameters", "head") or f'id="{one["operationId"]}"' in text
    assert json.dumps("CGW.4031")[1:-1] in text
