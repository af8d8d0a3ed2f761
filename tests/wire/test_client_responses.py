"""The client commands and the responses of a gateway, or of a proxy in front of it."""

import argparse
import gzip
import json
import resource
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gateway.commands import console, servers
from gateway.commands.parser import main

PROJECT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SERVER = "11111111-2222-4333-8444-555555555555"
LINK = {"url": "https://console.example/?token=x"}
BUSY = {"error_code": "CGW.4291", "error_msg": "The cloud's rate limit is used up for now."}

PAGE = b"<html>503 Service Unavailable</html>"

Scripted = tuple[int, dict[str, str], Any]


class ScriptedGateway(ThreadingHTTPServer):
    """Returns the scripted responses in order; the last one is repeated."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.responses: list[Scripted] = []
        self.requests: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedGateway

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        responses = self.server.responses
        status, headers, data = responses.pop(0) if len(responses) > 1 else responses[0]
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGateway]:
    monkeypatch.setenv("CONSOLE_GATEWAY_TOKEN", "a.b.c")
    server = ScriptedGateway()
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def options(gateway: ScriptedGateway, **changed: Any) -> argparse.Namespace:
    defaults: dict[str, Any] = {
        "gateway": f"http://127.0.0.1:{gateway.server_port}",
        "ca_file": None,
        "cert": None,
        "key": None,
        "token_file": None,
        "token_command": None,
        "token_env": "CONSOLE_GATEWAY_TOKEN",
        "wait": 10.0,
        "json": False,
        "server": f"p/{SERVER}",
        "fresh": False,
        "open": False,
        "print": True,
        "renew": False,
        "query": [PROJECT],
    }
    return argparse.Namespace(**(defaults | changed))


def dated(seconds: float, *, sent_at: datetime | None = None) -> dict[str, str]:
    """Return a Retry-After with a date; `sent_at` is the sender's `Date`."""
    date = {} if sent_at is None else {"Date": format_datetime(sent_at, usegmt=True)}
    until = (sent_at or datetime.now(UTC)) + timedelta(seconds=seconds)
    return {"Retry-After": format_datetime(until, usegmt=True), **date}


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1"},
        dated(1, sent_at=datetime(2031, 1, 1, tzinfo=UTC)),
        dated(1, sent_at=datetime(2011, 1, 1, tzinfo=UTC)),
    ],
)
def test_retry_after_is_honoured_as_seconds_or_date(
    gateway: ScriptedGateway, headers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(503, headers, BUSY), (200, {"X-Console-Expires-In": "60"}, LINK)]
    began = time.monotonic()
    assert console.run(options(gateway)) == 0
    assert time.monotonic() - began > 0.9
    assert capsys.readouterr().out.strip() == LINK["url"]
    assert len(gateway.requests) == 2


def test_retry_after_date_falls_back_to_the_local_clock(gateway: ScriptedGateway) -> None:
    gateway.responses = [(429, dated(3), BUSY), (200, {}, LINK)]
    assert console.run(options(gateway)) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry-After": "soon"},
        {"Retry-After": "nan"},
        {"Retry-After": "-1"},
        {"Retry-After": "Thu, 99 Jan 2026 00:00:00 GMT"},
        {"Retry-After": "Thu, 01 Jan 2026 00:00:00 -0000"},
        {"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT", "Date": "yesterday"},
        dated(3_600),
        dated(-3_600),
    ],
)
def test_unusable_retry_after_ends_the_command(
    gateway: ScriptedGateway, headers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(429, headers, BUSY)]
    assert console.run(options(gateway)) == 5
    assert BUSY["error_msg"] in capsys.readouterr().err
    assert len(gateway.requests) == 1


def test_retry_after_of_a_proxy_is_honoured(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(503, {"Retry-After": "1"}, PAGE), (200, {}, LINK)]
    assert console.run(options(gateway)) == 0
    assert capsys.readouterr().out.strip() == LINK["url"]
    gateway.responses = [(503, {"Retry-After": "5"}, PAGE)]
    assert console.run(options(gateway, wait=2.0)) == 5
    assert capsys.readouterr().err == (
        "Unexpected response (HTTP 503): not a Console Gateway? Try again later.\n"
    )


