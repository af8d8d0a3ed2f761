"""`gateway demo`: it starts, its printed commands work, and it removes everything when it ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import valkey
from playwright.sync_api import expect

from gateway.drivers.valkey.embedded import EmbeddedValkey
from tests.support.browser import CHROMIUM, ConsoleTab, open_browser
from tests.support.programs import Program
from tests.support.stack import (
    START_TIMEOUT_S,
    TIMEOUT_S,
    Response,
    console_path,
    eventually,
    fetch,
)

KEYS = {
    "gateway", "admin", "issuer", "iam", "upstream", "redis", "project_id", "servers", "proxied",
    "tokens",
}  # fmt: skip


class Demo:
    """A running demo; all its temporary files are in one directory."""

    def __init__(self, *command: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="demo-"))
        self._errors = (self.directory.parent / f"{self.directory.name}.err").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "TMPDIR": str(self.directory)},
            text=True,
        )
        self.children: set[int] = set()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.line())
        self.children = descendants(self.process.pid)
        return facts

    def text(self) -> str:
        """Read the output up to its last command."""
        lines = [self.line()]
        while lines[-1] and "; gateway console " not in lines[-1]:
            lines.append(self.line())
        self.children = descendants(self.process.pid)
        return "".join(lines)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def errors(self) -> str:
        return Path(self._errors.name).read_text()

    def leftovers(self) -> list[str]:
        """Return the names of remaining processes and files."""
        files = [str(path) for path in self.directory.rglob("*")]
        return [f"process {pid}" for pid in self.children if is_alive(pid)] + files

    def close(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(TIMEOUT_S)
        for pid in self.children | {self.process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        eventually(lambda: not any(is_alive(pid) for pid in self.children))
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()
        Path(self._errors.name).unlink()
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def demo() -> Iterator[Demo]:
    running = Demo("-m", "gateway", "demo", "--json")
    yield running
    running.close()


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    with suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def console(facts: dict[str, Any], role: str, server: str) -> Response:
    path = console_path(facts["project_id"], server)
    return fetch(
        facts["gateway"], "GET", path, {"Authorization": f"Bearer {facts['tokens'][role]}"}
    )


def post(facts: dict[str, Any], role: str, path: str, body: object) -> dict[str, Any]:
    headers = {
        "Authorization": f"Bearer {facts['tokens'][role]}",
        "Content-Type": "application/json",
    }
    response = fetch(facts["gateway"], "POST", path, headers, json.dumps(body))
    assert response.status in (200, 201), response.body
    found: dict[str, Any] = response.json
    return found


def test_demo_serves_consoles_and_removes_everything(demo: Demo) -> None:
    facts = demo.facts()
    assert set(facts) == KEYS
    allowed, denied = facts["servers"]["allowed"], facts["servers"]["denied"]
    assert set(facts["tokens"]) == {"operator", "viewer", "outsider", "approver", "admin"}
    for server in allowed:
        response = console(facts, "operator", server)
        assert response.status == 200
        assert response.json["url"].startswith("https://cn-east-3-console.huaweicloud.com")
    for server in denied:
        assert console(facts, "operator", server).status == 403
    for role in ("viewer", "outsider"):
        for server in (*allowed, *denied):
            assert console(facts, role, server).status == 403
    assert fetch(facts["admin"], "GET", "/readyz").status == 200
    with valkey.Valkey(unix_socket_path=facts["redis"].removeprefix("unix://")) as client:
        assert client.ping()

    assert demo.end(signal.SIGTERM) == 0
    assert demo.errors() == ""
    assert demo.line() == ""
    assert demo.leftovers() == []
    for name in ("gateway", "admin", "issuer", "iam", "upstream"):
        with pytest.raises(OSError, match="refused"):
            fetch(facts[name], "GET", "/")


def test_demo_delivers_proxied_for_one_account_only(demo: Demo) -> None:
    facts = demo.facts()
    direct = console(facts, "operator", facts["servers"]["allowed"][0])
    assert "#" not in direct.json["url"]
    path = console_path(facts["proxied"]["project_id"], facts["proxied"]["server"])
    headers = {"Authorization": f"Bearer {facts['tokens']['operator']}"}
    urls = [fetch(facts["gateway"], "GET", path, headers).json["url"] for _ in range(2)]
    assert [url.partition("#")[0] for url in urls] == [facts["gateway"] + "/console"] * 2
    assert urls[0] != urls[1]
    assert fetch(facts["gateway"], "GET", "/console").status == 200

    operators = fetch(facts["admin"], "GET", "/login/demo")
    assert operators.headers["location"].startswith(f"{facts['issuer']}/authorize?")
    assert fetch(facts["admin"], "GET", "/").status == 200

    viewer = {"Authorization": f"Bearer {facts['tokens']['viewer']}"}
    assert fetch(facts["gateway"], "GET", path, viewer).status == 403
    wanted = {
        "role": "operator",
        "project_id": facts["proxied"]["project_id"],
        "server_ids": [facts["proxied"]["server"]],
        "duration_s": 900,
        "reason": "new disk",
    }
    made = post(facts, "viewer", "/requests", wanted)
    approve = f"/requests/{made['id']}/approve"
    assert post(facts, "approver", approve, {"hash": made["hash"]})["in_force"]
    assert fetch(facts["gateway"], "GET", path, viewer).status == 200


@pytest.mark.skipif(CHROMIUM is None, reason="requires Debian's package chromium")
def test_last_command_opens_a_console_that_a_revocation_ends() -> None:
    """The end of the tutorial: the browser shows the console, then why it has ended."""
    demo = Demo("-m", "gateway", "demo")
    try:
        last = demo.text().rstrip().splitlines()[-1].strip()
        address = run(last, demo.directory.parent)[1].strip()
        with open_browser() as browser:
            tab = ConsoleTab(browser.new_page())
            tab.open(address)
            tab.type("olga\n\nhelp\n")
            revoke = 'gateway admin revoke --issuer demo --subject olga --reason "end of the tour"'
            assert run(f"{last.partition(';')[0]}; {revoke}", demo.directory.parent)[0] == 0
            tab.wait_for_state("ended")
            title = tab.page.get_by_role("heading", level=1)
            expect(title).to_have_text("Your permission for this console has ended.")
            assert tab.problems == []
        assert demo.end() == 0
        assert demo.leftovers() == []
    finally:
        demo.close()


class Terminal:
    """A command on a pseudo-terminal, into which the test types nothing."""

    def __init__(self, *words: str, environ: dict[str, str]) -> None:
        ours, theirs = os.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        everything = {**os.environ, **environ}
        self._running = Program[bytes]("gateway", *words, env=everything, **streams)
        os.close(theirs)
        self._shown: list[bytes] = []
        self._reader = threading.Thread(target=self._read, args=(ours,))
        self._reader.start()

    @property
    def text(self) -> str:
        return b"".join(self._shown).decode()

    def wait_for(self, pattern: str) -> str:
        eventually(lambda: re.search(pattern, self.text) is not None, lambda: self.text)
        found = re.search(pattern, self.text)
        assert found is not None
        return found[1]

    def end(self) -> str:
        """Return the output of a command that ends well; one that waits for input fails here."""
        code = self._running.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        assert code == 0, self.text
        return self.text

    def _read(self, terminal: int) -> None:
        with os.fdopen(terminal, "rb", buffering=0) as source, suppress(OSError):
            while chunk := source.read(4_096):
                self._shown.append(chunk)


@pytest.mark.skipif(CHROMIUM is None, reason="requires Debian's package chromium")
def test_login_to_live_console_needs_one_approval(demo: Demo, tmp_path: Path) -> None:
    """The whole path of a person: nothing is typed in the terminal, and one page is clicked."""
    facts, opened = demo.facts(), tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}.new; mv {opened}.new {opened}\n')
    program.chmod(0o700)
    environ = {
        "CONSOLE_GATEWAY_URL": facts["gateway"],
        "CONSOLE_GATEWAY_TOKEN": "",
        "XDG_CONFIG_HOME": str(tmp_path),
        "BROWSER": f"{program} %s",
    }
    live = f"{facts['proxied']['project_id']}/{facts['proxied']['server']}"

    def address() -> str:
        eventually(opened.exists)
        found = opened.read_text().strip()
        opened.unlink()
        return found

    with open_browser() as browser:
        tab = ConsoleTab(browser.new_page())
        login = Terminal("login", environ=environ)
        tab.page.goto(address())
        tab.page.get_by_role("link", name="olga").click()  # the approval
        expect(tab.page.locator("body")).to_contain_text("You can close this window")
        assert "as olga (demo)" in login.end()

        console = Terminal("console", live, environ=environ)
        tab.open(address())
        assert "Opened; the link expires in" in console.end()
        tab.type("olga\n")
        assert tab.problems == []
        assert Terminal("logout", environ=environ).end()

        # On a machine without a browser: one code is copied, and one page is clicked.
        login = Terminal("login", "--device", environ=environ)
        tab.page.goto(login.wait_for(r"On any device, open (\S+)\s"))
        tab.page.get_by_label("Code").fill(login.wait_for(r"enter the code (\S+)\s"))
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("link", name="olga").click()
        assert "as olga (demo)" in login.end()
        printed = Terminal("console", "--print", live, environ=environ).end()
        assert f"{facts['gateway']}/console#" in printed
        assert not opened.exists()


def test_demo_files_are_readable_by_owner_only(demo: Demo) -> None:
    demo.facts()
    written = list(demo.directory.rglob("*"))
    assert {path.name for path in written} >= {"gateway.yaml", "policy.yaml", "seal-key", "env"}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


WITH_PORT = "from gateway.demo.run import run_demo; run_demo(as_json=True, port={port})"
LOST_RACE = """
from gateway.demo import run as demo
free_port, first = demo._free_port, [{port}]
demo._free_port = lambda wanted: first.pop() if first else free_port(wanted)
demo.run_demo(as_json=True)
"""


@pytest.mark.parametrize(
    "code", [WITH_PORT, LOST_RACE], ids=["taken before", "taken between check and start"]
)
def test_demo_uses_another_port_if_taken(code: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        demo = Demo("-c", code.format(port=port))
        try:
            facts = demo.facts()
            assert not facts["gateway"].endswith(f":{port}")
            assert console(facts, "operator", facts["servers"]["allowed"][0]).status == 200
            assert demo.end() == 0
            assert demo.leftovers() == []
        finally:
            demo.close()


def test_printed_commands_work() -> None:
    demo = Demo("-m", "gateway", "demo")
    try:
        text = demo.text()
        source = re.search(r"^  (\. \S+/env)$", text, re.MULTILINE)
        assert source is not None, text + demo.errors()
        commands = re.findall(
            r"^  ((?:curl|gateway (?:servers|console(?! --token)|explain|check|admin|audit)).*)$",
            text,
            re.MULTILINE,
        )
        try_a_request(text, source[1], demo.directory.parent)
        results = [run(f"{source[1]}; {command}", demo.directory.parent) for command in commands]
        statuses = [output.split(" ")[1] for _, output in results[:5]]
        assert statuses == ["200", "200", "403", "403", "403"]
        listed, printed, page, switched, explained, denied, checked, counted = results[5:13]
        sessions, revoked, locked, overrides, found, intact = results[13:]
        assert listed[1].count("server:power") == 7
        assert printed[1].startswith("https://")
        assert json.loads(page[1])["count"] == 4
        assert switched[1].startswith("HTTP/1.1 200 ")
        assert explained[0] == 0
        assert explained[1].startswith("ALLOWED by ")
        assert denied[0] == 3
        assert denied[1].startswith("DENIED: ")
        assert checked[0] == 0
        assert re.search(r"account demo.*: ok", checked[1]), checked[1]
        assert 'gateway_links_total{account="demo",source="upstream"} 2.0' in counted[1]
        assert "olga" in sessions[1]
        assert (revoked[0], "kind" in revoked[1]) == (0, False), revoked
        assert (locked[0], "until unlocked" in locked[1]) == (0, True), locked
        assert "revoked_subject issuer=demo subject=otto" in overrides[1]
        assert "lock issuer=demo subject=victor" in overrides[1]
        (gateway,) = re.findall(r"^  gateway +(http\S+)$", text, re.MULTILINE)
        viewer = re.findall(r"^  viewer +(\S+)$", text, re.MULTILINE)[0]
        headers = {"Authorization": f"Bearer {viewer}"}
        assert fetch(gateway, "GET", "/v1/nothing", headers).error_code == "CGW.4034"
        assert found[1].count("console_link_issued  allowed  demo/olga") == 3
        assert intact[0] == 0
        assert "last signed checkpoint: " in intact[1]
        tokens = re.findall(r"^  (operator|viewer|outsider|admin) +(e\S+)$", text, re.MULTILINE)
        for role, token in tokens:
            output = run(f'{source[1]}; printf %s "${role.upper()}"', demo.directory.parent)
            assert output == (0, token)
        assert len(tokens) == 4
        # On a terminal the last command opens the browser; here it prints the address.
        last = text.rstrip().splitlines()[-1].strip()
        addresses = [run(last, demo.directory.parent) for _ in range(2)]
        assert all(re.fullmatch(gateway + r"/console#\S+\n", one[1]) for one in addresses)
        assert addresses[0] != addresses[1]
        assert demo.end(signal.SIGINT) == 0
        assert demo.leftovers() == []
    finally:
        demo.close()


def try_a_request(text: str, source: str, directory: Path) -> None:
    """Run the printed commands of an access request, each with the ID of the request."""
    story = re.findall(r"^  (gateway (?:requests|console --token-env) .*)$", text, re.MULTILINE)
    refused, create, waiting, approve, opened, end = (f"{source}; {one}" for one in story)
    code, said = run(f"{refused} 2>&1", directory)
    assert code == 3
    assert "gateway requests rules" in said
    made = json.loads(run(f"{create} --json", directory)[1])
    assert made["id"] in run(waiting, directory)[1]
    decision = approve.replace(" ID", f" {made['id']} --hash {made['hash']}")
    assert run(decision, directory)[0] == 0
    code, address = run(opened, directory)
    assert (code, "/console#" in address) == (0, True)
    assert run(end.replace(" ID", f" {made['id']}"), directory)[0] == 0


def run(command: str, directory: Path) -> tuple[int, str]:
    """Run a pasted command in another directory."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_demo_stopped_during_start_removes_everything(demo: Demo) -> None:
    eventually(lambda: any(demo.directory.glob("gateway-demo-*/gateway.log")))
    demo.children = descendants(demo.process.pid)
    assert demo.end(signal.SIGTERM) == 0
    assert demo.leftovers() == []


