"""No text from a server, a file or an audit record controls the terminal."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gateway.commands.audit_search import search_audit_log
from gateway.commands.parser import main
from gateway.commands.terminal import escape_controls, print_table, to_json
from gateway.domain.audit.search import RecordFilter
from gateway.drivers.audit.directory import segment_file

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202egnp\r\nALLOWED\x7f\ud800"
SERVER = "11111111-2222-4333-8444-555555555555"
PROJECT = "p"


class HostileServer(ThreadingHTTPServer):
    """Answers every request with one status and one JSON document."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.document = 200, dict[str, Any]()


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer

    def do_GET(self) -> None:
        body = json.dumps(self.server.document).encode()
        self.send_response_only(self.server.status)
        self.send_header("X-Request-Id", "\x1b[31mred\x9b")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    running = HostileServer()
    url = f"http://127.0.0.1:{running.server_port}"
    for prefix in ("CONSOLE_GATEWAY", "CONSOLE_GATEWAY_ADMIN"):
        monkeypatch.setenv(f"{prefix}_URL", url)
        monkeypatch.setenv(f"{prefix}_TOKEN", "a.b.c")
    thread = Thread(target=running.serve_forever, args=(0.05,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("command", [("console", f"{PROJECT}/{SERVER}"), ("admin", "queue")])
def test_rejection_of_a_hostile_server_is_escaped(
    server: HostileServer,
    command: tuple[str, ...],
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.status = 403
    server.document = {"error_code": HOSTILE, "error_msg": HOSTILE}
    assert main([*command, *options]) == 3
    shown = capsys.readouterr()
    assert is_harmless(shown.out)
    assert is_harmless(shown.err)
    if options:
        assert json.loads(shown.out)["error_msg"] == HOSTILE
    else:
        assert shown.err.count("\\x1b]0;owned\\x07\\x9b2J\\u202egnp\\r\\nALLOWED\\x7f\\ud800") == 2
        assert len(shown.err.splitlines()) == 1


@pytest.mark.parametrize(
    "url", ["https://h/\x1b]0;x\x07", "https://h/a b", "https://h/\u202e", "file:///bin/sh", "h/x"]
)
@pytest.mark.parametrize("how", ["--print", "--open", "--json"])
def test_link_that_is_no_web_address_is_not_printed(
    server: HostileServer, url: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.document = {"url": url}
    assert main(["console", how, f"{PROJECT}/{SERVER}"]) == 1
    shown = capsys.readouterr()
    assert url not in shown.out
    assert "no usable link" in shown.out + shown.err


def test_lists_of_a_hostile_server_are_escaped(
    server: HostileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    effect = {"kind": "cleared_override", "override_id": HOSTILE}
    override = {"id": HOSTILE, "expires_at": HOSTILE, "effect": effect}
    server.document = {"override": override, "note": HOSTILE, "all_replicas_notified": True}
    assert main(["admin", "clear", "x"]) == 0
    override["effect"] = {"kind": HOSTILE}
    assert main(["admin", "clear", "x"]) == 0
    named = [{"id": one, "name": HOSTILE, "permissions": [HOSTILE]} for one in (HOSTILE, SERVER)]
    areas = {"region": HOSTILE, "account": HOSTILE, "project_name": PROJECT}
    server.document = {
        "servers": named[1:],
        "projects": [{"project_id": HOSTILE, **areas, "servers": named}],
    }
    for query in ([], ["0" * 32]):
        assert main(["servers", *query]) == 0
        assert main(["servers", "--json", *query]) == 0
    assert main(["console", f"{PROJECT}/{HOSTILE}"]) == 2, "two servers have that name"
    shown = capsys.readouterr()
    assert is_harmless(shown.out)
    assert is_harmless(shown.err)


def test_audit_records_are_printed_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"at": 1.0, "event": "refused", "subject": HOSTILE.replace("\ud800", ""), "seq": 1}
    segment_file(tmp_path, 1).write_text(json.dumps({"chain": "c", **record}) + "\n")
    for as_json in (False, True):
        assert search_audit_log([tmp_path], RecordFilter(), as_json=as_json) == 0
        shown = capsys.readouterr().out
        assert is_harmless(shown)
        assert len(shown.splitlines()) == 1
    assert json.loads(shown)["subject"] == record["subject"]


def test_errors_of_a_hostile_file_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text('"\\e]0;owned\\a\\u202E": 1\n')
    assert main(["check", "--config", str(config)]) == 1
    shown = capsys.readouterr().err
    assert is_harmless(shown)
    assert "\\x1b]0;owned\\x07\\u202e" in shown


def test_tables_and_json_contain_only_printable_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("A",), [(HOSTILE,), (None,)])
    assert is_harmless(capsys.readouterr().out)
    assert is_harmless(to_json({HOSTILE: [HOSTILE]}))
    assert json.loads(to_json({HOSTILE: [HOSTILE]})) == {HOSTILE: [HOSTILE]}
    assert escape_controls("Grüße, 東京 \\") == "Grüße, 東京 \\"