@pytest.mark.parametrize(
    ("status", "code"), [(200, 1), (302, 1), (401, 4), (403, 3), (404, 1), (502, 1), (504, 5)]
)
@pytest.mark.parametrize("data", [b"<html>", {"message": "no"}, b"[" * 100_000])
def test_foreign_response_is_judged_by_its_status(
    gateway: ScriptedGateway, status: int, code: int, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(status, {}, data)]
    assert console.run(options(gateway)) == code
    assert "not a Console Gateway?" in capsys.readouterr().err
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("data", [{}, {"url": None}, {"url": 7}, [], "x", None])
def test_response_without_a_link_is_unexpected(
    gateway: ScriptedGateway, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {}, data)]
    assert console.run(options(gateway)) == 1
    shown = capsys.readouterr()
    assert "not a Console Gateway?" in shown.err
    assert not shown.out
    assert console.run(options(gateway, json=True)) == 1
    assert "not a Console Gateway?" in json.loads(capsys.readouterr().out)["error_msg"]


def test_link_without_a_lifetime_is_printed(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {"X-Console-Expires-In": "soon"}, LINK)]
    assert console.run(options(gateway, json=True)) == 0
    assert json.loads(capsys.readouterr().out)["expires_in_s"] == 0


@pytest.mark.parametrize(
    "data",
    [{}, [], {"servers": None}, {"servers": [1]}, {"servers": [{}]}, {"servers": [{"id": 1}]}],
)
def test_malformed_list_is_unexpected(
    gateway: ScriptedGateway, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {}, data)]
    assert servers.run(options(gateway)) == 1
    assert console.run(options(gateway, server="p/by-name")) == 1
    assert "not a Console Gateway?" in capsys.readouterr().err


def test_malformed_projects_and_permissions_are_unexpected(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {}, {"projects": [{"name": "x"}]})]
    assert servers.run(options(gateway, query=[])) == 1
    for permissions in ({}, {"servers": [{"id": SERVER}]}):
        listed: Scripted = (200, {}, {"servers": [{"id": SERVER}], "page_info": 7})
        gateway.responses = [listed, (200, {}, permissions)]
        assert servers.run(options(gateway)) == 1
    assert capsys.readouterr().err.count("not a Console Gateway?") == 3


def admin(gateway: ScriptedGateway, *words: str) -> int:
    return main(["admin", *words, "--gateway", options(gateway).gateway, "--token-env", "PATH"])


def a_process(*, error: str | None = None, rejected: bool = False) -> dict[str, Any]:
    details = {} if error is None else {"error": error}
    here = {"process": "a", "version": "5d07", "rules": 0, "loaded_at": "2026-11-23T12:00:00Z"}
    return {**here, "file_rejected": rejected, **details}


@pytest.mark.parametrize(
    ("processes", "missing", "code", "shown"),
    [
        ([a_process(error="")], 0, 0, "in force"),
        ([a_process()], 0, 0, "in force"),
        ([a_process(error="policy.yaml:7: no", rejected=True)], 0, 1, "rejected: policy.yaml:7"),
        ([a_process(rejected=True)], 0, 1, "rejected: run `gateway check` for the error"),
        ([a_process(), a_process(error="x", rejected=True)], 1, 1, "rejected: x"),
        ([a_process()], 1, 5, "1 of 2 processes did not respond"),
    ],
)
def test_policy_reload_needs_all_processes(
    gateway: ScriptedGateway,
    processes: list[dict[str, Any]],
    missing: int,
    code: int,
    shown: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway.responses = [
        (200, {}, {"processes": processes, "total": 1 + missing, "missing": missing})
    ]
    assert admin(gateway, "policy", "--reload") == code
    assert shown in capsys.readouterr().out
    assert admin(gateway, "policy", "--reload", "--json") == code
    assert admin(gateway, "policy") == 0, "showing the policy succeeds in any case"


@pytest.mark.parametrize(
    ("command", "data"),
    [
        ("overrides", {"loaded": True, "overrides": [{"id": "\x1b[2J"}]}),
        ("overrides", {"loaded": True, "overrides": ["x"]}),
        ("locks", {"loaded": True, "overrides": [{"effect": None}]}),
        ("queue", {"processes": [{"process": "a", "budgets": [{"account": "a"}]}]}),
        ("sessions", {"processes": [7]}),
        ("policy", {"processes": [{}], "total": 1, "missing": 0}),
    ],
)
def test_malformed_admin_response_is_unexpected(
    gateway: ScriptedGateway, command: str, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {}, data)]
    assert admin(gateway, command) == 1
    assert "not a Console Gateway?" in capsys.readouterr().err


def test_zero_rules_are_printed_as_a_number(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {}, {"processes": [a_process()], "total": 1, "missing": 0})]
    assert admin(gateway, "policy") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["a", "5d07", "0"]


