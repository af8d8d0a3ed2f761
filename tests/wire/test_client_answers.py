"""What the client's commands make of answers that a gateway, or a proxy before it, may give."""

import argparse
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from gateway.commands import console, servers
from gateway.commands.parser import main

SERVER = "11111111-2222-4333-8444-555555555555"
LINK = {"url": "https://console.example/?token=x"}
BUSY = {"error_code": "CGW.4291", "error_msg": "The cloud's rate limit is used up for now."}

PAGE = b"<html>503 Service Unavailable</html>"

Scripted = tuple[int, dict[str, str], Any]


class Answering(ThreadingHTTPServer):
    """Gives one answer after the other; the last one serves for all that follow."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Scripted] = []
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answers = self.server.answers
        status, headers, data = answers.pop(0) if len(answers) > 1 else answers[0]
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setenv("CONSOLE_GATEWAY_TOKEN", "a.b.c")
    server = Answering()
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def options(gateway: Answering, **changed: Any) -> argparse.Namespace:
    usual: dict[str, Any] = {
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
        "projects": ["p"],
    }
    return argparse.Namespace(**(usual | changed))


def dated(seconds: float, *, said_at: datetime | None = None) -> dict[str, str]:
    """Return a Retry-After by date; `said_at`: the clock of who says it, where it is told."""
    date = {} if said_at is None else {"Date": format_datetime(said_at, usegmt=True)}
    until = (said_at or datetime.now(UTC)) + timedelta(seconds=seconds)
    return {"Retry-After": format_datetime(until, usegmt=True), **date}


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1"},
        dated(1, said_at=datetime(2031, 1, 1, tzinfo=UTC)),
        dated(1, said_at=datetime(2011, 1, 1, tzinfo=UTC)),
    ],
)
def test_it_comes_again_when_it_is_told_to_in_seconds_or_by_a_date(
    gateway: Answering, headers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(503, headers, BUSY), (200, {"X-Console-Expires-In": "60"}, LINK)]
    began = time.monotonic()
    assert console.run(options(gateway)) == 0
    assert time.monotonic() - began > 0.9
    assert capsys.readouterr().out.strip() == LINK["url"]
    assert len(gateway.asked) == 2


def test_a_date_without_the_clock_of_who_says_it_is_read_by_ours(gateway: Answering) -> None:
    gateway.answers = [(429, dated(3), BUSY), (200, {}, LINK)]
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
def test_it_gives_up_at_once_where_it_cannot_wait_as_long(
    gateway: Answering, headers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(429, headers, BUSY)]
    assert console.run(options(gateway)) == 5
    assert BUSY["error_msg"] in capsys.readouterr().err
    assert len(gateway.asked) == 1


def test_a_proxy_that_says_when_to_come_again_is_obeyed_whatever_its_page(
    gateway: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(503, {"Retry-After": "1"}, PAGE), (200, {}, LINK)]
    assert console.run(options(gateway)) == 0
    assert capsys.readouterr().out.strip() == LINK["url"]
    gateway.answers = [(503, {"Retry-After": "5"}, PAGE)]
    assert console.run(options(gateway, wait=2.0)) == 5
    assert capsys.readouterr().err == (
        "Unexpected response (HTTP 503): not a Console Gateway? Try again later.\n"
    )


@pytest.mark.parametrize(
    ("status", "code"), [(200, 1), (302, 1), (401, 4), (403, 3), (404, 1), (502, 1), (504, 5)]
)
@pytest.mark.parametrize("data", [b"<html>", {"message": "no"}, b"[" * 100_000])
def test_whoever_answers_in_the_gateway_s_place_is_judged_by_the_status(
    gateway: Answering, status: int, code: int, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(status, {}, data)]
    assert console.run(options(gateway)) == code
    assert "not a Console Gateway?" in capsys.readouterr().err
    assert len(gateway.asked) == 1


@pytest.mark.parametrize("data", [{}, {"url": None}, {"url": 7}, [], "x", None])
def test_a_good_answer_without_a_link_is_no_gateway_s(
    gateway: Answering, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(200, {}, data)]
    assert console.run(options(gateway)) == 1
    shown = capsys.readouterr()
    assert "not a Console Gateway?" in shown.err
    assert not shown.out
    assert console.run(options(gateway, json=True)) == 1
    assert "not a Console Gateway?" in json.loads(capsys.readouterr().out)["error_msg"]


def test_a_link_without_its_time_is_still_a_link(
    gateway: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(200, {"X-Console-Expires-In": "soon"}, LINK)]
    assert console.run(options(gateway, json=True)) == 0
    assert json.loads(capsys.readouterr().out)["expires_in_s"] == 0


@pytest.mark.parametrize(
    "data",
    [{}, [], {"servers": None}, {"servers": [1]}, {"servers": [{}]}, {"servers": [{"id": 1}]}],
)
def test_a_list_that_is_none_is_no_gateway_s(
    gateway: Answering, data: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(200, {}, data)]
    assert servers.run(options(gateway)) == 1
    assert console.run(options(gateway, server="p/by-name")) == 1
    assert "not a Console Gateway?" in capsys.readouterr().err


def test_so_are_projects_and_permissions_that_are_none(
    gateway: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(200, {}, {"projects": [{"name": "x"}]})]
    assert servers.run(options(gateway, projects=[])) == 1
    for permissions in ({}, {"servers": [{"id": SERVER}]}):
        listed: Scripted = (200, {}, {"servers": [{"id": SERVER}], "page_info": 7})
        gateway.answers = [listed, (200, {}, permissions)]
        assert servers.run(options(gateway)) == 1
    assert capsys.readouterr().err.count("not a Console Gateway?") == 3


def admin(gateway: Answering, *words: str) -> int:
    return main(["admin", *words, "--gateway", options(gateway).gateway, "--token-env", "PATH"])


def a_process(*, error: str | None = None, rejected: bool = False) -> dict[str, Any]:
    told = {} if error is None else {"error": error}
    here = {"process": "a", "version": "5d07", "rules": 0, "loaded_at": "2026-11-23T12:00:00Z"}
    return {**here, "file_rejected": rejected, **told}


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
def test_a_policy_that_is_not_in_force_everywhere_is_no_reload_that_is_done(
    gateway: Answering,
    processes: list[dict[str, Any]],
    missing: int,
    code: int,
    shown: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway.answers = [
        (200, {}, {"processes": processes, "total": 1 + missing, "missing": missing})
    ]
    assert admin(gateway, "policy", "--reload") == code
    assert shown in capsys.readouterr().out
    assert admin(gateway, "policy", "--reload", "--json") == code
    assert admin(gateway, "policy") == 0, "a look is done when it is answered"


def test_none_of_a_thing_is_a_number_and_not_unknown(
    gateway: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers = [(200, {}, {"processes": [a_process()], "total": 1, "missing": 0})]
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
    gateway: Answering, effect: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    override = {"id": "1", "created_at": "", "expires_at": "2026-11-26", "created_by": "corp:ada"}
    override = {**override, "reason": "", "effect": effect}
    gateway.answers = [(200, {}, {"loaded": True, "overrides": [override]})]
    assert admin(gateway, "overrides") == 0
    assert shown in capsys.readouterr().out
    gateway.answers = [(200, {}, {"override": override, "all_replicas_notified": True, "note": ""})]
    assert admin(gateway, "clear", "1") == 0
    assert f"Override 1 until 2026-11-26: {shown}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--ca-file", "--cert", "--key"])
def test_files_for_tls_are_not_ignored_without_it(
    gateway: Answering, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert admin(gateway, "overrides", option, "/nope") == 2
    assert "require an https URL" in capsys.readouterr().err
    assert not gateway.asked


def test_a_gateway_that_cannot_be_reached_is_told_with_its_port_and_what_to_look_at(
    gateway: Answering, capsys: pytest.CaptureFixture[str]
) -> None:
    port = gateway.server_port
    for address, why in (
        ("http://[::1]:9", "The gateway at [::1]:9 is unreachable: "),
        (
            f"https://127.0.0.1:{port}",
            f"127.0.0.1:{port} is unreachable: the server does",
        ),
    ):
        words = ["servers", "--gateway", address, "--token-env", "CONSOLE_GATEWAY_TOKEN"]
        assert main(words) == 6
        said = capsys.readouterr().err
        assert why in said
        assert said.endswith(".\n")
        assert "_ssl.c" not in said