def test_second_signal_does_not_interrupt_cleanup(demo: Demo) -> None:
    demo.facts()
    demo.process.send_signal(signal.SIGINT)
    demo.process.send_signal(signal.SIGINT)
    assert demo.end(signal.SIGTERM) == 0
    assert demo.leftovers() == []


def test_demo_reports_a_gateway_that_dies(demo: Demo) -> None:
    demo.facts()
    (supervisor,) = [
        pid for pid in demo.children if b"serve" in command_of(pid) and children_of(pid)
    ]
    os.kill(supervisor, signal.SIGKILL)
    assert demo.process.wait(TIMEOUT_S) == 1
    assert "The gateway ended unexpectedly" in demo.errors()
    eventually(lambda: demo.leftovers() == [], demo.leftovers)


def test_killed_demo_leaves_no_processes(demo: Demo) -> None:
    demo.facts()
    assert len(demo.children) >= 3  # valkey, the gateway, its worker
    demo.process.kill()
    eventually(lambda: not any(is_alive(pid) for pid in demo.children), demo.leftovers)


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def children_of(pid: int) -> set[int]:
    return descendants(pid)


def test_embedded_valkey_is_ready_and_removes_everything() -> None:
    with EmbeddedValkey() as server:
        directory, pid = server.socket.parent, server.pid
        assert pid is not None
        with valkey.Valkey(unix_socket_path=str(server.socket)) as client:
            assert client.set("a", "b")
            assert client.config_get("save") == {"save": ""}
        assert directory.stat().st_mode & 0o077 == 0
    assert not is_alive(pid)
    assert not directory.exists()


def test_embedded_valkey_reports_a_failed_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    too_long = tmp_path / ("x" * 120)  # the path of a socket is limited to 108 bytes
    too_long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(too_long))
    with pytest.raises(RuntimeError, match="the embedded Valkey did not start"):
        EmbeddedValkey().__enter__()
    assert list(too_long.iterdir()) == []