@pytest.mark.parametrize(
    ("effect", "shown"),
    [
        (
            {
                "kind": "revoked_subject",
                "issuer": "corp",
                "subject": "m",
                "before": 1795570354.3449287,
            },
            "revoked_subject issuer=corp subject=m before=2026-11-25T01:32:34.344+00:00",
        ),
        ({"kind": "dropped_links", "project": "", "server": "", "person": ""}, "dropped_links all"),
        (
            {"kind": "dropped_links", "project": "p", "server": "", "person": ""},
            "dropped_links project=p",
        ),
        (
            {"kind": "rate_ceiling", "account": "prod", "budget": "console", "rate_per_s": 0.5},
            "rate_ceiling account=prod budget=console rate_per_s=0.5",
        ),
        ({"kind": "log_levels", "levels": {"gateway": "info"}}, "log_levels gateway=info"),
    ],
)
def test_an_override_is_shown_as_text(
    gateway: ScriptedGateway, effect: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    override = {"id": "1", "created_at": "", "expires_at": "2026-11-26", "created_by": "corp:ada"}
    override = {**override, "reason": "", "effect": effect}
    gateway.responses = [(200, {}, {"loaded": True, "complete": True, "overrides": [override]})]
    assert admin(gateway, "overrides") == 0
    assert shown in capsys.readouterr().out
    gateway.responses = [
        (200, {}, {"override": override, "all_replicas_notified": True, "note": ""})
    ]
    assert admin(gateway, "clear", "1") == 0
    assert f"Override 1 until 2026-11-26: {shown}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--ca-file", "--cert", "--key"])
def test_tls_options_require_an_https_url(
    gateway: ScriptedGateway, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert admin(gateway, "overrides", option, "/nope") == 2
    assert "require an https URL" in capsys.readouterr().err
    assert not gateway.requests


def test_connection_error_names_port_and_check(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    port = gateway.server_port
    for address, reason in (
        ("http://[::1]:9", "The gateway at [::1]:9 is unreachable: "),
        (
            f"https://127.0.0.1:{port}",
            f"127.0.0.1:{port} is unreachable: the server does",
        ),
    ):
        words = ["servers", "--gateway", address, "--token-env", "CONSOLE_GATEWAY_TOKEN"]
        assert main(words) == 6
        output = capsys.readouterr().err
        assert reason in output
        assert output.endswith(".\n")
        assert "_ssl.c" not in output


@pytest.mark.parametrize(
    ("suffix", "path"), [("", ""), ("/", ""), ("/con%20sole/v2/", "/con%20sole/v2")]
)
def test_path_of_the_gateway_url_is_used(
    gateway: ScriptedGateway, suffix: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {}, LINK)]
    url = f"http://127.0.0.1:{gateway.server_port}{suffix}"
    assert main(["console", "--gateway", url, "--print", f"p/{SERVER}"]) == 0
    assert gateway.requests == [f"{path}/v1/p/physicalservers/{SERVER}/remote-console-address"]
    assert capsys.readouterr().out.strip() == LINK["url"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("{}/prefix?x#y", "query or a fragment"),
        ("{}?", "query or a fragment"),
        ("{}#", "query or a fragment"),
        ("http://user:secret@{host}", "must not contain a user"),
        ("https://gateway.example:443@{host}/", "must not contain a user"),
        ("https://gateway.example\\@{host}", "must not contain a user"),
        ("https://gateway.example\\{host}", "with a host"),
        ("{}/a/../b", "path"),
        ("{}/%2E%2e/b", "path"),
        ("{}//b", "path"),
        ("{}/%zz", "path"),
        ("{}/a b", "with a host"),
        ("{}/a\n", "with a host"),
        (" {}", "with a host"),
        ("ftp://{host}", "http or https"),
    ],
)
def test_gateway_url_with_a_part_that_would_be_ignored_is_refused(
    gateway: ScriptedGateway, url: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host = f"127.0.0.1:{gateway.server_port}"
    url = url.format(f"http://{host}", host=host)
    assert main(["console", "--gateway", url, "--print", f"p/{SERVER}"]) == 2
    shown = capsys.readouterr().err
    assert problem in shown
    assert "secret" not in shown
    assert gateway.requests == [], "no token was sent"


CHUNKED = {"Transfer-Encoding": "chunked"}
NOT_FOUND = {"error_code": "CGW.4048", "error_msg": "No such recording."}


def export(gateway: ScriptedGateway, file: Path) -> int:
    url = f"http://127.0.0.1:{gateway.server_port}"
    return main(["recordings", "export", "0" * 32, str(file), "--gateway", url])


def test_exported_file_is_private(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.responses = [(200, CHUNKED, b"6\r\n<html>\r\n0\r\n\r\n")]
    file = tmp_path / "recording.html"
    assert export(gateway, file) == 0
    assert file.read_bytes() == b"<html>"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        ((200, CHUNKED, b"6\r\n<html>\r\n"), 1, "the right to it may have ended"),
        ((200, CHUNKED, b"ff\r\n<html>"), 1, "the right to it may have ended"),
        ((404, {}, NOT_FOUND), 1, "CGW.4048"),
    ],
)
def test_export_that_fails_leaves_no_file(
    gateway: ScriptedGateway,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    response: Scripted,
    code: int,
    words: str,
) -> None:
    gateway.responses = [response]
    file = tmp_path / "recording.html"
    assert export(gateway, file) == code
    assert words in capsys.readouterr().err
    assert not file.exists()


