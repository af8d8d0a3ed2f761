"""The commands for people and scripts, as they are typed, against the real thing."""

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import CloudProcess, Stack, eventually, fetch

CLIENT = (sys.executable, "-m", "gateway")


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
        environ = {**os.environ, "CONSOLE_GATEWAY_URL": self.stack.gateway.url}
        return {**environ, "CONSOLE_GATEWAY_TOKEN": self.token, **more}

    def types(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [*CLIENT, *words],
            env=self.environ(**environ), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert self.token not in ran.stdout + ran.stderr
        return ran

    def at_a_terminal(self, *words: str, **environ: str) -> tuple[int, str]:
        """Return the exit code and all that a terminal shows."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*CLIENT, *words],
            env=self.environ(**environ), stdin=theirs, stdout=theirs, stderr=theirs,
        ) as running:  # fmt: skip
            os.close(theirs)
            shown = b""
            while True:
                try:
                    part = os.read(ours, 4096)
                except OSError:  # how a terminal says that nobody is left
                    break
                if not part:
                    break
                shown += part
            os.close(ours)
        assert self.token.encode() not in shown
        return running.returncode, shown.decode()


@pytest.fixture
def olga(stack: Stack) -> Person:
    return Person(stack)


def target(person: Person, server: int = 0) -> str:
    return f"{person.cloud.project}/{person.cloud.servers[server]}"


def test_a_script_is_given_the_link_and_nothing_else(olga: Person) -> None:
    ran = olga.types("console", target(olga))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(r"https://\S+token=\S+\n", ran.stdout)
    told = json.loads(olga.types("console", "--json", target(olga)).stdout)
    assert told["url"] == ran.stdout.strip()
    assert 0 < told["expires_in_s"] <= 300
    fresh = olga.types("console", "--fresh", target(olga))
    assert fresh.stdout != ran.stdout


def test_a_server_may_be_named_by_its_name(olga: Person) -> None:
    name = f"bms-{olga.cloud.servers[1][:8]}"
    told = json.loads(olga.types("console", "--json", f"{olga.cloud.project}/{name}").stdout)
    assert told["server_id"] == olga.cloud.servers[1]
    hidden = olga.types("console", f"{olga.cloud.project}/bms-{olga.cloud.servers[-1][:8]}")
    missing = olga.types("console", f"{olga.cloud.project}/nobody")
    assert hidden.returncode == missing.returncode == 2
    assert "No server visible to you" in hidden.stderr


def test_at_a_terminal_the_browser_opens(olga: Person, tmp_path: Path) -> None:
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o700)
    code, shown = olga.at_a_terminal("console", target(olga), BROWSER=f"{browser} %s")
    assert code == 0, shown
    assert "the link expires in" in shown
    eventually(seen.exists)
    eventually(lambda: seen.read_text().startswith("https://"))


def test_whoever_waits_sees_for_how_long(stack: Stack) -> None:
    person = Person(stack)
    stack.cloud.settings(latency_s=[2.4, 2.5])
    try:
        code, shown = person.at_a_terminal("console", "--print", "--fresh", target(person, 2))
    finally:
        stack.cloud.settings(latency_s=[0.0, 0.01])
    assert code == 0, shown
    assert "waiting for the gateway" in shown
    assert "budget … 2 s" in shown
    assert shown.rpartition("\x1b[K")[2].strip().startswith("https://"), "the line is wiped"


def test_servers_tells_what_may_be_seen_and_done(stack: Stack) -> None:
    cloud = stack.cloud
    told = json.loads(Person(stack).types("servers", "--json").stdout)["servers"]
    assert {one["id"] for one in told} == set(cloud.servers[:-1])
    assert {tuple(one["permissions"]) for one in told} == {("console:open", "server:read")}
    assert {one["project_id"] for one in told} == {cloud.project}
    shown = Person(stack, "victor", "viewers").types("servers", cloud.project).stdout.splitlines()
    assert shown[0].split() == ["PROJECT", "SERVER", "NAME", "POWER", "HEALTH", "PERMISSIONS"]
    assert len(shown) == 1 + len(cloud.servers)
    assert all(line.endswith("server:read") for line in shown[1:])
    nothing = Person(stack, "otto", "nobody").types("servers")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "No server is visible" in nothing.stderr


def test_a_name_cannot_steer_the_terminal(stack: Stack) -> None:
    body = json.dumps({"id": stack.cloud.servers[4], "name": "\x1b[2Jgone"})
    headers = {"Content-Type": "application/json"}
    assert fetch(stack.cloud.upstream, "POST", "/_box/servers", headers, body).status == 200
    person = Person(stack)
    eventually(lambda: "[2Jgone" in person.types("servers").stdout)  # a list serves for 5 s
    assert "\x1b" not in person.types("servers").stdout


@pytest.mark.parametrize(
    ("who", "code", "error"), [("viewers", 3, "CGW.4030"), ("nobody", 3, "CGW.4030")]
)
def test_a_refusal_has_its_exit_code_and_its_request_id(
    stack: Stack, who: str, code: int, error: str
) -> None:
    person = Person(stack, "someone", who)
    ran = person.types("console", target(person))
    assert (ran.returncode, ran.stdout) == (code, "")
    assert re.search(rf"\(error_code {error}, request_id \S+\)", ran.stderr)
    told = json.loads(person.types("console", "--json", target(person)).stdout)
    assert (told["error_code"], told["status"]) == (error, 403)
    assert told["request_id"]


def test_an_expired_token_is_told_with_its_source(stack: Stack, tmp_path: Path) -> None:
    person = Person(stack)
    person.token = stack.cloud.token("olga", life_s=-3_600)
    ran = person.types("console", target(person))
    assert ran.returncode == 4
    assert "came from $CONSOLE_GATEWAY_TOKEN and expired 20" in ran.stderr
    file = tmp_path / "token"
    file.write_text(person.token + "\n")
    assert str(file) in person.types("servers", "--token-file", str(file)).stderr


def test_the_token_comes_from_a_file_or_a_command(olga: Person, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(olga.token + "\n")
    for words in (("--token-file", str(file)), ("--token-command", f"cat {file}")):
        ran = olga.types("console", *words, target(olga), CONSOLE_GATEWAY_TOKEN="")
        assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--token-file", "/nowhere"), "cannot be read"),
        (("--token-command", "false"), "failed"),
        (("--token-command", "true"), "no token"),
        (("--token-env", "NOWHERE"), "no token in $NOWHERE"),
        (("--gateway", "http://gateway.example"), "https"),
        (("--gateway", "gateway.example"), "http or https URL"),
        (("--gateway", "https://gateway.example:port"), "must be a URL"),
        (("--gateway", "https://[gateway.example"), "must be a URL"),
        (("--gateway", "http://127.0.0.1:99999"), "must be a URL"),
        (("--gateway", "https://gateway..example"), "must be a URL"),
        (("--gateway", "https://gateway example:443"), "http or https URL"),
    ],
)
def test_a_wrong_use_is_told(olga: Person, words: tuple[str, ...], message: str) -> None:
    ran = olga.types("console", *words, target(olga))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr


def test_a_gateway_that_is_not_there_is_told(olga: Person) -> None:
    ran = olga.types("console", "--gateway", "http://127.0.0.1:9", target(olga))
    assert ran.returncode == 6
    assert "is unreachable" in ran.stderr
    told = olga.types("servers", "--json", "--gateway", "http://127.0.0.1:9").stdout
    assert "is unreachable" in json.loads(told)["error_msg"]


def test_it_comes_again_when_it_is_told_to_and_gives_up_in_time(stack: Stack) -> None:
    person = Person(stack)
    stack.cloud.fail(stack.cloud.upstream, "unavailable", times=3)
    try:
        ran = person.types("console", "--fresh", target(person, 3))
        assert ran.returncode == 0, ran.stderr
        stack.cloud.fail(stack.cloud.upstream, "unavailable")
        began = time.monotonic()
        ran = person.types("console", "--fresh", "--wait", "3", target(person, 3))
        assert ran.returncode == 5, ran.stderr
        assert time.monotonic() - began < 12
    finally:
        stack.cloud.heal()


def test_help_tells_the_exit_codes() -> None:
    ran = subprocess.run([*CLIENT, "console", "--help"], capture_output=True, text=True, check=True)
    assert "  3  not permitted\n  4  not authenticated\n" in ran.stdout
