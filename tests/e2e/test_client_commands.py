"""`gateway console` and `gateway servers` against a running stack."""

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support import programs
from tests.support.cli_browser import RecordingBrowser
from tests.support.programs import Program
from tests.support.round_trips import RoundTrips
from tests.support.stack import CloudProcess, Stack, eventually, fetch


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(CloudProcess("--rate", "1000", "--burst", "1000", servers=9))
    yield running
    running.close()


class Person:
    def __init__(self, stack: Stack, subject: str = "olga", *groups: str) -> None:
        self.stack, self.cloud = stack, stack.cloud
        self.token = stack.cloud.token(subject, groups=list(groups or ["operators"]))

    def environ(self, **more: str) -> dict[str, str]:
        environ = {"CONSOLE_GATEWAY_URL": self.stack.gateway.url}
        return {**environ, "CONSOLE_GATEWAY_TOKEN": self.token, **more}

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        ran = programs.run("gateway", *words, environ=self.environ(**environ))
        assert self.token not in ran.stdout + ran.stderr
        return ran

    def run_on_terminal(self, *words: str, **environ: str) -> tuple[int, str]:
        """Run on a pseudo-terminal; return the exit code and the output."""
        ours, theirs = pty.openpty()
        everything = {**os.environ, **self.environ(**environ)}
        with Program[bytes](
            "gateway", *words, env=everything, stdin=theirs, stdout=theirs, stderr=theirs
        ) as running:
            os.close(theirs)
            shown = b""
            while True:
                try:
                    chunk = os.read(ours, 4096)
                except OSError:  # the other end of the terminal is closed
                    break
                if not chunk:
                    break
                shown += chunk
            os.close(ours)
        assert self.token.encode() not in shown
        return running.returncode, shown.decode()


@pytest.fixture
def olga(stack: Stack) -> Person:
    return Person(stack)


def target(person: Person, server: int = 0) -> str:
    return f"{person.cloud.project}/{person.cloud.servers[server]}"


def test_console_prints_only_the_link_to_a_pipe(olga: Person) -> None:
    ran = olga.run("console", target(olga))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(r"https://\S+token=\S+\n", ran.stdout)
    document = json.loads(olga.run("console", "--json", target(olga)).stdout)
    assert document["url"] == ran.stdout.strip()
    assert 0 < document["expires_in_s"] <= 300
    fresh = olga.run("console", "--fresh", target(olga))
    assert fresh.stdout != ran.stdout


def test_console_finds_a_server_by_name(olga: Person) -> None:
    name = f"bms-{olga.cloud.servers[1][:8]}"
    document = json.loads(olga.run("console", "--json", f"{olga.cloud.project}/{name}").stdout)
    assert document["server_id"] == olga.cloud.servers[1]
    hidden = olga.run("console", f"{olga.cloud.project}/bms-{olga.cloud.servers[-1][:8]}")
    missing = olga.run("console", f"{olga.cloud.project}/nobody")
    assert hidden.returncode == missing.returncode == 2
    assert "No server visible to you" in hidden.stderr


def test_console_opens_the_browser_on_a_terminal(olga: Person, tmp_path: Path) -> None:
    browser = RecordingBrowser(tmp_path)
    code, shown = olga.run_on_terminal("console", target(olga), BROWSER=browser.command)
    assert code == 0, shown
    assert "the link expires in" in shown
    seen = browser.seen()
    assert seen["status"] == 302
    assert seen["location"].startswith("https://")
    # `ps` shows arguments to every user of the machine.
    address = seen["arguments"][-1]
    assert address.startswith("http://127.0.0.1:")
    token = parse_qs(urlsplit(seen["location"]).query)["token"][0]
    assert token not in "".join(seen["all_arguments"])
    with pytest.raises(OSError, match="refused"):
        fetch(address, "GET", "/")  # the address has ended


def test_browser_that_fetches_nothing_is_reported(olga: Person) -> None:
    code, shown = olga.run_on_terminal("console", target(olga), BROWSER="false %s")
    assert code == 1
    assert "No browser has opened the link. Use --print." in shown


def test_console_prints_the_link_where_there_is_no_browser(olga: Person) -> None:
    without = dict.fromkeys(("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"), "")
    code, shown = olga.run_on_terminal("console", target(olga), **without)
    assert code == 0, shown
    assert re.search(r"^https://\S+token=\S+\r$", shown, re.MULTILINE)


def test_console_shows_progress_on_a_terminal(stack: Stack) -> None:
    person = Person(stack)
    stack.cloud.settings(latency_s=[4.4, 4.5])
    try:
        code, shown = person.run_on_terminal("console", "--print", "--fresh", target(person, 2))
    finally:
        stack.cloud.settings(latency_s=[0.0, 0.01])
    assert code == 0, shown
    assert "waiting for the gateway" in shown
    assert re.search("budget … [234] s", shown)  # a busy machine may skip a second
    assert shown.rpartition("\x1b[K")[2].strip().startswith("https://"), (
        "the progress line must be erased"
    )