def test_export_to_a_full_disk_leaves_no_file(
    gateway: ScriptedGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, CHUNKED, b"6\r\n<html>\r\n0\r\n\r\n")]
    assert export(gateway, Path("/dev/full")) == 2  # it exists
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limit[1]))
    try:
        file = tmp_path / "recording.html"
        assert export(gateway, file) != 0
        assert not file.exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in capsys.readouterr().err


def my_servers(*areas: tuple[str, str], permissions: Sequence[str] = ("console:open",)) -> Scripted:
    """Return a response of `GET /servers`: a server `web-01` per project and region."""
    projects = [
        {
            "project_id": project,
            "account": f"account-{project}",
            "project_name": project,
            "region": region,
            "servers": [{"id": SERVER, "name": "web-01", "permissions": list(permissions)}],
        }
        for project, region in areas
    ]
    return 200, {}, {"projects": projects}


@pytest.mark.parametrize(
    ("server", "project"),
    [("r-1/web-01", "p"), ("account-q/web-01", "q"), ("q/web-01", "q")],
)
def test_area_distinguishes_servers_of_the_same_name(
    gateway: ScriptedGateway, server: str, project: str
) -> None:
    gateway.responses = [my_servers(("p", "r-1"), ("q", "r-2")), (200, {}, LINK)]
    assert console.run(options(gateway, server=server)) == 0
    assert gateway.requests[-1].startswith(f"/v1/{project}/physicalservers/{SERVER}/")


@pytest.mark.parametrize("server", ["web-01", SERVER.upper()])
def test_ambiguous_server_is_listed_with_how_to_specify_it(
    gateway: ScriptedGateway, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [my_servers(("p", "r-1"), ("q", "r-2"))]
    assert console.run(options(gateway, server=server)) == 2
    error = capsys.readouterr().err
    assert f"p/{SERVER} (r-1, account-p)" in error
    assert f"q/{SERVER} (r-2, account-q)" in error
    assert gateway.requests == ["/servers"]


def test_compressed_list_is_read(gateway: ScriptedGateway) -> None:
    _, _, listed = my_servers(("p", "r-1"))
    packed = gzip.compress(json.dumps(listed).encode())
    gateway.responses = [(200, {"Content-Encoding": "gzip"}, packed), (200, {}, LINK)]
    assert console.run(options(gateway, server="web-01")) == 0
    assert gateway.requests[-1].startswith(f"/v1/p/physicalservers/{SERVER}/")


def test_damaged_compression_is_an_unexpected_response(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.responses = [(200, {"Content-Encoding": "gzip"}, b"no gzip")]
    assert console.run(options(gateway, server="web-01")) != 0
    assert "Unexpected response (HTTP 200)" in capsys.readouterr().err


def test_server_that_may_be_opened_is_preferred(gateway: ScriptedGateway) -> None:
    _, _, readable = my_servers(("p", "r-1"), permissions=["server:read"])
    _, _, openable = my_servers(("q", "r-2"))
    both = {"projects": readable["projects"] + openable["projects"]}
    gateway.responses = [(200, {}, both), (200, {}, LINK)]
    assert console.run(options(gateway, server="web-01")) == 0
    assert gateway.requests[-1].startswith("/v1/q/")


def test_gateway_without_the_list_takes_the_project(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    missing: Scripted = (404, {}, {"error_code": "CGW.4041", "error_msg": "Unknown path."})
    listed = {"servers": [{"id": SERVER, "name": "web-01"}]}
    gateway.responses = [missing, (200, {}, listed), (200, {}, LINK)]
    assert console.run(options(gateway, server="p/web-01")) == 0
    gateway.responses = [missing]
    assert console.run(options(gateway, server="web-01")) == 2
    assert "`page.enabled`" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["", "/", "p/", "/web-01"])
def test_incomplete_server_is_a_usage_error(gateway: ScriptedGateway, server: str) -> None:
    assert console.run(options(gateway, server=server)) == 2
    assert gateway.requests == []