def test_servers_lists_visible_servers_and_permissions(stack: Stack) -> None:
    cloud = stack.cloud
    document = json.loads(Person(stack).run("servers", "--json").stdout)["servers"]
    assert {one["id"] for one in document} == set(cloud.servers[:-1])
    assert {tuple(one["permissions"]) for one in document} == {("console:open", "server:read")}
    assert {one["project_id"] for one in document} == {cloud.project}
    shown = Person(stack, "victor", "viewers").run("servers", cloud.project).stdout.splitlines()
    assert shown[0].split() == ["PROJECT", "SERVER", "NAME", "POWER", "HEALTH", "PERMISSIONS"]
    assert len(shown) == 1 + len(cloud.servers)
    assert all(line.endswith("server:read") for line in shown[1:])
    nothing = Person(stack, "otto", "nobody").run("servers")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "No server is visible" in nothing.stderr


def test_servers_replaces_control_characters_in_names(stack: Stack) -> None:
    body = json.dumps({"id": stack.cloud.servers[4], "name": "\x1b[2Jgone"})
    headers = {"Content-Type": "application/json"}
    assert fetch(stack.cloud.upstream, "POST", "/_box/servers", headers, body).status == 200
    person = Person(stack)
    eventually(lambda: "[2Jgone" in person.run("servers").stdout)  # a list is cached for 5 s
    assert "\x1b" not in person.run("servers").stdout


@pytest.mark.parametrize(
    ("group", "code", "error"), [("viewers", 3, "CGW.4030"), ("nobody", 3, "CGW.4030")]
)
def test_rejection_has_exit_code_and_request_id(
    stack: Stack, group: str, code: int, error: str
) -> None:
    person = Person(stack, "someone", group)
    ran = person.run("console", target(person))
    assert (ran.returncode, ran.stdout) == (code, "")
    assert re.search(rf"\(error_code {error}, request_id \S+\)", ran.stderr)
    document = json.loads(person.run("console", "--json", target(person)).stdout)
    assert (document["error_code"], document["status"]) == (error, 403)
    assert document["request_id"]


def test_expired_token_is_reported_with_its_source(stack: Stack, tmp_path: Path) -> None:
    person = Person(stack)
    person.token = stack.cloud.token("olga", life_s=-3_600)
    ran = person.run("console", target(person))
    assert ran.returncode == 4
    assert "came from $CONSOLE_GATEWAY_TOKEN and expired 20" in ran.stderr
    file = tmp_path / "token"
    file.write_text(person.token + "\n")
    assert str(file) in person.run("servers", "--token-file", str(file)).stderr


def test_token_is_read_from_file_or_command(olga: Person, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(olga.token + "\n")
    with_mark = tmp_path / "token-with-byte-order-mark"
    with_mark.write_text(f"\ufeff{olga.token}\r\n", encoding="utf-8")
    for words in (
        ("--token-file", str(with_mark)),
        ("--token-command", f"cat {with_mark}"),
        ("--token-file", str(file)),
        ("--token-command", f"cat {file}"),
    ):
        ran = olga.run("console", *words, target(olga), CONSOLE_GATEWAY_TOKEN="")
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--token-file", "/nowhere"), "cannot be read"),
        (("--token-command", "false"), "failed"),
        (("--token-command", "true"), "no token"),
        (("--token-env", "UNSET_VARIABLE"), "no token in $UNSET_VARIABLE"),
        (("--gateway", "http://gateway.example"), "https"),
        (("--gateway", "gateway.example"), "http or https URL"),
        (("--gateway", "https://gateway.example:port"), "must be a URL"),
        (("--gateway", "https://[gateway.example"), "must be a URL"),
        (("--gateway", "http://127.0.0.1:99999"), "must be a URL"),
        (("--gateway", "https://gateway..example"), "must be a URL"),
        (("--gateway", "https://gateway example:443"), "http or https URL"),
    ],
)
def test_wrong_usage_is_reported(olga: Person, words: tuple[str, ...], message: str) -> None:
    ran = olga.run("console", *words, target(olga))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr


def test_unreachable_gateway_is_reported(olga: Person) -> None:
    ran = olga.run("console", "--gateway", "http://127.0.0.1:9", target(olga))
    assert ran.returncode == 6
    assert "is unreachable" in ran.stderr
    document = olga.run("servers", "--json", "--gateway", "http://127.0.0.1:9").stdout
    assert "is unreachable" in json.loads(document)["error_msg"]


def test_console_retries_within_its_time_limit(stack: Stack) -> None:
    person = Person(stack)
    stack.cloud.fail(stack.cloud.upstream, "unavailable", times=3)
    try:
        ran = person.run("console", "--fresh", target(person, 3))
        assert ran.returncode == 0, ran.stderr
        stack.cloud.fail(stack.cloud.upstream, "unavailable")
        with RoundTrips(stack.gateway) as trips:
            began = time.monotonic()
            ran = person.run("console", "--fresh", "--wait", "3", target(person, 3))
            took_s = time.monotonic() - began
        assert ran.returncode == 5, ran.stderr
        assert took_s < trips.limit_s(12.0)
    finally:
        stack.cloud.heal()


def test_help_lists_the_exit_codes() -> None:
    ran = programs.run("gateway", "console", "--help")
    assert ran.returncode == 0
    assert "  3  not permitted\n  4  not authenticated\n" in ran.stdout
